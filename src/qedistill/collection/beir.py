"""A BEIR-format folder: `corpus.jsonl`, `queries.jsonl`, `qrels/<name>.tsv`, each plain or .gz."""

from collections.abc import Iterator
from pathlib import Path

from ir_datasets import Dataset

from qedistill.collection.memory import Docs, JudgedQueries, TitledDoc
from qedistill.errors import UserError
from qedistill.text import Qrels, Queries, open_text, read_jsonl


def load(folder: Path, qrels: str | None = None) -> Dataset:
    """The documents of a BEIR folder; with the name of a qrels file, the queries it judges too.

    Raises:
        UserError: a file is missing, or a line malformed; file and line are named.
    """
    docs = Docs(lambda: _read_docs(_find(folder, "corpus.jsonl")))
    if qrels is None:
        return Dataset(docs)
    judgments = _read_qrels(_find(folder, f"qrels/{qrels}.tsv"))
    queries = _read_queries(_find(folder, "queries.jsonl"))
    return Dataset(docs, JudgedQueries({i: queries[i] for i in judgments if i in queries}, judgments))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder / name}: no such file, nor {name}.gz; a BEIR folder holds one")


def _read_docs(path: Path) -> Iterator[TitledDoc]:
    for number, record in enumerate(read_jsonl(path), 1):
        doc_id, title, text = record.get("_id", record.get("doc_id")), record.get("title") or "", record.get("text")
        if not isinstance(doc_id, str) or not doc_id or doc_id.split() != [doc_id]:
            raise UserError(f"{path}: document {number}: _id must be a string without white space, is {doc_id!r}")
        if not isinstance(text, str) or not isinstance(title, str) or not (title + text).strip():
            raise UserError(f"{path}: document {number} ({doc_id}): no text")
        yield TitledDoc(doc_id, title, text)


def _read_queries(path: Path) -> Queries:
    queries: Queries = {}
    for number, record in enumerate(read_jsonl(path), 1):
        query_id, text = record.get("_id", record.get("query_id")), record.get("text")
        if not isinstance(query_id, str) or not query_id or query_id.split() != [query_id]:
            raise UserError(f"{path}: query {number}: _id must be a string without white space, is {query_id!r}")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}: query {number} ({query_id}): no text")
        if query_id in queries:
            raise UserError(f"{path}: query {number}: id {query_id} stands twice")
        queries[query_id] = text
    return queries


def _read_qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            columns = line.split()  # no id holds white space: neither do those of documents and queries
            if number == 1 and columns[-1:] == ["score"]:
                continue
            try:
                query_id, doc_id, grade = columns
                qrels.setdefault(query_id, {})[doc_id] = int(grade)
            except ValueError:
                raise UserError(f"{path}:{number}: not `query-id<TAB>corpus-id<TAB>score`: {line.strip()!r}") from None
    return qrels
