"""A folder with the peculiarities of published BEIR sets goes through the stages, and figures are those of trec_eval."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from clone import copy_project, figures_again, run, run_stages, set_params
from test_profiles import OWN_MARKED, OWN_SIZES, STAGES, TOLD, change, check_figures, own_prompt
from tiny import make_tiny_qwen3

from qedistill.text import read_json, read_jsonl, read_qrels, read_queries, read_run
from qedistill.words import plain

TOPICS = [
    ("sort numbers", "Quicksort partitions an array of numbers around a pivot to sort it."),
    ("shortest path", "Dijkstra finds the shortest path between vertices of a graph."),
    ("compress file", "Huffman codes compress a file without loss."),
    ("hash lookup", "A hash table gives lookup of keys in constant time."),
    ("garbage memory", "A collector frees memory that is garbage."),
    ("parse source", "A compiler must parse source text into a tree."),
    ("in C++", "Templates in C++ are expanded by the compiler."),
    ("in C#", "Generics in C# are kept at run time."),
    ("balance tree", "Rotations balance a binary search tree."),
    ("lock thread", "A mutex lets one thread lock a resource."),
]


def write_lines(path: Path, records: Iterable[dict[str, Any] | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_bytes("".join(line + "\r\n" for line in lines).encode("utf-8-sig"))  # as Windows programs write


def make_wild(folder: Path) -> None:
    """Ten topics, each with a document dN and a query N, and what is odd in published sets."""
    documents: list[dict[str, Any] | str] = [
        {"_id": f"d{n}", "title": "", "text": text, "metadata": {"url": "x"}} for n, (_, text) in enumerate(TOPICS)
    ]
    documents += [
        {"_id": "7915", "title": "", "text": "", "metadata": {}},  # FiQA: 38 such, some of them judged
        {"_id": "12229", "title": "", "text": " ", "metadata": {}},
        {
            "_id": "0a1b",
            "title": "Coronavirus: a title alone",
            "text": None,
            "metadata": {"pubmed_id": ""},
        },  # TREC-COVID
        {"_id": 4983, "title": None, "text": "An export with ids as numbers"},  # MTEB's and pandas's exports
        {"_id": "test-thread-con01a", "title": "Threads", "text": "Threads should lock less often"},  # ArguAna
        {"_id": "11", "title": "", "text": "How can I balance a tree?"},  # Quora: queries are documents, some twice
        {"_id": "11", "title": "", "text": "How can I balance a tree?"},
        "",
    ]
    write_lines(folder / "corpus.jsonl", documents)
    queries: list[dict[str, Any] | str] = [{"_id": n, "text": text} for n, (text, _) in enumerate(TOPICS)]
    queries += [
        {"_id": "twin-a", "text": "How do I make a file smaller?", "metadata": {}},  # Quora, of the same words
        {"_id": "twin-b", "text": "how do i make a file smaller"},
        {"_id": "test-thread-con01a", "text": "Threads should lock less often"},  # ArguAna: id and text of a document
        {"_id": "PLAIN-1", "text": ""},
        {"_id": "PLAIN-3", "text": "judged without a relevant document"},
        {"_id": "8", "text": "balance tree"},
    ]
    write_lines(folder / "queries.jsonl", queries)
    train = [f"{n}\td{n}\t1" for n in range(6)] + ["twin-a\td2\t1", "twin-b\td2\t1", "5\td5\t1", "0\t7915\t1"]
    write_lines(folder / "qrels/train.tsv", train)  # no header: the first line, behind the mark, counts
    test = [
        "query-id\tcorpus-id\tscore",
        *(f"{n}\td{n}\t2.0" for n in range(6, 10)),
        "6\td7\t-1",  # TREC-COVID has such grades
        "8\t11\t1",
        "test-thread-con01a\td9\t1",
        "test-thread-con01a\ttest-thread-con01b\t1",  # ArguAna: judged, and not in the corpus
        "PLAIN-2\td1\t1",  # NFCorpus: judged, and not among the queries
        "PLAIN-1\td1\t1",
        "PLAIN-3\td1\t0",
    ]
    write_lines(folder / "qrels/test.tsv", test)


OF_COLLECTION = {
    "source": "beir", "path": "wild", "train": "train", "tests": {"test": "test"}, "validation": 0.25, "language": "en",
}  # fmt: skip


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("wild") / "project"
    copy_project(folder)
    make_wild(folder / "wild")
    set_params(folder, {"collection": OF_COLLECTION, "evaluation": {"relevance_level": 1, "bootstrap": 100}})
    return folder, run_stages(folder, "collection", "index", "retrieve --system query", "evaluate")


def test_what_is_left_out_is_told(wild: tuple[Path, str]) -> None:
    folder, output = wild
    told = {
        "test: judged queries left out: no query has their id": ("PLAIN-2", 1),
        "test: judged queries left out: no text": ("PLAIN-1", 1),
        "test: judged queries left out: no relevant document": ("PLAIN-3", 1),
        "test: queries merged: the same id and text": ("8", 1),
        "train: judgments merged: the same query, document and grade": ("5", 1),
        "documents left out: no text": ("7915, 12229", 2),
        "documents merged: the same id and text": ("11", 1),
        "test: judgments of documents not in the collection": ("test-thread-con01b", 1),
    }
    for reason, (names, count) in told.items():
        assert f"{count} {reason} ({names})" in output
    figures = read_json(folder / "metrics/collection.json")
    assert (
        figures["documents"] == len(TOPICS) + 4 == sum(1 for _ in read_jsonl(folder / "data/collection/corpus.jsonl"))
    )
    assert sum(figures["told"].values()) == sum(count for _, count in told.values()) + 1  # 7915 is judged, too
    assert sum(figures[split]["queries"] for split in ("train", "validation")) == 8
    assert figures["validation"]["queries"] == 2 and figures["test"]["queries"] == 5


def test_the_splits_are_whole(wild: tuple[Path, str]) -> None:
    folder, _ = wild
    queries = {n: read_queries(folder / f"data/collection/queries/{n}.tsv") for n in ("train", "validation", "test")}
    assert {**queries["train"], **queries["validation"]}["0"] == "sort numbers"
    assert not set(map(plain, queries["train"].values())) & set(map(plain, queries["validation"].values()))
    assert {"6": "in C++", "7": "in C#"}.items() <= queries["test"].items()
    assert read_qrels(folder / "data/collection/qrels/test.txt")["6"] == {"d6": 2, "d7": -1}


def test_figures_are_those_of_trec_eval(wild: tuple[Path, str]) -> None:
    folder, _ = wild
    found = read_json(folder / "metrics/evaluate/test/query.json")
    for name, value in figures_again(folder, "test")["query"].items():
        assert found[name] == pytest.approx(value, abs=1e-6)
    run = read_run(folder / "runs/test/query.trec")
    assert set(list(run["8"])[:2]) == {"d8", "11"} and next(iter(run["test-thread-con01a"])) == "test-thread-con01a"


def test_no_teacher_is_paid_where_validation_is_needed_and_has_no_query(tmp_path: Path) -> None:
    copy_project(tmp_path)
    make_wild(tmp_path / "wild")
    set_params(tmp_path, {"collection": OF_COLLECTION | {"validation": 0.05}})
    said = "collection.validation: 0.05 of 8 training queries leaves none for validation"
    assert f"WARNING: {said}" in run_stages(tmp_path, "collection")  # BM25 can be looked at all the same
    assert f"Error: {said}" in run(tmp_path, "env", "PYTHONPATH=src", "python", "stages/exemplars.py", fails=True)


@pytest.mark.slow
def test_the_profile_own_goes_through(tmp_path: Path) -> None:
    copy_project(tmp_path)
    make_wild(tmp_path / "wild")
    queries = {str(record["_id"]): str(record["text"]) for record in read_jsonl(tmp_path / "wild/queries.jsonl")}
    texts = {text: passage for text, passage in TOPICS} | {
        "How do I make a file smaller?": TOPICS[2][1], "how do i make a file smaller": TOPICS[2][1],
        "Threads should lock less often": TOPICS[9][1],
    }  # fmt: skip
    passages = list(texts.values())
    make_tiny_qwen3(tmp_path / "teacher", [(own_prompt(q), passage) for q, passage in texts.items()], queries.values())
    mixed = [(q, passages[(n + step) % len(passages)]) for n, q in enumerate(texts) for step in range(3)]
    make_tiny_qwen3(tmp_path / "student", mixed, queries.values(), seed=1)
    run(tmp_path, "qedistill", "use", "own")
    change(tmp_path, OWN_MARKED | OWN_SIZES | {
        "collection.path": "wild", "collection.validation": 0.25, "retrieval.ignore_identical_ids": True,
        "evaluation.relevance_level": 1, "teacher.exemplars.k": 2,
    })  # fmt: skip
    (tmp_path / "recordings/none").mkdir(parents=True)
    plan = run(tmp_path, "qedistill", "plan", "--check")
    assert "judged queries left out: no text (PLAIN-1)" in plan
    output = run_stages(tmp_path, *STAGES, *TOLD)
    check_figures(tmp_path, ["validation", "test"], level=1)
    runs = [read_run(path) for path in (tmp_path / "runs/test").glob("*.trec")]
    assert len(runs) == 8 and all("test-thread-con01a" not in found["test-thread-con01a"] for found in runs)
    told = read_json(tmp_path / "metrics/collection.json")["told"]
    assert all(reason in output for reason in ("judged queries left out: no text", "documents left out: no text"))
    assert told["documents_left_out_no_text"] == 2
