"""ir_datasets' interface over data at hand, so that code downstream knows one interface only."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericQuery, TrecQrel

from qedistill.text import Qrels, Queries


class TitledDoc(NamedTuple):
    """A document of an id, a title (may be empty) and a text."""

    doc_id: str
    title: str
    text: str

    def default_text(self) -> str:
        return f"{self.title} {self.text}".strip()


class Docs(BaseDocs):
    """Documents of a list, or of a function that starts reading them anew."""

    def __init__(self, docs: Iterable[TitledDoc] | Callable[[], Iterator[TitledDoc]]) -> None:
        self._docs = docs

    def docs_iter(self) -> Iterator[TitledDoc]:
        return iter(self._docs() if callable(self._docs) else self._docs)

    def docs_cls(self) -> type:
        return TitledDoc


class JudgedQueries(BaseQueries, BaseQrels):
    """Queries with their judgments."""

    def __init__(self, queries: Queries, qrels: Qrels) -> None:
        self._queries, self._qrels = queries, qrels

    def queries_iter(self) -> Iterator[GenericQuery]:
        return (GenericQuery(query_id, text) for query_id, text in self._queries.items())

    def queries_cls(self) -> type:
        return GenericQuery

    def qrels_iter(self) -> Iterator[TrecQrel]:
        return (
            TrecQrel(query_id, doc_id, grade, "0")
            for query_id, grades in self._qrels.items()
            for doc_id, grade in grades.items()
        )

    def qrels_cls(self) -> type:
        return TrecQrel

    def qrels_defs(self) -> dict[int, str]:
        return {}
