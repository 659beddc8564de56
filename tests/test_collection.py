"""Collections: pyapi, BEIR folders, any ir_datasets dataset; splits and the leak guard."""

import gzip
import json
import random
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ir_datasets
import pytest
from ir_datasets.formats import TrecSubQrel

from qedistill.collection import (
    Split,
    check_leak,
    describe,
    lacks_validation,
    load_dataset,
    pyapi,
    read_documents,
    read_splits,
    title_and_text,
)
from qedistill.collection.memory import Docs, JudgedQueries, TitledDoc
from qedistill.errors import UserError
from qedistill.params import Collection, load_params
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
    # Where no two queries have the same words, validation is a plain draw.
    free = sorted({*pyapi_splits["train"].queries, *pyapi_splits["validation"].queries} - {"dev-020", "text-003"})
    assert set(pyapi_splits["validation"].queries) == set(random.Random(42).sample(free, round(0.2 * 304)))
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


def write_lines(path: Path, records: Iterable[dict[str, Any] | str]) -> None:
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def test_documents_as_they_occur(beir: Path) -> None:
    write_lines(
        beir / "corpus.jsonl",
        [
            {"_id": "e1", "title": "", "text": "", "metadata": {}},
            {"_id": "e2", "title": "only a title", "text": None},
            "",
            {"id": 3, "text": "no title", "metadata": {"url": "x"}},
            {"_id": " e4 ", "title": None, "text": "two\x92words \ud83d \ufeffand\x1b[31m red"},
            {"_id": "e2", "title": "only a title"},
            '{"_id": "e5", "title": NaN, "text": 2012}',
            {"doc_id": "e6"},
        ],
    )
    tally = Tally()
    docs = list(read_documents(collection("beir", beir, "train", {"test": "test"}), tally))
    assert [tuple(doc.values()) for doc in docs] == [
        ("e2", "only a title", ""),
        ("3", "", "no title"),
        ("e4", "", "two words \ufffd and red"),
        ("e5", "", "2012"),
    ]
    assert tally.lines() == [
        "2 documents left out: no text (e1, e6)",
        "1 documents cleaned: characters that no file or terminal can hold (e4)",
        "1 documents merged: the same id and text (e2)",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "1\td0\t1\n2\td1\t0\n",
        "\ufeff1\td0\t1\r\n\r\n2\td1\t0\r\n",
        "query-id\tcorpus-id\tscore\n1\td0\t1.0\n2\td1\t0.0",
        '\ufeff\n"query-id"\t"corpus-id"\t"score"\n1\td0\t1\n2\td1\t-1\n',
        "query id\tdocument id\trelevance\n1 d0 1\n2 d1 0\n",
        "1 0 d0 1\n2\tQ0\td1\t0\n",
        "1 d0 0\n1 d0 1\n1 d0 1\n2 d1 0\n",
    ],
)
@pytest.mark.parametrize("name", ["mine.tsv", "mine.txt", "mine.tsv.gz"])
def test_judgments_as_they_occur(beir: Path, content: str, name: str) -> None:
    write_lines(beir / "queries.jsonl", [{"_id": 1, "text": "one"}, {"_id": "2", "text": "two"}])
    written = content.encode()
    (beir / "qrels" / name).write_bytes(gzip.compress(written) if name.endswith("gz") else written)
    tally = Tally()
    splits = read_splits(collection("beir", beir, None, {"test": "mine"}), set(), 0, tally)
    assert splits["test"] == Split({"1": "one"}, {"1": {"d0": 1}})
    merged = ["1 test: judgments overruled: a later one gives another grade (1)",
              "1 test: judgments merged: the same query, document and grade (1)"]  # fmt: skip
    assert tally.lines() == (merged if content.startswith("1 d0 0") else []) + [
        "1 test: judged queries left out: no relevant document (2)"
    ]


def test_queries_as_they_occur(beir: Path) -> None:
    write_lines(
        beir / "queries.jsonl",
        [
            {"_id": "q4", "text": "what\n is\u2028\x00this", "metadata": {}},
            {"_id": "q4", "text": "what is this"},
            {"_id": "q5", "text": None},
            {"_id": "q9", "text": "not judged"},
            {"_id": "q9", "text": "nor this"},
        ],
    )
    with (beir / "qrels/test.tsv").open("a") as file:
        file.write("gone\td0\t1\nq5\td1\t2\n")
    tally = Tally()
    splits = read_splits(collection("beir", beir, None, {"test": "test"}), set(), 0, tally)
    assert splits["test"].queries == {"q4": "what is this"}
    assert tally.figures() == {
        "test_queries_cleaned_characters_that_no_file_or_terminal_can_hold": 1,
        "test_queries_merged_the_same_id_and_text": 1,
        "test_judged_queries_left_out_no_text": 1,
        "test_judged_queries_left_out_no_query_has_their_id": 1,
    }


def test_judgments_of_other_queries(beir: Path) -> None:
    (beir / "qrels/prefix.tsv").write_text("test-q1\td0\t1\n")
    with pytest.raises(UserError, match=r"prefix.tsv:1: no query has the id test-q1, .*queries.jsonl:1 has q0"):
        read_splits(collection("beir", beir, None, {"test": "prefix"}), set(), 0, Tally())
    (beir / "queries.jsonl").write_text("")
    with pytest.raises(UserError, match="no query has the id q4, nor any other that is judged"):
        read_splits(collection("beir", beir, None, {"test": "test"}), set(), 0, Tally())


def test_no_document_has_a_text(beir: Path) -> None:
    write_lines(beir / "corpus.jsonl", [{"_id": "d", "contents": "of another format"}])
    with pytest.raises(UserError, match="no document with a title or a text"):
        list(read_documents(collection("beir", beir, "train", {"test": "test"}), Tally()))


def sample(kind: Any, name: str, at: int = 0) -> Any:
    """A value of an annotation whose every string is `name` and a number, in words of their own."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return sample(inner[0], name, at)
    if origin in (list, tuple) or kind in (list, tuple):
        values = [sample(inner[0] if inner else str, name, i) for i in range(2)]
        return values if (origin or kind) is list else tuple(values)
    if hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        return kind(*(sample(hints[field], f"{name}{field}", at) for field in kind._fields))
    if kind is bytes:
        return f"<html><head><title>w{name}</title></head><body>w{name}body</body></html>".encode()
    return f"w{name}{at}" if kind in (str, Any) else None


def classes_of(part: str) -> list[type]:
    found = {}
    for name in ir_datasets.registry:
        dataset = ir_datasets.registry[name]
        if getattr(dataset, f"has_{part}")():
            found[str(getattr(dataset, f"{part}_cls")())] = getattr(dataset, f"{part}_cls")()
    return list(found.values())


def test_every_document_class_of_ir_datasets_has_its_title_once() -> None:
    classes = classes_of("docs")
    assert len(classes) > 50
    for kind in classes:
        doc = sample(kind, "")
        title, text = title_and_text(doc)
        words = f"{title} {text}".split()
        if hasattr(kind, "default_text"):
            assert sorted(words) == sorted(doc.default_text().split()), kind
        assert (words.count(doc.title) == 1 and title == doc.title) if "title" in kind._fields else not title, kind
        assert words or kind.__name__ == "ToucheImageDoc"
        if "title" in kind._fields:  # a document may lack it
            assert title_and_text(doc._replace(title=None)) == ("", text), kind
            assert title_and_text(doc._replace(title="w"))[1] == text, kind


def test_a_field_that_is_missing_is_no_word() -> None:
    class Report(NamedTuple):
        doc_id: str
        title: str | None
        abstract: str | None
        anchors: list[str] | None

        def default_text(self) -> str:
            return f"{self.title} {self.abstract} " + " ".join(self.anchors or [])

    assert [part.strip() for part in title_and_text(Report("d", "Non", None, None))] == ["Non", ""]


def register(name: str, queries: dict[str, str], qrels: dict[str, dict[str, int]]) -> str:
    ir_datasets.registry.register(name, ir_datasets.Dataset(Docs([]), JudgedQueries(queries, qrels)))
    return name


def test_judgments_of_subtopics_are_merged(beir: Path) -> None:
    class Diversity(JudgedQueries):
        def qrels_iter(self):  # type: ignore[no-untyped-def]
            return iter([TrecSubQrel("1", "d", 0, "a"), TrecSubQrel("1", "d", 2, "b"), TrecSubQrel("1", "d", 1, "c")])

        def qrels_cls(self) -> type:
            return TrecSubQrel

    ir_datasets.registry.register("qedistill-sub", ir_datasets.Dataset(Docs([]), Diversity({"1": "one"}, {})))
    tally = Tally()
    splits = read_splits(collection("x", beir, None, {"test": "qedistill-sub"}), set(), 0, tally)
    assert splits["test"].qrels == {"1": {"d": 2}}
    assert list(tally.counts.values()) == [2]


def test_ids_of_different_datasets_are_told_apart(beir: Path) -> None:
    judged = {str(i): {"d": i} for i in range(1, 4)}
    train = register("qedistill-train", {"1": "one", "2": "two", "3": "three"}, judged)
    a = register("qedistill-a", {"1": "uno", "2": "dos", "4": "cuatro"}, {i: {"d": 7} for i in "124"})
    b = register("qedistill-b", {"1": "un", "3": "trois", "4": "cuatro", "2@a": "a trap", "2": "deux"}, judged | {"4": {"d": 8}, "2@a": {"d": 9}})  # fmt: skip
    tally = Tally()
    splits = read_splits(collection("x", beir, train, {"a": a, "b": b}), set(), 0, tally)
    assert splits["a"].queries == {"1@a": "uno", "2@a": "dos", "4": "cuatro"}
    assert splits["b"].queries == {"1@b": "un", "3@b": "trois", "4": "cuatro", "2@a@b": "a trap", "2@b": "deux"}
    assert splits["b"].qrels == {"1@b": {"d": 1}, "3@b": {"d": 3}, "4": {"d": 8}, "2@a@b": {"d": 9}, "2@b": {"d": 2}}
    assert {*splits["train"].queries, *splits["validation"].queries} == {"1", "2", "3"}
    assert tally.lines() == [
        "1 b: queries that a asks too (4)",
        "2 a: query ids with @a put behind: a split before has them for other texts (1, 2)",
        "4 b: query ids with @b put behind: a split before has them for other texts (1, 3, 2@a, …)",
    ]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_twins_stay_on_one_side_of_validation(beir: Path, share: float) -> None:
    texts = ["in C++", "in C#", "What is it?", "what is it", "WHAT is it", "a", "A", "b", "c", "d", "e", "f"]
    queries = {f"q{i:02}": text for i, text in enumerate(texts)}
    name = register(f"qedistill-twins{share}", queries, {i: {"d": 1} for i in queries})
    sizes = set()
    for seed in range(40):
        splits = read_splits(collection("x", beir, name, {"t": register(f"t{share}{seed}", {"9": "z"}, {"9": {"d": 1}})}, share), {"q05"}, seed, Tally())  # fmt: skip
        train, validation = (splits[part].queries for part in ("train", "validation"))
        assert not {plain(text) for text in train.values()} & {plain(text) for text in validation.values()}
        assert train | validation == queries and {"q05", "q06"} <= train.keys()
        sizes.add(len(validation))
    assert sizes == {round(12 * share)}


def test_a_validation_without_queries_is_told_where_it_is_needed() -> None:
    params = load_params(ROOT / "params.yaml")
    assert lacks_validation(params, {"train": 4, "validation": 1}) is None
    told = str(lacks_validation(params, {"train": 2, "validation": 0}))
    assert told.startswith("collection.validation: 0.2 of 2 training queries") and "raise it to 0.5, or" in told
    assert "judge more queries" in str(lacks_validation(params, {"train": 1, "validation": 0}))
    number = params.retrieval.model_copy(update={"query_weight": 3})
    assert not lacks_validation(params.model_copy(update={"retrieval": number}), {"train": 2, "validation": 0})
    untrained = params.collection.model_copy(update={"train": None})
    assert not lacks_validation(params.model_copy(update={"collection": untrained}), {"train": 0, "validation": 0})


def test_a_validation_of_all_training_queries(beir: Path) -> None:
    (beir / "qrels/one.tsv").write_text("q0 d0 1\n")
    with pytest.raises(UserError, match=r"collection.validation: 0\.9 of 1 training queries leaves none to train on"):
        read_splits(collection("beir", beir, "one", {"test": "test"}, 0.9), set(), 0, Tally())
