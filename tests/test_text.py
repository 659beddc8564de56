"""File formats: round trips, and errors that name file and line."""

import errno
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
        (text.read_qrels, "q1 0 d1 1\nq1 0 d1 2\n", 2),
        (text.read_qrels, "q1 0 d1 1\n=======\n", 2),
        (text.read_qrels, "q1 0 d1 1\nq1 0 17", 2),
        (text.read_queries, "q1\ta\nq 2\tb\n", 2),
        (text.read_run, "q1 Q0 d1 1 x tag\n", 1),
        (text.read_run, "q1 Q0 d1 1 nan tag\n", 1),
        (text.read_run, "q1 Q0 d1 1 2.5 tag\n\nq1 Q0 d2 2 1.", 3),
        (text.read_run, "q1 Q0 d1 1 2.5 tag\nq1 Q0 d1 2 1.5 tag\n", 2),
        (text.read_json, '{"a": 1,\n "b": \n', 3),
        (text.read_json, "", 1),
        (text.read_json, "[" * 100_000, 1),
        (lambda path: text.read_csv(path, ["loss"]), "loss\n1.5\nx\n", 3),
        (lambda path: text.read_csv(path, ["loss"]), "<<<<<<< HEAD\nloss\n1.5\n", 1),
        (lambda path: list(text.read_jsonl(path)), '{"a": 1}\n{"a": ' + "9" * 5000 + "}\n", 2),
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
    (tmp_path / ".qedistill-draft-a.json-abcd1234").mkdir()
    (tmp_path / ".qedistill-draft-a.json-abcd1234" / "a.json").touch()
    text.write_json(tmp_path / "a.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_other_programs_files_are_left_alone(tmp_path: Path) -> None:
    for name in (".a.json.swp", ".a.json.x1y2", ".#a.json", "a.json~", ".qedistill-draft-a.json-abcd1234"):
        (tmp_path / name).touch()
    for name in (
        ".a.json.bak",
        ".a.json.abcd1234",
        ".qedistill-draft-a.json-notes",
        ".qedistill-draft-b.json-abcd1234",
    ):
        (tmp_path / name).mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    text.write_json(tmp_path / "a.json", 1)
    assert {path.name for path in tmp_path.iterdir()} == before | {"a.json"}


def test_a_living_writers_folder_is_left_alone(tmp_path: Path) -> None:
    with text.atomic(tmp_path / "a.json") as slow:
        text.write_json(tmp_path / "a.json", 1)
        slow.write_text("2")
    assert (tmp_path / "a.json").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    text.write_json(tmp_path / "a.json", 1)
    with pytest.raises(UserError, match="a.json: cannot be written: No space left"), text.atomic(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a.json").read_text() == "1\n"


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\n", "p.yaml:2: not YAML"),
        (b"a: 1\na: 2\n", "p.yaml:2: not YAML"),
        (b"<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", "conflict marks"),
        (b"a: \xff\n", "not UTF-8"),
    ],
)
def test_what_is_no_yaml_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(UserError, match=said):
        text.read_yaml(tmp_path / "p.yaml")


def test_yaml_is_read_as_dvc_writes_it(tmp_path: Path) -> None:
    from dvc.utils.serialize import modify_yaml

    values = {"a": 5e-05, "b": 1e-6, "c": "no", "d": "on", "e": 1e22, "f": None, "g": "1e-5", "h": "5e-05", "i": "0o7",
              "j": [1.0, "y"], "k": "1:30", "l": "12_3"}  # fmt: skip
    (tmp_path / "p.yaml").write_text("# a comment\nz: 1\n")
    with modify_yaml(tmp_path / "p.yaml") as tree:
        tree.update(values)
    assert text.read_yaml(tmp_path / "p.yaml") == {"z": 1, **values}


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbfq1 0 d1 1\r\nq2 0 d2 1\r\n")
    assert text.read_qrels(tmp_path / "q.txt") == {"q1": {"d1": 1}, "q2": {"d2": 1}}


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(b"q1\t" + bytes(range(32, 127)))[:-12], b"\x1f\x8b\x08" + b"\0" * 30]
)
def test_a_broken_gzip_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.tsv.gz").write_bytes(content)
    with pytest.raises(UserError, match="q.tsv.gz: not a whole gzip file"):
        text.read_queries(tmp_path / "q.tsv.gz")


def test_conflict_marks_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{\n<<<<<<< HEAD\n "a": 1\n=======\n "a": 2\n>>>>>>> x\n}\n')
    with pytest.raises(UserError, match="m.json:2: not JSON: .*git has left conflict marks"):
        text.read_json(tmp_path / "m.json")


def test_runs_and_judgments_as_others_write_them(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("\ufeffq1\tQ0\td1\t1\t1e-05\tmy tag, of words\r\n\r\nq1  Q0 d2 2 -inf t\n")
    assert text.read_run(tmp_path / "run") == {"q1": {"d1": 1e-05, "d2": float("-inf")}}
    (tmp_path / "qrels").write_text("q1\t0\td1\t1.0\n\nq1 Q0 d2 -2\nq1 0 d1 1\n")
    assert text.read_qrels(tmp_path / "qrels") == {"q1": {"d1": 1, "d2": -2}}
