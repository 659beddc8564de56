"""A BEIR-format folder: `corpus.jsonl`, `queries.jsonl`, `qrels/<name>.tsv`, each plain or .gz.

Read as such folders occur: exports name the id `_id` or `id` and write it as a string or a number; a title or text may
be null or not there; judgments have a header or none, three columns or TREC's four, tabs or spaces, and grades such as
1.0. What becomes of empty and repeated records is `qedistill.collection`'s to say, for every source alike.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ir_datasets import Dataset
from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries

from qedistill.errors import UserError
from qedistill.text import open_text, read_grade, read_placed_jsonl

_HEADER = re.compile(r"(q|query|topic)[-_ ]?(id|no|num(ber)?)?", re.IGNORECASE)  # of the first column


class BeirDoc(NamedTuple):
    """A document as it stands in the file, at `place` ("file:line")."""

    doc_id: Any
    title: str
    text: str
    place: str

    def default_text(self) -> str:
        return f"{self.title} {self.text}"


class BeirQuery(NamedTuple):
    """A query as it stands in the file, at `place`."""

    query_id: Any
    text: str
    place: str

    def default_text(self) -> str:
        return self.text


class BeirQrel(NamedTuple):
    """A judgment as it stands in the file, at `place`."""

    query_id: str
    doc_id: str
    relevance: int
    place: str


def load(folder: Path, qrels: str | None = None) -> Dataset:
    """The documents of a BEIR folder; with the name of a qrels file, its queries and those judgments too.

    Reading them raises UserError where a line is malformed; file and line are named.

    Raises:
        UserError: a file is missing.
    """
    docs = _Docs(_find(folder, "corpus.jsonl"))
    if qrels is None:
        return Dataset(docs)
    judgments = _find(folder, f"qrels/{qrels}.tsv", f"qrels/{qrels}.txt")
    return Dataset(docs, _Queries(_find(folder, "queries.jsonl")), _Qrels(judgments))


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    wanted = folder / names[0]
    there = ", ".join(sorted(path.name for path in wanted.parent.glob("*") if path.is_file())) or "nothing"
    raise UserError(f"{wanted}: no such file, nor {wanted.name}.gz; a BEIR folder holds one, there is: {there}")


class _Docs(BaseDocs):
    def __init__(self, path: Path) -> None:
        self._path = path

    def docs_iter(self) -> Iterator[BeirDoc]:
        for place, record in read_placed_jsonl(self._path):
            doc_id = _first(record, "_id", "id", "doc_id")
            yield BeirDoc(doc_id, _text(record, "title", place), _text(record, "text", place), place)

    def docs_cls(self) -> type:
        return BeirDoc


class _Queries(BaseQueries):
    def __init__(self, path: Path) -> None:
        self._path = path

    def queries_iter(self) -> Iterator[BeirQuery]:
        for place, record in read_placed_jsonl(self._path):
            yield BeirQuery(_first(record, "_id", "id", "query_id"), _text(record, "text", place), place)

    def queries_cls(self) -> type:
        return BeirQuery


class _Qrels(BaseQrels):
    def __init__(self, path: Path) -> None:
        self._path = path

    def qrels_iter(self) -> Iterator[BeirQrel]:
        first, width = True, 0  # columns of every line: one of more or fewer has an id with white space, or is cut
        with open_text(self._path) as file:
            for number, line in enumerate(file, 1):
                columns = line.split()
                if not columns:
                    continue
                header = first and _HEADER.fullmatch(columns[0].strip("\"'")) and not columns[-1].isdecimal()
                first = False
                if header:
                    width = len(columns) if len(columns) in (3, 4) else 0
                    continue
                width = width or len(columns)
                try:
                    query_id, *_, doc_id, grade = columns if len(columns) == width in (3, 4) else []
                    yield BeirQrel(query_id, doc_id, read_grade(grade), f"{self._path}:{number}")
                except ValueError:
                    raise UserError(
                        f"{self._path}:{number}: not `query-id<TAB>corpus-id<TAB>score`, the score a whole number and "
                        f"no id with white space: {line.strip()!r}"
                    ) from None

    def qrels_cls(self) -> type:
        return BeirQrel

    def qrels_defs(self) -> dict[int, str]:
        return {}


def _first(record: dict[str, Any], *keys: str) -> Any:
    return next((record[key] for key in keys if key in record), None)


def _text(record: dict[str, Any], key: str, place: str) -> str:
    """A text of a record; none where it is null, as pandas writes NaN, or not there; a number is a text, too."""
    value = record.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{place}: {key} must be a text, is {value!r:.80}")
    return str(value)
