"""Collections: documents, queries and judgments from an ir_datasets id (pyapi is one) or a BEIR folder, and splits.

Whatever the source, every id and text comes in through `read_documents` and `read_splits`, which clean it, and count
what they leave out, merge or rename.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import ir_datasets

from qedistill.collection import beir, pyapi
from qedistill.errors import UserError
from qedistill.params import Collection, Params
from qedistill.tally import Tally
from qedistill.text import Qrels, Queries, atomic, write_jsonl, write_qrels, write_queries
from qedistill.words import clean, one_line, plain

Document = dict[str, str]  # doc_id, title, text
# Fields of documents that are strings and none of their text, and of judgments of a part of a document or query.
_NO_TEXT = {"doc_id", "title", "url", "phash", "language"}
_PARTS = {"subtopic_id", "start"}
# Controls part words for Lucene, and for whoever publishes BM25: without a space in their place two words would be one.
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x7f-\x9f]")


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


def read_documents(params: Collection, tally: Tally | None = None) -> Iterator[Document]:
    """The documents, streamed; those without text, and those that stood before, are left out and counted.

    Raises:
        UserError: an id is malformed, or stands twice with different texts, or no document has a text.
    """
    dataset, name, tally = load_dataset(params), params.source, tally or Tally()
    seen: dict[str, int] = {}  # doc id → hash of title and text
    empty = True
    for doc in dataset.docs_iter():
        doc_id = read_id(doc.doc_id, _place(doc, name))
        title, text = (_clean(part, "documents", doc_id, tally) for part in title_and_text(doc))
        if doc_id in seen:
            if seen[doc_id] != hash((title, text)):
                first = next(d for d in dataset.docs_iter() if read_id(d.doc_id, _place(d, name)) == doc_id)
                raise UserError(_twice("document", doc_id, _place(first, name), _place(doc, name)))
            tally.add("documents merged: the same id and text", doc_id)
            continue
        seen[doc_id] = hash((title, text))
        if not (title or text):
            tally.add("documents left out: no text", doc_id)
            continue
        empty = False
        yield {"doc_id": doc_id, "title": title, "text": text}
    if empty:
        raise UserError(f"{params.path}: {name} holds no document" + (" with a title or a text" if seen else ""))


def title_and_text(doc: Any) -> tuple[str, str]:
    """The title of an ir_datasets document, and the rest of what it has to say.

    Types differ in what they carry, and in whether `default_text` holds the title: it is asked for the text of the
    document without title. Of types that have none, all strings but ids and addresses are the text.
    """
    known = {name: "" if value is None else value for name, value in zip(doc._fields, doc, strict=True)}
    title = str(known.get("title", ""))
    if not hasattr(doc, "default_text"):
        return title, "\n".join(v for name, v in known.items() if isinstance(v, str) and name not in _NO_TEXT)
    untitled = known | {"title": ""} if "title" in known else known
    return title, str(doc._replace(**untitled).default_text())


def read_splits(params: Collection, keep_in_train: set[str], seed: int, tally: Tally | None = None) -> dict[str, Split]:
    """Train, validation (carved from train by the seed) and the test sets, in this order.

    Judged queries without text or relevant judgment (grade above 0) are left out and counted. Without a train set, train
    and validation are empty. Where `train_queries` draws from the train set, queries whose normalised text a test set has
    are not drawn. Training queries of the same normalised text never lie on both sides of validation. An id that stands
    for different texts in two splits is made another in the later one.

    Args:
        keep_in_train: query ids that must not fall into validation (exemplars given by id), and are drawn in any case.

    Raises:
        UserError: an id or judgment is malformed, no query is left in a set, validation takes all of train, or a test
            query's normalised text occurs in train.
    """
    tally = tally or Tally()
    tests = {name: _read_split(params, dataset, name, tally) for name, dataset in params.tests.items()}
    _tell_shared(tests, tally)
    if params.train is None:
        return _tell_apart({"train": Split({}, {}), "validation": Split({}, {}), **tests}, tally)
    judged = _read_split(params, params.train, "train", tally)
    if params.train_queries is not None:
        tested = {plain(text) for test in tests.values() for text in test.queries.values()}
        free = sorted(i for i, text in judged.queries.items() if plain(text) not in tested and i not in keep_in_train)
        wanted = max(params.train_queries - len(keep_in_train & judged.queries.keys()), 0)
        drawn = random.Random(seed).sample(free, min(wanted, len(free)))
        judged = judged.only({*drawn, *keep_in_train})
    for name, test in tests.items():
        check_leak(judged.queries, test.queries, name)
    validation = _carve(judged.queries, keep_in_train, params.validation, seed)
    train = set(judged.queries) - validation
    if not train:
        raise UserError(
            f"collection.validation: {params.validation} of {len(validation)} training queries leaves none to train on; "
            "lower it, or judge more queries"
        )
    return _tell_apart({"train": judged.only(train), "validation": judged.only(validation), **tests}, tally)


def _read_split(params: Collection, name: str, split: str, tally: Tally) -> Split:
    dataset = load_dataset(params, name)
    if not (dataset.has_queries() and dataset.has_qrels()):
        raise UserError(f"collection: {name} has no judged queries; name a set that has, such as {name}/judged")
    qrels, judged_at = _read_qrels(dataset, name, split, tally)
    queries: Queries = {}
    places: dict[str, str] = {}
    other = ""
    for query in dataset.queries_iter():
        place = _place(query, name)
        query_id = read_id(query.query_id, place)
        if query_id not in qrels:
            other = other or f", while {place} has {query_id}"
            continue
        text = one_line(_clean(_query_text(query), f"{split}: queries", query_id, tally))
        if query_id in queries:
            if queries[query_id] != text:
                raise UserError(_twice("query", query_id, places[query_id], place))
            tally.add(f"{split}: queries merged: the same id and text", query_id)
        queries[query_id], places[query_id] = text, place
    if qrels and not queries:
        raise UserError(f"{judged_at}: no query has the id {next(iter(qrels))}, nor any other that is judged{other}")
    for query_id, grades in qrels.items():
        if query_id not in queries:
            tally.add(f"{split}: judged queries left out: no query has their id", query_id)
        elif not queries[query_id]:
            tally.add(f"{split}: judged queries left out: no text", query_id)
        elif max(grades.values()) <= 0:
            tally.add(f"{split}: judged queries left out: no relevant document", query_id)
    queries = {i: text for i, text in queries.items() if text and max(qrels[i].values()) > 0}
    if not queries:
        raise UserError(f"collection: {name} has no query with a relevant document")
    return Split(queries, {i: qrels[i] for i in queries})


def _read_qrels(dataset: Any, name: str, split: str, tally: Tally) -> tuple[Qrels, str]:
    """Judgments, and the place of the first. Of those of parts of a document the highest grade counts; of others that
    contradict each other the last, as with BEIR's own reader."""
    of_parts = bool(_PARTS & set(getattr(dataset.qrels_cls(), "_fields", ())))
    qrels: Qrels = {}
    judged_at = ""
    for qrel in dataset.qrels_iter():
        place = _place(qrel, name)
        judged_at = judged_at or place
        query_id, doc_id, grade = read_id(qrel.query_id, place), read_id(qrel.doc_id, place), int(qrel.relevance)
        grades = qrels.setdefault(query_id, {})
        if doc_id not in grades:
            grades[doc_id] = grade
        elif of_parts:
            tally.add(f"{split}: judgments of parts merged: the highest grade of a document counts", query_id)
            grades[doc_id] = max(grade, grades[doc_id])
        elif grades[doc_id] == grade:
            tally.add(f"{split}: judgments merged: the same query, document and grade", query_id)
        else:
            tally.add(f"{split}: judgments overruled: a later one gives another grade", query_id)
            grades[doc_id] = grade
    return qrels, judged_at


def _query_text(query: Any) -> str:
    text = query.default_text() if hasattr(query, "default_text") else getattr(query, "text", "")
    return str(text or "")


def _clean(text: str, what: str, name: str, tally: Tally) -> str:
    cleaned = clean(_CONTROLS.sub(" ", text))
    if cleaned != text:
        tally.add(f"{what} cleaned: characters that no file or terminal can hold", name)
    return cleaned.strip()


def read_id(value: object, place: str) -> str:
    """The id of a query or document, which a TREC file can hold: a whole number becomes its digits, white space around
    goes.

    Args:
        place: of the id, for the error.

    Raises:
        UserError: it is empty, no string or number, or holds white space or characters that no file can hold.
    """
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and (parts := text.split()) and len(parts) == 1 and clean(parts[0]) == parts[0]:
        return parts[0]
    raise UserError(
        f"{place}: an id must be a whole number or a string without white space and control characters, is {value!r}; "
        "give it another, in the judgments too"
    )


def _place(record: Any, name: str) -> str:
    """Where a record stands: file and line, or the name of its dataset."""
    return str(getattr(record, "place", f"collection: {name}"))


def _twice(what: str, name: str, first: str, second: str) -> str:
    return f"{second}: {what} id {name} stands twice, at {first} with another text; give one of them another id"


def _carve(queries: Queries, keep_in_train: set[str], share: float, seed: int) -> set[str]:
    """Ids drawn for validation: `share` of the queries at the most, those of the same normalised text together."""
    groups = defaultdict(list)
    for query_id in sorted(queries):
        groups[plain(queries[query_id])].append(query_id)
    free = {ids[0]: ids for ids in groups.values() if not keep_in_train.intersection(ids)}
    size = round(share * len(queries))
    draw = random.Random(seed)
    drawn = draw.sample(sorted(free), min(size, len(free)))
    # Groups too large for the room that is left give way to others.
    spare = sorted(free.keys() - set(drawn))
    draw.shuffle(spare)
    taken: set[str] = set()
    for first in [*drawn, *spare]:
        if len(taken) + len(free[first]) <= size:
            taken.update(free[first])
    return taken


def lacks_validation(params: Params, queries: Mapping[str, int]) -> str | None:
    """What to say where validation is needed and has no query; None where it has, or nothing is chosen on it.

    The documents and test sets are of use without it; before a teacher is paid it is an error.

    Args:
        queries: split → number of queries.
    """
    train, share = queries["train"], params.collection.validation
    if queries["validation"] or not params.collection.train or params.retrieval.query_weight != "auto":
        return None
    more = f"raise it to {1 / train:.2g}" if train > 1 else "judge more queries"
    return (
        f"collection.validation: {share} of {train} training queries leaves none for validation, on which "
        f"retrieval.query_weight: auto is chosen; {more}, or set retrieval.query_weight to a number"
    )


def check_leak(train: Queries, test: Queries, name: str) -> None:
    """Stop if a test query's normalised text occurs in train.

    Raises:
        UserError: one does; both ids are named.
    """
    if leaks := _shared(test, train):
        pairs = ", ".join(f"{test_id} = {train_id}" for test_id, train_id in leaks[:3])
        raise UserError(
            f"collection.tests.{name}: {len(leaks)} of its queries stand in train too ({pairs}); remove them"
        )


def _shared(some: Queries, others: Queries) -> list[tuple[str, str]]:
    """Ids of queries with those of others of the same normalised text."""
    known = {plain(text): query_id for query_id, text in others.items()}
    return [(i, known[form]) for i, text in some.items() if (form := plain(text)) in known]


def _tell_shared(tests: Mapping[str, Split], tally: Tally) -> None:
    for one, other in combinations(tests, 2):
        for query_id, _ in _shared(tests[other].queries, tests[one].queries):
            tally.add(f"{other}: queries that {one} asks too", query_id)


def _tell_apart(splits: dict[str, Split], tally: Tally) -> dict[str, Split]:
    """The splits, in which an id stands for one text: expansions are kept by it. One that stood for another text in a
    split before, as ids of different datasets may, gets the split's name behind it."""
    texts: Queries = {}
    for name, split in splits.items():
        ids: dict[str, str] = {}
        for query_id, text in split.queries.items():
            own = query_id
            while texts.get(own, text) != text or (own != query_id and own in split.queries):
                own += f"@{name}"
            if own != query_id:
                tally.add(
                    f"{name}: query ids with @{name} put behind: a split before has them for other texts", query_id
                )
            ids[query_id] = own
        queries = {ids[i]: text for i, text in split.queries.items()}
        splits[name] = Split(queries, {ids[i]: grades for i, grades in split.qrels.items()})
        texts |= queries
    return splits


def write_collection(
    folder: Path, splits: Mapping[str, Split], documents: Iterable[Document] | None
) -> set[str] | None:
    """Write documents and splits, atomically, as `qedistill.layout` names their files.

    Returns:
        The ids of the documents; None where there are none to write, as with a prebuilt index.
    """
    doc_ids: set[str] = set()

    def noted() -> Iterator[Document]:
        for document in documents or ():
            doc_ids.add(document["doc_id"])
            yield document

    with atomic(folder) as target:
        write_jsonl(target / "corpus.jsonl", noted())
        for name, split in splits.items():
            write_queries(target / "queries" / f"{name}.tsv", split.queries)
            write_qrels(target / "qrels" / f"{name}.txt", split.qrels)
    return None if documents is None else doc_ids


def describe(splits: Mapping[str, Split], doc_ids: set[str] | None, tally: Tally) -> dict[str, Any]:
    """Counts for the metrics file: documents; for each split queries, judgments and those of absent documents, which are
    told, too; and what is told.

    Args:
        doc_ids: None where the documents are not read: neither they nor the absent are counted then.
    """
    figures: dict[str, Any] = {} if doc_ids is None else {"documents": len(doc_ids)}
    for name, split in splits.items():
        figures[name] = {"queries": len(split.queries), "judgments": sum(map(len, split.qrels.values()))}
        if doc_ids is not None:
            absent = [doc_id for grades in split.qrels.values() for doc_id in grades if doc_id not in doc_ids]
            figures[name]["dangling"] = len(absent)
            for doc_id in absent:
                tally.add(f"{name}: judgments of documents not in the collection", doc_id)
    return figures | {"told": tally.figures()}
