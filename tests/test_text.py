"""File formats: round trips, and errors that name file and line."""

import gzip
from pathlib import Path

import pytest

from qedistill import text
from qedistill.errors import UserError


def test_queries_round_trip(tmp_path: Path) -> None:
    queries = {"q1": "find  the\ttop ten", "q2": "查询"}
    text.write_queries(tmp_path / "q.tsv", queries)
    assert text.read_queries(tmp_path / "q.tsv") == {"q1": "find the top ten", "q2": "查询"}


def test_qrels_and_runs_round_trip(tmp_path: Path) -> None:
    qrels = {"q1": {"d1": 3, "d2": 0}, "q2": {"d9": 1}}
    text.write_qrels(tmp_path / "qrels.txt", qrels)
    assert text.read_qrels(tmp_path / "qrels.txt") == qrels
    run = {"q1": {"d2": 1.5, "d1": 2.25}}
    text.write_run(tmp_path / "run.trec", run, "bm25")
    assert (tmp_path / "run.trec").read_text() == "q1 Q0 d1 1 2.250000 bm25\nq1 Q0 d2 2 1.500000 bm25\n"
    assert text.read_run(tmp_path / "run.trec") == run


def test_gzip_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "q.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("q1\ta text\n")
    assert text.read_queries(tmp_path / "q.tsv.gz") == {"q1": "a text"}


@pytest.mark.parametrize(
    ("read", "content", "line"),
    [
        (text.read_queries, "q1\ta\nq2 b\n", 2),
        (text.read_queries, "q1\ta\nq1\tb\n", 2),
        (text.read_qrels, "q1 0 d1 1\nq1 0 d2 one\n", 2),
        (text.read_qrels, "q1 0 d1\n", 1),
        (text.read_run, "q1 Q0 d1 1 x tag\n", 1),
        (lambda path: list(text.read_jsonl(path)), '{"a": 1}\n\n[1]\n', 3),
        (lambda path: list(text.read_jsonl(path)), '{"a": 1\n', 1),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, read: object, content: str, line: int) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(UserError, match=f"file:{line}: "):
        read(path)  # type: ignore[operator]


def test_nothing_is_half_written(tmp_path: Path) -> None:
    text.write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])

    def broken():  # type: ignore[no-untyped-def]
        yield {"a": 2}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        text.write_jsonl(tmp_path / "a.jsonl", broken())
    assert list(text.read_jsonl(tmp_path / "a.jsonl")) == [{"a": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.x1y2").mkdir()
    text.write_json(tmp_path / "a.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_atomic_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with text.atomic(tmp_path / "out") as folder:
        folder.mkdir()
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]


def test_csv_takes_the_columns_named(tmp_path: Path) -> None:
    text.write_csv(tmp_path / "a.csv", [{"step": 1, "loss": 2.5, "more": 0}], ["step", "loss"])
    assert (tmp_path / "a.csv").read_text() == "step,loss\n1,2.5\n"
    text.write_csv(tmp_path / "a.csv", [], ["step", "loss"])
    assert (tmp_path / "a.csv").read_text() == "step,loss\n"


def test_cut_words() -> None:
    assert text.cut_words("a b  c", 2) == "a b"
    assert text.cut_words("a b  c", None) == "a b  c"


def test_two_han_characters_are_a_word() -> None:
    chinese = "雷电，是云层numpy.sort 的放电。 气象"
    assert text.count_words(chinese) == 6.0  # 雷电 是云 层…的 放电 气象, and numpy.sort
    assert [text.cut_words(chinese, n) for n in (1, 3, 4, 99)] == [
        "雷电，", "雷电，是云层", "雷电，是云层numpy.sort 的", chinese,
    ]  # fmt: skip
    long = "没有空格的文字" * 20
    assert all(text.count_words(text.cut_words(long, n)) == n for n in (1, 5, 60))
