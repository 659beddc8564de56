"""File formats: one reader and one writer a kind. Everything is UTF-8; a `.gz` name is read as gzip."""

import copy
import csv
import errno
import fcntl
import functools
import gzip
import json
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from qedistill.errors import UserError
from qedistill.words import one_line

Queries = dict[str, str]  # query id -> text
Qrels = dict[str, dict[str, int]]  # query id -> doc id -> grade
Run = dict[str, dict[str, float]]  # query id -> doc id -> score

# What `atomic` calls its temporary folders: a name that no other program makes.
_DRAFT = ".qedistill-draft-{}-"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (file or folder) that becomes `path` if the block ends well, and vanishes if not.

    What a killed process left is removed by the next writer of the same path; it is told from a living one's by a lock
    that the kernel gives back.

    Raises:
        UserError: the disk is full, or the folder may not be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_drafts(path)
        with _draft_folder(path) as folder:
            target = folder / path.name
            yield target
            if path.is_dir() and not path.is_symlink() and target.exists():
                shutil.rmtree(path)
            os.replace(target, path)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(f"{path}: cannot be written: {error.strerror}; what stood there is left") from error
        raise


_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """A new folder beside a path, locked while it is ours, and removed."""
    while True:
        folder = tempfile.mkdtemp(dir=path.parent, prefix=_DRAFT.format(path.name))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(folder):  # else another writer took it for a leftover before it was locked
            break
        os.close(lock)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_drafts(path: Path) -> None:
    named = re.compile(re.escape(_DRAFT.format(path.name)) + r"[a-z0-9_]{8}")  # tempfile's own ending
    for folder in path.parent.iterdir():
        if not named.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a living process holds it
                shutil.rmtree(folder)
            finally:
                os.close(lock)


@contextmanager
def open_text(path: str | Path) -> Iterator[IO[str]]:
    """Open a text file for reading, plain or gzip, with or without a byte order mark.

    Raises:
        UserError: there is no such file, it may not be read, is a folder, not UTF-8, or no whole gzip file.
    """
    try:
        opened = gzip.open if str(path).endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); convert it with iconv") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file: {one_line(error)}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file, by the dialect in which DVC writes params.yaml (YAML 1.2: `5e-05` is a number, `no` a word).

    Raises:
        UserError: there is no such file, or it is no YAML; file and line are named.
    """
    with open_text(path) as file:
        return parse_yaml(file.read(), str(path))


@functools.lru_cache(maxsize=32)  # in pure Python dvc.lock takes a third of a second, and a stage asks for it often
def _load_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text, as `read_yaml` reads it; `name` is the text's in errors.

    Raises:
        UserError: it is no YAML.
    """
    try:
        return copy.deepcopy(_load_yaml(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = one_line(error.problem or error.context or "")
        raise UserError(f"{name}:{mark.line + 1 if mark else 1}: not YAML: {said}{_conflict(text)}") from None
    except (YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        raise UserError(f"{name}: not YAML: {one_line(error)}") from None


def _conflict(text: str) -> str:
    """What to say of git's conflict marks in a text that cannot be read, if there are any."""
    marked = re.search(r"^(<<<<<<<|=======|>>>>>>>)(\s|$)", text, re.MULTILINE)
    return "; git has left conflict marks in it: resolve them" if marked else ""


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, in order.

    Raises:
        UserError: a line holds no JSON object; file and line are named.
    """
    return (record for _, record in read_placed_jsonl(path))


def read_placed_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects as `read_jsonl` gives them, each after its place, "file:line", for errors.

    Raises:
        UserError: a line holds no JSON object; file and line are named.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
                raise UserError(f"{path}:{number}: not JSON: {one_line(error)}{_conflict(line)}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: not a JSON object; JSON Lines hold one a line")
            yield f"{path}:{number}", record


def write_jsonl(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON Lines, atomically."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        UserError: there is no such file, or it is no JSON; file and line are named.
    """
    with open_text(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        said = one_line(getattr(error, "msg", error))
        raise UserError(f"{path}:{line}: not JSON: {said}{_conflict(text)}") from None


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic(path) as target:
        target.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
    """Write the columns named, or else those of the first row, atomically; other keys are left out."""
    with atomic(path) as target, target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path, columns: list[str]) -> list[dict[str, float]]:
    """Columns of numbers of a CSV file; an empty cell gives no key, and a column that is not there none at all.

    Raises:
        UserError: there is no such file, or a cell holds no number; file and line are named.
    """
    with open_text(path) as file:
        lines = file.read().splitlines()
    rows = csv.DictReader(lines)
    if marked := next((number for number, line in enumerate(lines, 1) if _conflict(line)), None):
        raise UserError(f"{path}:{marked}: not CSV{_conflict(lines[marked - 1])}")
    try:
        return [{column: float(row[column]) for column in columns if row.get(column)} for row in rows]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}:{rows.line_num}: not CSV of numbers: {one_line(error)}") from None


def read_grade(text: str) -> int:
    """A grade of relevance; "1.0" is one, as programs that know no whole numbers write it.

    Raises:
        ValueError: it is no whole number.
    """
    if not _GRADE.fullmatch(text):
        raise ValueError(text)
    return int(text.partition(".")[0])


_GRADE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")


def read_queries(path: str | Path) -> Queries:
    """Queries of a TSV file `query_id<TAB>text`.

    Raises:
        UserError: a line without both, or an id that stood before; file and line are named.
    """
    queries: Queries = {}
    for number, line in _lines(path):
        query_id, _, text = line.partition("\t")
        if not (query_id.split() == [query_id] and text.strip()):
            raise UserError(f"{path}:{number}: not `query_id<TAB>text`: {line!r}{_conflict(line)}")
        if query_id in queries:
            raise UserError(f"{path}:{number}: query id {query_id} stands twice")
        queries[query_id] = text.strip()
    return queries


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, without their ends, each after its number."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def write_queries(path: str | Path, queries: Queries) -> None:
    """Write queries as TSV, atomically; white space inside a text becomes single spaces."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        file.writelines(f"{query_id}\t{' '.join(text.split())}\n" for query_id, text in queries.items())


def read_qrels(path: str | Path) -> Qrels:
    """Judgments of a TREC qrels file `query_id 0 doc_id grade`; blank lines do not count.

    Raises:
        UserError: a line has not four columns, its grade is no whole number, or it contradicts another; file and line
            are named.
    """
    qrels: Qrels = {}
    for number, line in _lines(path):
        try:
            query_id, _, doc_id, column = line.split()
            grade = read_grade(column)
        except ValueError:
            raise UserError(f"{path}:{number}: not `query_id 0 doc_id grade`: {line!r}{_conflict(line)}") from None
        if qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise UserError(f"{path}:{number}: {doc_id} is judged twice for {query_id}, differently")
    return qrels


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write judgments as TREC qrels, atomically."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        for query_id, grades in qrels.items():
            file.writelines(f"{query_id} 0 {doc_id} {grade}\n" for doc_id, grade in grades.items())


def read_run(path: str | Path) -> Run:
    """A TREC run `query_id Q0 doc_id rank score tag`; blank lines and what stands behind the tag do not count, as with
    trec_eval.

    Raises:
        UserError: a line has not six columns, its score is no number, or its document stood before for the query, which
            trec_eval refuses, too; file and line are named.
    """
    run: Run = {}
    for number, line in _lines(path):
        try:
            query_id, _, doc_id, _, column, _ = line.split(None, 5)
            score = float(column)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            form = "`query_id Q0 doc_id rank score tag`"
            raise UserError(f"{path}:{number}: not {form}: {line!r}{_conflict(line)}")
        if doc_id in run.setdefault(query_id, {}):
            raise UserError(f"{path}:{number}: document {doc_id} stands twice for query {query_id}")
        run[query_id][doc_id] = score
    return run


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a TREC run, atomically; documents in descending order of score, scores to six decimals."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            ranked = sorted(scores.items(), key=lambda item: -item[1])
            file.writelines(
                f"{query_id} Q0 {doc_id} {rank} {score:.6f} {tag}\n" for rank, (doc_id, score) in enumerate(ranked, 1)
            )


def read_expansions(path: str | Path, samples: int | None = None) -> dict[str, list[str]]:
    """query id → the texts of its expansion in the order of a JSON Lines file: the first `samples`, or all."""
    found: dict[str, list[str]] = {}
    for record in read_jsonl(path):
        if samples is None or record["sample"] < samples:
            found.setdefault(record["query_id"], []).append(record["text"])
    return found


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level with dotted keys, as DVC and MLflow name params and metrics."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
