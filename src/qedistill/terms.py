"""Which words of an expansion moved the ranking: each is left out in turn, and the query searched again."""

import re
from collections import Counter
from dataclasses import dataclass

from qedistill import measures
from qedistill.params import Retrieval
from qedistill.retrieval import Searcher, search_expanded
from qedistill.text import Qrels, Queries

DEPTH = 10  # nDCG@10 looks no deeper
# A name with dots is one word, as for Lucene's tokenizer. Where a language writes no spaces, a word here is what stands
# between two punctuation marks.
WORD = re.compile(r"\w+(?:[.'’]\w+)*")


@dataclass(frozen=True)
class Term:
    """A word of an expansion, in all its samples and occurrences.

    `difference` is nDCG@10 with the word less nDCG@10 without it: above 0 it helps. `moves` are the judged documents
    whose rank changes, as (document, grade, rank with, rank without); None: below the first ten.
    """

    word: str
    count: int
    difference: float
    moves: list[tuple[str, int, int | None, int | None]]


def words(samples: list[str]) -> Counter[str]:
    """The words of an expansion, case folded, and how often each stands in it."""
    return Counter(word.casefold() for text in samples for word in WORD.findall(text))


def without(samples: list[str], word: str) -> list[str]:
    """The samples less every occurrence of a word."""
    return [WORD.sub(lambda found: " " if found[0].casefold() == word else found[0], text) for text in samples]


def leave_out(
    searcher: Searcher,
    queries: Queries,
    qrels: Qrels,
    expansions: dict[str, list[str]],
    weight: int,
    params: Retrieval,
    searches: int,
) -> dict[str, list[Term]]:
    """The words of the queries' expansions, most helpful first; those that change no rank have difference 0.

    The query itself stays whole, also where the expansion repeats a word of it.

    Args:
        queries: in the order in which they are looked at.
        expansions: query id → its samples.
        searches: no further query is looked at once so many are needed; it is missing in what is returned.
    """
    counts = {query_id: words(expansions[query_id]) for query_id in queries}
    every = sorted({word for found in counts.values() for word in found})
    # A word that alone finds nothing (a stopword, or in no document) moves nothing.
    matters = {word for word, found in searcher.search({word: word for word in every}, 1, owners={}).items() if found}
    jobs: dict[str, tuple[str, str]] = {}
    looked_at: list[str] = []
    for query_id in queries:
        new = [word for word in counts[query_id] if word in matters]
        if len(jobs) + len(new) > searches:
            break
        looked_at.append(query_id)
        jobs |= {f"{query_id} {word}": (query_id, word) for word in new}

    whole = search_expanded(
        searcher, {i: queries[i] for i in looked_at}, {i: expansions[i] for i in looked_at}, weight, DEPTH, params
    )
    found = search_expanded(
        searcher,
        {job: queries[query_id] for job, (query_id, _) in jobs.items()},
        {job: without(expansions[query_id], word) for job, (query_id, word) in jobs.items()},
        weight,
        DEPTH,
        params,
        {job: query_id for job, (query_id, _) in jobs.items()},
    )
    ranks = {key: _ranks(found) for key, found in (whole | found).items()}
    changed = {job: run for job, run in found.items() if ranks[job] != ranks[jobs[job][0]]}
    before = _ndcg({i: qrels[i] for i in looked_at}, whole)
    after = _ndcg({job: qrels[jobs[job][0]] for job in changed}, changed)
    terms: dict[str, list[Term]] = {query_id: [] for query_id in looked_at}
    for query_id in looked_at:
        for word, count in counts[query_id].items():
            job = f"{query_id} {word}"
            difference = before[query_id] - after[job] if job in changed else 0.0
            moves = _moves(ranks[query_id], ranks[job], qrels[query_id]) if job in changed else []
            terms[query_id].append(Term(word, count, difference, moves))
        terms[query_id].sort(key=lambda term: -term.difference)
    return terms


def _ranks(scores: dict[str, float]) -> dict[str, int]:
    return {doc_id: int(-position) for doc_id, position in measures.rank({"": scores})[""].items()}


def _ndcg(qrels: Qrels, run: dict[str, dict[str, float]]) -> dict[str, float]:
    if not qrels:
        return {}
    return dict(zip(sorted(qrels), measures.score(qrels, run, (measures.NDCG,))[measures.NDCG].tolist(), strict=True))


def _moves(
    before: dict[str, int], after: dict[str, int], grades: dict[str, int]
) -> list[tuple[str, int, int | None, int | None]]:
    """Documents of a grade above 0 whose rank differs, highest grade first."""
    moved = [
        (doc_id, grades[doc_id], before.get(doc_id), after.get(doc_id))
        for doc_id in {**before, **after}
        if grades.get(doc_id, 0) > 0 and before.get(doc_id) != after.get(doc_id)
    ]
    return sorted(moved, key=lambda move: -move[1])
