"""File formats: one reader and one writer a kind. Everything is UTF-8; a `.gz` name is read as gzip."""

import csv
import gzip
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from qedistill.errors import UserError

Queries = dict[str, str]  # query id -> text
Qrels = dict[str, dict[str, int]]  # query id -> doc id -> grade
Run = dict[str, dict[str, float]]  # query id -> doc id -> score

HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_PIECES = re.compile(rf"{HAN.pattern}|[^{HAN.pattern[1:]}+")


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (file or folder) that becomes `path` if the block ends well, and vanishes if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        target = Path(folder) / path.name
        yield target
        if path.is_dir() and target.exists():
            shutil.rmtree(path)
        os.replace(target, path)


@contextmanager
def open_text(path: str | Path) -> Iterator[IO[str]]:
    """Open a text file for reading, plain or gzip; a missing file is a UserError."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if str(path).endswith(".gz")
            else open(path, encoding="utf-8") as file
        ):
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, in order.

    Raises:
        UserError: a line holds no JSON object; file and line are named.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg}") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}:{number}: not a JSON object")
            yield record


def write_jsonl(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON Lines, atomically."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file."""
    with open_text(path) as file:
        return json.load(file)


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
    """Columns of numbers of a CSV file; an empty cell gives no key, and a column that is not there none at all."""
    with open_text(path) as file:
        return [
            {column: float(row[column]) for column in columns if row.get(column)} for row in csv.DictReader(file)
        ]  # fmt: skip


def read_queries(path: str | Path) -> Queries:
    """Queries of a TSV file `query_id<TAB>text`.

    Raises:
        UserError: a line without both, or an id that stood before; file and line are named.
    """
    queries: Queries = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            query_id, tab, text = line.rstrip("\n").partition("\t")
            if not (query_id and tab and text.strip()):
                raise UserError(f"{path}:{number}: not `query_id<TAB>text`")
            if query_id in queries:
                raise UserError(f"{path}:{number}: query id {query_id} stands twice")
            queries[query_id] = text.strip()
    return queries


def write_queries(path: str | Path, queries: Queries) -> None:
    """Write queries as TSV, atomically; white space inside a text becomes single spaces."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        file.writelines(f"{query_id}\t{' '.join(text.split())}\n" for query_id, text in queries.items())


def read_qrels(path: str | Path) -> Qrels:
    """Judgments of a TREC qrels file `qid 0 docid grade`.

    Raises:
        UserError: a line has not four columns, or its grade is no whole number; file and line are named.
    """
    qrels: Qrels = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            columns = line.split()
            try:
                query_id, _, doc_id, grade = columns
                qrels.setdefault(query_id, {})[doc_id] = int(grade)
            except ValueError:
                raise UserError(f"{path}:{number}: not `query_id 0 doc_id grade`: {line.strip()!r}") from None
    return qrels


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write judgments as TREC qrels, atomically."""
    with atomic(path) as target, target.open("w", encoding="utf-8") as file:
        for query_id, grades in qrels.items():
            file.writelines(f"{query_id} 0 {doc_id} {grade}\n" for doc_id, grade in grades.items())


def read_run(path: str | Path) -> Run:
    """A TREC run `qid Q0 docid rank score tag`.

    Raises:
        UserError: a line has not six columns, or its score is no number; file and line are named.
    """
    run: Run = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            try:
                query_id, _, doc_id, _, score, _ = line.split()
                run.setdefault(query_id, {})[doc_id] = float(score)
            except ValueError:
                raise UserError(f"{path}:{number}: not `query_id Q0 doc_id rank score tag`: {line.strip()!r}") from None
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


def cut_words(text: str, words: int | None) -> str:
    """The first `words` words of a text, as `count_words` counts them; all of it for None."""
    if words is None:
        return text
    kept: list[str] = []
    room = float(words)
    for token in text.split():
        fits = ""
        for piece, weight in _pieces(token):
            room -= weight
            if room < 0:
                return " ".join([*kept, fits] if fits else kept)
            fits += piece
        kept.append(fits)
    return " ".join(kept)


def count_words(text: str) -> float:
    """Words by white space; of text that has none between its words, two Han characters count as one.

    Two, as most words of modern Chinese have two characters.
    """
    return sum(weight for token in text.split() for _, weight in _pieces(token))


def _pieces(token: str) -> Iterator[tuple[str, float]]:
    """A token without white space in pieces that are not cut, each with its weight in words."""
    if not HAN.search(token):
        yield token, 1.0
        return
    for piece in _PIECES.findall(token):
        # Punctuation between Han characters is no word; a name or a number in Latin script is one.
        yield piece, 0.5 if HAN.match(piece) else float(any(c.isalnum() for c in piece))


def plain(text: str) -> str:
    """Letters and digits alone, in one form and case, by which equal texts are told; no language needs white space."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level with dotted keys, as DVC and MLflow name params and metrics."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
