"""Collections: pyapi, BEIR folders, any ir_datasets dataset; splits and the leak guard."""

import gzip
import json
from pathlib import Path

import ir_datasets
import pytest

from qedistill.collection import (
    Split,
    check_leak,
    describe,
    load_dataset,
    pyapi,
    read_documents,
    read_splits,
)
from qedistill.collection.memory import Docs, JudgedQueries, TitledDoc
from qedistill.errors import UserError
from qedistill.params import Collection
from qedistill.tally import Tally
from qedistill.words import plain

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "recordings/pyapi"


def collection(
    source: str, path: Path | str, train: str | None, tests: dict[str, str], validation: float = 0.2,
    train_queries: int | None = None,
) -> Collection:  # fmt: skip
    return Collection(
        source=source, path=str(path), train=train, train_queries=train_queries, tests=tests, validation=validation,
        language="en", document="a text",
    )  # fmt: skip


@pytest.fixture(scope="module")
def pyapi_splits() -> dict[str, Split]:
    params = collection("pyapi", RECORDINGS, "pyapi/train", {"unseen": "pyapi/test-unseen", "seen": "pyapi/test-seen"})
    return read_splits(params, {"dev-020", "text-003"}, seed=42, tally=Tally())


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    docs = [{"_id": f"d{i}", "title": f"title {i}", "text": f"text {i}"} for i in range(5)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(6)]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in docs))
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels/train.tsv").write_text(header + "q0\td0\t1\nq1\td1\t2\nq2\td2\t1\nq3\td9\t1\n")
    (tmp_path / "qrels/test.tsv").write_text(header + "q4\td4\t1\nq5\td0\t0\n")
    return tmp_path


def test_pyapi_documents_are_those_judged() -> None:
    docs = {doc.doc_id: doc for doc in pyapi.extract()}
    known = set((RECORDINGS / "doc_ids.txt").read_text().split())
    assert len(known - set(docs)) < 0.02 * len(known)
    assert all(3 <= len(doc.text.split()) <= 110 for doc in docs.values())
    assert docs["collections.Counter.most_common"].title == (
        "collections.Counter.most_common collections Counter most common"
    )
    assert list(docs) == sorted(docs)


def test_pyapi_splits(pyapi_splits: dict[str, Split]) -> None:
    assert {name: len(split.queries) for name, split in pyapi_splits.items()} == {
        "train": 243, "validation": 61, "unseen": 116, "seen": 119,
    }  # fmt: skip
    assert {"dev-020", "text-003"} <= set(pyapi_splits["train"].queries)
    assert not set(pyapi_splits["train"].queries) & set(pyapi_splits["validation"].queries)
    known = pyapi_splits["train"].qrels | pyapi_splits["validation"].qrels
    assert all(grades == known[i.removesuffix("-p")] for i, grades in pyapi_splits["seen"].qrels.items())


def test_pyapi_is_an_ir_datasets_dataset(pyapi_splits: dict[str, Split]) -> None:
    dataset = ir_datasets.load("pyapi/test-unseen")
    assert sum(1 for _ in dataset.queries_iter()) == 116
    assert next(dataset.qrels_iter()).relevance in (0, 1, 2, 3)


def test_other_package_versions_stop_pyapi(tmp_path: Path) -> None:
    for name in ("queries.tsv", "splits.tsv"):
        (tmp_path / name).write_text((RECORDINGS / name).read_text())
    (tmp_path / "qrels.txt").write_text("core-001 0 collections.Counter 3\ncore-001 0 numpy.no_such_thing 2\n")
    with pytest.raises(UserError, match="1 of 2 judged documents are not in the packages.*numpy.no_such_thing"):
        pyapi.register(tmp_path)


def test_validation_depends_on_the_seed_alone(beir: Path) -> None:
    params = collection("beir", beir, "train", {"test": "test"}, validation=0.5)
    first = read_splits(params, set(), 1, Tally())
    assert list(first) == ["train", "validation", "test"]
    assert len(first["train"].queries) == len(first["validation"].queries) == 2
    assert read_splits(params, set(), 1, Tally()) == first
    assert any(read_splits(params, set(), seed, Tally())["validation"] != first["validation"] for seed in range(2, 9))
    kept = read_splits(params, {"q0", "q1"}, 1, Tally())
    assert set(kept["validation"].queries) == {"q2", "q3"}


def test_training_queries_are_drawn_by_the_seed(beir: Path) -> None:
    params = collection("beir", beir, "train", {"test": "test"}, train_queries=2)

    def drawn(seed: int, *keep: str) -> set[str]:
        splits = read_splits(params, set(keep), seed, Tally())
        return {*splits["train"].queries, *splits["validation"].queries}

    assert drawn(1) == drawn(1) and len(drawn(1)) == 2
    assert len({frozenset(drawn(seed)) for seed in range(9)}) > 1
    assert all("q3" in drawn(seed, "q3") and len(drawn(seed, "q3")) == 2 for seed in range(9))


def test_a_drawn_training_query_is_no_test_query(beir: Path) -> None:
    with (beir / "queries.jsonl").open("a") as file:
        file.write('{"_id": "twin", "text": "Query 0."}\n')
    with (beir / "qrels/test.tsv").open("a") as file:
        file.write("twin\td0\t1\n")
    splits = read_splits(collection("beir", beir, "train", {"test": "test"}, train_queries=99), set(), 0, Tally())
    assert {*splits["train"].queries, *splits["validation"].queries} == {"q1", "q2", "q3"}


def test_beir_folder(beir: Path) -> None:
    params = collection("beir", beir, "train", {"test": "test"})
    docs = list(read_documents(params, Tally()))
    assert docs[0] == {"doc_id": "d0", "title": "title 0", "text": "text 0"}
    splits = read_splits(params, set(), 0, Tally())
    assert splits["test"].queries == {"q4": "query 4"}  # q5 has no relevant document
    figures = describe(splits, {doc["doc_id"] for doc in docs}, Tally())
    assert figures["documents"] == 5
    assert figures["train"]["dangling"] + figures["validation"]["dangling"] == 1


def test_gzip_beir_folder(beir: Path) -> None:
    for path in [beir / "corpus.jsonl", beir / "queries.jsonl", *beir.glob("qrels/*.tsv")]:
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    params = collection("beir", beir, "train", {"test": "test"})
    assert len(list(read_documents(params, Tally()))) == 5
    assert set(read_splits(params, set(), 0, Tally())["test"].queries) == {"q4"}


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d0", "text": "again"}',
            r"corpus.jsonl:6: document id d0 .*at .*corpus.jsonl:1 with",
        ),
        ("corpus.jsonl", '{"_id": "d 7", "text": "x"}', "corpus.jsonl:6: an id must be .*'d 7'"),
        ("corpus.jsonl", '{"_id": "d\\u0007", "text": "x"}', r"corpus.jsonl:6: an id must be .*'d\\x07'"),
        ("corpus.jsonl", '{"_id": "\\ud83d", "text": "x"}', r"corpus.jsonl:6: an id must be .*'\\ud83d'"),
        ("corpus.jsonl", '{"_id": true, "text": "x"}', "corpus.jsonl:6: an id must be .*True"),
        ("corpus.jsonl", '{"text": "x"}', "corpus.jsonl:6: an id must be .*None"),
        ("corpus.jsonl", '{"_id": "d7", "text": ["x"]}', r"corpus.jsonl:6: text must be a text, is \['x'\]"),
        ("corpus.jsonl", "{", "corpus.jsonl:6: not JSON"),
        ("corpus.jsonl", "<<<<<<< HEAD", "corpus.jsonl:6: not JSON: .*conflict marks"),
        ("queries.jsonl", '{"_id": "q0", "text": "x"}', r"queries.jsonl:7: query id q0 .*at .*queries.jsonl:1 with"),
        ("queries.jsonl", '{"_id": "q\\u00a09", "text": "x"}', "queries.jsonl:7: an id must be"),
        ("qrels/test.tsv", "q4\td1\t2.5", "test.tsv:4: not `query-id<TAB>corpus-id<TAB>score`"),
        ("qrels/test.tsv", "q4\td1\tnan", "test.tsv:4: "),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore", "test.tsv:4: "),
        ("qrels/test.tsv", "q4\td1", "test.tsv:4: not `query-id<TAB>corpus-id<TAB>score`"),
        ("qrels/test.tsv", "q4\td1\tgood", "test.tsv:4: "),
        ("qrels/test.tsv", "q4\td 1\t1", "test.tsv:4: not `query-id<TAB>corpus-id<TAB>score`"),
        ("qrels/test.tsv", "q4\t\t1", "test.tsv:4: "),
    ],
)
def test_bad_lines_of_a_beir_folder(beir: Path, file: str, line: str, message: str) -> None:
    with (beir / file).open("a") as out:
        out.write(line + "\n")
    params = collection("beir", beir, "train", {"test": "test"})
    with pytest.raises(UserError, match=message):
        read_splits(params, set(), 0, Tally())
        list(read_documents(params, Tally()))


def test_empty_corpus(beir: Path) -> None:
    (beir / "corpus.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no document"):
        list(read_documents(collection("beir", beir, "train", {"test": "test"}), Tally()))


def test_missing_files_and_ids(beir: Path) -> None:
    with pytest.raises(UserError, match="qrels/dev.tsv: no such file"):
        read_splits(collection("beir", beir, "dev", {"test": "test"}), set(), 0, Tally())
    with pytest.raises(UserError, match="knows no id no-such-dataset"):
        load_dataset(collection("no-such-dataset", beir, None, {"test": "x"}))


def test_any_ir_datasets_id(beir: Path) -> None:
    docs = [TitledDoc("a", "", "first"), TitledDoc("b", "", "second")]
    dataset = ir_datasets.Dataset(Docs(docs), JudgedQueries({"1": "one"}, {"1": {"a": 1}}))
    ir_datasets.registry.register("qedistill-test", dataset)
    params = collection("qedistill-test", beir, None, {"test": "qedistill-test"})
    assert [doc["doc_id"] for doc in read_documents(params, Tally())] == ["a", "b"]
    splits = read_splits(params, set(), 0, Tally())
    assert splits["train"].queries == splits["validation"].queries == {}
    assert splits["test"].qrels == {"1": {"a": 1}}


def test_leak_guard() -> None:
    assert plain("Sort, a  LIST!") == plain("sort a list") and plain("天上 为什么？") == plain("天上为什么")
    check_leak({"t": "sort a list"}, {"q": "sort two lists"}, "test")
    with pytest.raises(UserError, match=r"collection\.tests\.test: 1 of its queries stand in train too \(q = t\)"):
        check_leak({"t": "sort a list"}, {"q": "Sort a list?"}, "test")


def test_a_leak_stops_the_split(beir: Path) -> None:
    with (beir / "queries.jsonl").open("a") as file:
        file.write('{"_id": "leak", "text": "Query 0."}\n')
    with (beir / "qrels/test.tsv").open("a") as file:
        file.write("leak\td0\t1\n")
    with pytest.raises(UserError, match="leak = q0"):
        read_splits(collection("beir", beir, "train", {"test": "test"}), set(), 0, Tally())
