"""Scores of a run for each query: ranx, and every figure a second time by pytrec_eval."""

import warnings

import numpy as np
import pytrec_eval
import ranx

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


def to_ranx(qrels: Qrels, runs: dict[str, Run]) -> tuple[ranx.Qrels, list[ranx.Run]]:
    """Judgments and runs for ranx: runs in trec_eval's order, over exactly the queries judged.

    Documents get names of eight characters: ranx compiles its loops anew, for half a minute, for every width of the
    longest document id it meets, and keeps what it compiled. A query without results gets a document nobody judged,
    for ranx passes over a query that has none.
    """
    number: dict[str, int] = {}

    def name(doc_id: str) -> str:
        return f"{number.setdefault(doc_id, len(number)):08d}"

    judged = {q: {name(doc_id): grade for doc_id, grade in grades.items()} for q, grades in qrels.items()}
    ranked = {
        system: {q: {name(d): s for d, s in found.items()} for q, found in rank(run).items() if q in qrels and found}
        for system, run in runs.items()
    }
    return ranx.Qrels(judged), [
        ranx.Run({q: run.get(q, {"unjudged": 0.0}) for q in sorted(qrels)}, name=system)
        for system, run in ranked.items()
    ]


def score(
    qrels: Qrels, run: Run, measures: tuple[str, ...] = MEASURES, relevance_level: int = 1
) -> dict[str, np.ndarray]:
    """Scores of a run on every query of `qrels`; a query that the run lacks scores 0.

    Args:
        relevance_level: the lowest grade that counts as relevant for AP, MRR and recall.

    Returns:
        measure → float array of shape (queries,), in the order of sorted(qrels).

    Raises:
        Disagreement: a score by ranx differs from pytrec_eval's by more than 1e-6.
    """
    query_ids = sorted(qrels)
    scores: dict[str, np.ndarray] = {}
    for measure in measures:
        by_ranx, by_trec, reads = _MEASURES[measure]
        seen = view(qrels, reads, relevance_level)
        judged, (ours,) = to_ranx(seen, {"run": run})
        scores[measure] = np.asarray(ranx.evaluate(judged, ours, by_ranx, return_mean=False), dtype=float)
        theirs = pytrec_eval.RelevanceEvaluator(seen, {by_trec}).evaluate(run)
        expected = np.array([theirs.get(query_id, {}).get(by_trec, 0.0) for query_id in query_ids])
        worst = int(np.argmax(np.abs(scores[measure] - expected)))
        if not abs(scores[measure][worst] - expected[worst]) <= TOLERANCE:
            raise Disagreement(
                f"{measure} of query {query_ids[worst]}: ranx says {scores[measure][worst]:.6f}, "
                f"pytrec_eval {expected[worst]:.6f}"
            )
    return scores
