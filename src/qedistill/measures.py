"""Scores of a run for each query: ranx, and every figure a second time by pytrec_eval."""

import math
import warnings
from typing import Any

import numpy as np
import pytrec_eval
import ranx

from qedistill.errors import UserError
from qedistill.text import Qrels, Run

# Of a cast inside ranx, at the first compilation of each measure; pytrec_eval vouches for the figures.
warnings.filterwarnings("ignore", message=".*unsafe cast from uint64 to int64")

NDCG = "ndcg@10"
# Name here: (ranx, pytrec_eval, what it reads off the judgments).
_MEASURES = {
    NDCG: ("ndcg@10", "ndcg_cut_10", "grades"),
    "ap": ("map", "map", "relevant"),
    "mrr": ("mrr", "recip_rank", "relevant"),
    "recall@100": ("recall@100", "recall_100", "relevant"),
    "recall@1000": ("recall@1000", "recall_1000", "relevant"),
    # Precision where every judged document counts: the share of the ten that somebody has looked at.
    "judged@10": ("precision@10", "P_10", "judged"),
}
MEASURES = tuple(_MEASURES)
TOLERANCE = 1e-6


class Disagreement(RuntimeError):
    """ranx and pytrec_eval give different figures for the same run."""


def rank(run: Run) -> Run:
    """The run in trec_eval's order, told by distinct scores: by score (float32, as trec_eval reads it), then by
    document id, both descending. ranx leaves the order of ties open."""
    return {
        query_id: {
            doc_id: float(-position)
            for position, doc_id in enumerate(
                sorted(scores, key=lambda doc_id: (np.float32(scores[doc_id]), doc_id), reverse=True), 1
            )
        }
        for query_id, scores in run.items()
    }


def view(qrels: Qrels, reads: str, relevance_level: int = 1) -> Qrels:
    """The judgments as a measure reads them: `grades`, `relevant` (1 from the level on, else 0), `judged` (all 1)."""
    grade = {
        "grades": lambda g: max(g, 0),
        "relevant": lambda g: int(g >= relevance_level),
        "judged": lambda g: 1,
    }[reads]
    return {query_id: {doc_id: grade(g) for doc_id, g in grades.items()} for query_id, grades in qrels.items()}


def compile_loops() -> None:
    """Have Numba compile what ranx needs for `score`, half a minute; it keeps the machine code for later processes."""
    score({"query": {"document": 1}}, {"query": {"document": 1.0}})


def score(
    qrels: Qrels, run: Run, measures: tuple[str, ...] = MEASURES, relevance_level: int = 1
) -> dict[str, np.ndarray]:
    """Scores of a run on every query of `qrels`; a query that the run lacks scores 0.

    Args:
        relevance_level: the lowest grade that counts as relevant for AP, MRR and recall.

    Returns:
        measure → float array of shape (queries,), in the order of sorted(qrels).

    Raises:
        UserError: a document's score is NaN, which has no rank.
        Disagreement: a score by ranx differs from pytrec_eval's by more than 1e-6.
    """
    for query_id, found in run.items():
        if any(map(math.isnan, found.values())):
            raise UserError(f"a document's score for query {query_id} is NaN: the system that made the run is at fault")
    if not qrels:  # as a validation split may be; the libraries know no mean of nothing
        return {measure: np.empty(0) for measure in measures}
    query_ids = sorted(qrels)
    ranked = {query_id: found for query_id, found in rank(run).items() if query_id in qrels and found}
    names = {query_id: _names([*ranked.get(query_id, ()), *qrels[query_id]]) for query_id in query_ids}

    def named(values: dict[str, Any], query_id: str) -> dict[str, Any]:
        return {names[query_id][doc_id]: value for doc_id, value in values.items()}

    # ranx passes over a query without results: it gets a document nobody judged.
    ours = ranx.Run({q: named(ranked[q], q) if q in ranked else {"unjudged": 0.0} for q in query_ids})
    scores: dict[str, np.ndarray] = {}
    for reads in dict.fromkeys(_MEASURES[measure][2] for measure in measures):
        wanted = {measure: _MEASURES[measure][:2] for measure in measures if _MEASURES[measure][2] == reads}
        seen = view(qrels, reads, relevance_level)
        judged = ranx.Qrels({query_id: named(seen[query_id], query_id) for query_id in query_ids})
        theirs = pytrec_eval.RelevanceEvaluator(seen, {by_trec for _, by_trec in wanted.values()}).evaluate(run)
        for measure, (by_ranx, by_trec) in wanted.items():
            found = ranx.evaluate(judged, ours, by_ranx, return_mean=False)
            scores[measure] = np.asarray(found, dtype=float)
            expected = np.array([theirs.get(query_id, {}).get(by_trec, 0.0) for query_id in query_ids])
            _check(measure, query_ids, scores[measure], expected)
    return {measure: scores[measure] for measure in measures}


def _names(doc_ids: list[str]) -> dict[str, str]:
    """Names of eight characters: ranx compiles its loops anew, for half a minute, for every width of the longest
    document id it meets, and keeps what it compiled."""
    return {doc_id: f"{number:08d}" for number, doc_id in enumerate(dict.fromkeys(doc_ids))}


def _check(measure: str, query_ids: list[str], by_ranx: np.ndarray, by_trec: np.ndarray) -> None:
    worst = int(np.argmax(np.abs(by_ranx - by_trec)))
    if not abs(by_ranx[worst] - by_trec[worst]) <= TOLERANCE:
        raise Disagreement(
            f"{measure} of query {query_ids[worst]}: ranx says {by_ranx[worst]:.6f}, pytrec_eval {by_trec[worst]:.6f}"
        )
