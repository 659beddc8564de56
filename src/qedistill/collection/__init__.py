"""Collections: documents, queries and judgments from an ir_datasets id (pyapi is one) or a BEIR folder, and splits."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_datasets

from qedistill.collection import beir, pyapi
from qedistill.errors import UserError
from qedistill.params import Collection
from qedistill.text import Qrels, Queries
from qedistill.words import plain

Document = dict[str, str]  # doc_id, title, text


@dataclass(frozen=True)
class Split:
    """A set of queries with their judgments; every query has one relevant document at least."""

    queries: Queries
    qrels: Qrels

    def only(self, query_ids: set[str]) -> "Split":
        return Split(
            {i: text for i, text in self.queries.items() if i in query_ids},
            {i: grades for i, grades in self.qrels.items() if i in query_ids},
        )


def load_dataset(params: Collection, qrels: str | None = None) -> Any:
    """The ir_datasets dataset of the documents, or, given a name of `train` or `tests`, of a set of judged queries.

    Raises:
        UserError: no such id, folder or file.
    """
    if params.source == "beir":
        return beir.load(Path(params.path), qrels)
    if params.source == "pyapi" and "pyapi" not in ir_datasets.registry:
        pyapi.register(Path(params.path))
    name = qrels or params.source
    try:
        return ir_datasets.load(name)
    except KeyError:
        raise UserError(f"collection: ir_datasets knows no id {name}; its catalogue: ir-datasets.com") from None


def read_documents(params: Collection) -> Iterator[Document]:
    """The documents, streamed.

    Raises:
        UserError: an id stands twice, or there is no document.
    """
    seen: set[str] = set()
    for doc in load_dataset(params).docs_iter():
        if doc.doc_id in seen:
            raise UserError(f"{params.path}: document id {doc.doc_id} stands twice in {params.source}")
        seen.add(doc.doc_id)
        title = getattr(doc, "title", "") or ""
        # Types differ in what they carry; all but the title is default_text's to know.
        text = doc.text if hasattr(doc, "text") else doc.default_text()
        yield {"doc_id": doc.doc_id, "title": title, "text": text}
    if not seen:
        raise UserError(f"{params.path}: {params.source} holds no document")


def read_splits(params: Collection, keep_in_train: set[str], seed: int) -> dict[str, Split]:
    """Train, validation (carved from train by the seed) and the test sets, in this order.

    Queries without a relevant judgment (grade above 0) are left out. Without a train set, train and validation are
    empty. Where `train_queries` draws from the train set, queries whose normalised text a test set has are not drawn.

    Args:
        keep_in_train: query ids that must not fall into validation (exemplars given by id), and are drawn in any case.

    Raises:
        UserError: no query is left in a set, or a test query's normalised text occurs in train.
    """
    tests = {name: _read_split(params, qrels) for name, qrels in params.tests.items()}
    if params.train is None:
        return {"train": Split({}, {}), "validation": Split({}, {}), **tests}
    judged = _read_split(params, params.train)
    if params.train_queries is not None:
        tested = {plain(text) for test in tests.values() for text in test.queries.values()}
        free = sorted(i for i, text in judged.queries.items() if plain(text) not in tested and i not in keep_in_train)
        wanted = max(params.train_queries - len(keep_in_train & judged.queries.keys()), 0)
        drawn = random.Random(seed).sample(free, min(wanted, len(free)))
        judged = judged.only({*drawn, *keep_in_train})
    for name, test in tests.items():
        check_leak(judged.queries, test.queries, name)
    validation = _carve(sorted(set(judged.queries) - keep_in_train), params.validation, len(judged.queries), seed)
    return {"train": judged.only(set(judged.queries) - validation), "validation": judged.only(validation), **tests}


def _read_split(params: Collection, name: str) -> Split:
    dataset = load_dataset(params, name)
    if not (dataset.has_queries() and dataset.has_qrels()):
        raise UserError(f"collection: {name} has no judged queries; name a set that has, such as {name}/judged")
    qrels: Qrels = {}
    for qrel in dataset.qrels_iter():
        qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    relevant = {query_id for query_id, grades in qrels.items() if max(grades.values(), default=0) > 0}
    queries = {q.query_id: q.default_text() for q in dataset.queries_iter() if q.query_id in relevant}
    if not queries:
        raise UserError(f"collection: {name} has no query with a relevant document")
    return Split(queries, {i: qrels[i] for i in queries})


def _carve(candidates: list[str], share: float, of: int, seed: int) -> set[str]:
    return set(random.Random(seed).sample(candidates, min(round(share * of), len(candidates))))


def check_leak(train: Queries, test: Queries, name: str) -> None:
    """Stop if a test query's normalised text occurs in train.

    Raises:
        UserError: one does; both ids are named.
    """
    known = {plain(text): query_id for query_id, text in train.items()}
    leaks = [(query_id, known[plain(text)]) for query_id, text in test.items() if plain(text) in known]
    if leaks:
        pairs = ", ".join(f"{test_id} = {train_id}" for test_id, train_id in leaks[:3])
        raise UserError(
            f"collection.tests.{name}: {len(leaks)} of its queries stand in train too ({pairs}); remove them"
        )


def describe(splits: Mapping[str, Split], doc_ids: set[str] | None) -> dict[str, Any]:
    """Counts for the metrics file: documents, and for each split queries, judgments and those of absent documents.

    Args:
        doc_ids: None where the documents are not read: neither they nor the absent are counted then.
    """
    figures: dict[str, Any] = {} if doc_ids is None else {"documents": len(doc_ids)}
    for name, split in splits.items():
        figures[name] = {"queries": len(split.queries), "judgments": sum(map(len, split.qrels.values()))}
        if doc_ids is not None:
            absent = (doc_id not in doc_ids for grades in split.qrels.values() for doc_id in grades)
            figures[name]["dangling"] = sum(absent)
    return figures
