"""The paper's benchmarks without their downloads: the libraries' registries, a small prebuilt index, published figures."""

import functools
import hashlib
import http.server
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ir_datasets
import pytest

from qedistill.errors import UserError
from qedistill.params import Params, load_params
from qedistill.published import compare, published
from qedistill.retrieval import fetch_documents, indexes, open_searcher
from qedistill.retrieval.jvm import java_class

ROOT = Path(__file__).parents[1]
NAME = "msmarco-v1-passage"
PASSAGES = {
    "0": "kestrel migration", "1": "kestrel falcon raptor talons", "2": "kestrel falcon raptor wings kestrel",
    "3": "falcon raptor nesting cliffs",
} | {str(n): f"number{n} painting" for n in range(4, 44)}  # fmt: skip


def profile(name: str) -> Params:
    return load_params(ROOT / f"profiles/{name}.yaml")


@pytest.mark.parametrize("name", ["trec-dl", "miracl-zh"])
def test_every_name_of_the_profiles_is_registered(name: str) -> None:
    params = profile(name)
    for dataset in (str(params.collection.train), *params.collection.tests.values()):
        found = ir_datasets.load(dataset)
        assert found.has_queries() and found.has_qrels()
    for split in ("train", *params.collection.tests):
        assert indexes.describe_prebuilt(str(params.index.of(split)))["documents"] > 4_000_000
    assert params.index.others == ({"dl21": "msmarco-v2-passage"} if name == "trec-dl" else {})
    analyzers = java_class("io.anserini.analysis.AnalyzerMap").analyzerMap.keySet().toArray()
    assert params.collection.language in {"en", *analyzers}


def test_published_figures() -> None:
    trec, miracl = profile("trec-dl"), profile("miracl-zh")
    assert published(trec, "dl19") == {"query": 0.5058, "rm3": 0.5216, "rocchio": 0.5275}
    assert published(trec, "dl20") == {"query": 0.4796, "rm3": 0.4896, "rocchio": 0.4910}
    assert published(trec, "dl21") == {"query": 0.4458, "rm3": 0.4455}
    assert published(miracl, "miracl-zh") == {"query": 0.1801}
    assert published(profile("pyapi"), "test-seen") == {}


def test_other_settings_are_another_condition() -> None:
    raw = profile("trec-dl").model_dump()
    raw["retrieval"] |= {
        "bm25": {"k1": 0.82, "b": 0.68},
        "rm3": {"fb_docs": 5, "fb_terms": 10, "original_query_weight": 0.5},
    }
    assert published(Params.model_validate(raw), "dl19") == {"query": 0.4973, "rocchio": 0.5275}
    raw["retrieval"]["bm25"] = {"k1": 1.2, "b": 0.75}
    assert published(Params.model_validate(raw), "dl19") == {}
    raw = profile("trec-dl").model_dump()
    raw["retrieval"]["ignore_identical_ids"] = True
    assert published(Params.model_validate(raw), "dl19") == {}


def test_a_difference_is_told() -> None:
    figures = {"query": {"ndcg@10": 0.5059}, "rm3": {"ndcg@10": 0.5}, "sft": {"ndcg@10": 0.6}}
    told = compare(figures, {"query": 0.5058, "rm3": 0.5216, "rocchio": 0.5275})
    assert told == ["rm3: nDCG@10 is 0.5000, published 0.5216 (-0.0216)"]
    assert figures["query"]["published"] == 0.5058 and "published" not in figures["sft"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index as pyserini packs that of MS MARCO: documents stored, neither positions nor document vectors."""
    folder = tmp_path_factory.mktemp("served")
    name = "lucene-inverted.mini.20221004.252b5e"
    options = ["-collection", "JsonCollection", "-input", "", "-index", str(folder / name), "-storeRaw"]
    indexer = java_class("io.anserini.index.SimpleIndexer")(options)
    indexer.addRawDocuments([json.dumps({"id": i, "contents": text}) for i, text in PASSAGES.items()])
    indexer.close()
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as tar:
        tar.add(folder / name, name)
    return folder / f"{name}.tar.gz"


@pytest.fixture
def served(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """pyserini's registry entry of the index, which here names a server of ours and the small archive."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry: dict[str, object] = {
        "filename": archive.name, "urls": [f"http://127.0.0.1:{server.server_port}/{archive.name}"],
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(), "size compressed (bytes)": archive.stat().st_size,
        "documents": len(PASSAGES),
    }  # fmt: skip
    monkeypatch.setitem(indexes._registry(), NAME, entry)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    yield entry
    server.shutdown()


def test_a_prebuilt_index_is_fetched_and_searched(served: dict[str, object]) -> None:
    params = profile("trec-dl")
    searcher = open_searcher(params, "dl19")
    served["urls"] = ["http://127.0.0.1:9/gone"]  # the second time it is there
    assert indexes.fetch_prebuilt(NAME).name.endswith(str(served["md5"]))
    plain = searcher.search({"q": "kestrel"}, 10)["q"]
    assert set(plain) == {"0", "1", "2"}
    for feedback in (params.retrieval.rm3, params.retrieval.rocchio):
        # Without document vectors the stored documents are analysed anew: feedback finds what shares no word.
        assert set(searcher.search({"q": "kestrel"}, 10, feedback)["q"]) == {"0", "1", "2", "3"}
    assert fetch_documents(params, "dl19", {"2", "none"}) == {"2": PASSAGES["2"]}
    with pytest.raises(UserError, match=f"none of the 1 judged documents of dl20 stands in {NAME}"):
        fetch_documents(params, "dl20", {"elsewhere"})


def test_a_damaged_download_stops(served: dict[str, object]) -> None:
    served["md5"] = "0" * 32
    with pytest.raises(UserError, match="does not match checksum"):
        indexes.fetch_prebuilt(NAME)


def test_unknown_names_and_full_disks(served: dict[str, object]) -> None:
    with pytest.raises(UserError, match="knows no Lucene index 'msmarco-v1-pasage'; near to it: .*msmarco-v1-passage"):
        indexes.describe_prebuilt("msmarco-v1-pasage")
    served["size compressed (bytes)"] = 10**18
    with pytest.raises(UserError, match="GB free"):
        indexes.fetch_prebuilt(NAME)
