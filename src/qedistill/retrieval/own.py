"""Queries that are documents of the collection themselves, as in ArguAna, Quora and SciDocs."""

from collections.abc import Iterable, Mapping

from qedistill.text import Qrels, Queries
from qedistill.words import count_words, plain

QUOTED = 5  # words of a query, at least, that a document must hold to be taken for it; fewer may stand there by chance


def owned(keys: Iterable[str], owners: Mapping[str, str] | None, ignores: bool) -> Mapping[str, str]:
    """Key of a search → id of the document to leave out; nothing where identical ids are not ignored.

    Args:
        owners: key → id of the query it stands for; None where the keys are query ids.
    """
    if not ignores:
        return {}
    return {key: key for key in keys} if owners is None else owners


def without(found: Mapping[str, float], own: str | None, depth: int) -> dict[str, float]:
    """The first `depth` results, the query's own document not among them.

    Args:
        found: best first; one more than `depth`, where there are so many.
        own: id of the query; None leaves out nothing.
    """
    return dict([item for item in found.items() if item[0] != own][:depth])


def own_documents(queries: Queries, qrels: Qrels, documents: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The queries that are documents: of the same id, and of the same words in the title, the text, or part of it.

    Ids that merely coincide, as where both are numbered from 1, make no query a document; and a document that is
    judged relevant to the query is what it looks for (an answer filed under its question's id), not the query.

    Example:
        >>> queries = {"1": "Why is tea steamed?", "2": "salt"}
        >>> documents = {"1": {"title": "", "text": "why is tea steamed"}, "2": {"title": "Glass", "text": "of salt"}}
        >>> own_documents(queries, {}, documents)
        ['1']
    """
    return [
        i
        for i, text in queries.items()
        if i in documents and qrels.get(i, {}).get(i, 0) <= 0 and _says(documents[i], plain(text))
    ]


def _says(document: Mapping[str, str], query: str) -> bool:
    title, text = plain(document["title"]), plain(document["text"])
    whole = plain(f"{document['title']} {document['text']}")
    return query in (title, text, whole) or (count_words(query) >= QUOTED and query in whole)
