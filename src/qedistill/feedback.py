"""Retrieval feedback: candidate expansions scored by nDCG@10, and chosen/rejected pairs made of the scores."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qedistill import measures
from qedistill.params import Pairs
from qedistill.text import Qrels, Run

Candidate = dict[str, Any]  # an expansion; once scored, with "ndcg@10" and "baseline"


def score_candidates(candidates: list[Candidate], run: Run, baseline: Run, qrels: Qrels) -> list[Candidate]:
    """The candidates with their own nDCG@10 and that of the original query.

    Args:
        run: results of query + candidate; keys are the candidates' positions as strings.
        baseline: results of the original queries.
        qrels: judgments of every candidate's query.
    """
    keys = {str(position): candidate["query_id"] for position, candidate in enumerate(candidates)}
    scores = measures.score({key: qrels[query_id] for key, query_id in keys.items()}, run, (measures.NDCG,))
    by_key = dict(zip(sorted(keys), scores[measures.NDCG], strict=True))
    original = measures.score(qrels, baseline, (measures.NDCG,))
    by_query = dict(zip(sorted(qrels), original[measures.NDCG], strict=True))
    return [
        candidate
        | {
            "ndcg@10": round(float(by_key[str(position)]), 6),
            "baseline": round(float(by_query[candidate["query_id"]]), 6),
        }
        for position, candidate in enumerate(candidates)
    ]


def from_source(candidates: list[Candidate], source: str) -> list[Candidate]:
    """The candidates of the `teacher`, of the `student` itself, or of `both`."""
    return [c for c in candidates if source == "both" or (c["style"] == "student") == (source == "student")]


def summary(scored: list[Candidate]) -> dict[str, float]:
    """Of scored candidates: how many, mean nDCG@10, mean of each query's best, mean of the original queries at the
    same weights, and the share that beats the original query."""
    best: dict[str, float] = {}
    for candidate in scored:
        best[candidate["query_id"]] = max(best.get(candidate["query_id"], 0.0), candidate["ndcg@10"])
    return {
        "candidates": len(scored),
        "ndcg@10": sum(c["ndcg@10"] for c in scored) / len(scored),
        "best": sum(best.values()) / len(best),
        "baseline": sum(c["baseline"] for c in scored) / len(scored),
        "beat_baseline": sum(c["ndcg@10"] > c["baseline"] for c in scored) / len(scored),
    }


@dataclass(frozen=True)
class Pair:
    """Two candidates of one query, the first better by the margin at least."""

    chosen: Candidate
    rejected: Candidate

    @property
    def difference(self) -> float:
        return float(self.chosen["ndcg@10"] - self.rejected["ndcg@10"])


def make_pairs(candidates: list[Candidate], params: Pairs) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs of every query's candidates, and how they came about.

    The paper's method is best-vs-worst. `all` takes every two candidates a margin apart, widest first;
    `best-vs-baseline-losers` sets the best, where it beats the original query, against those that fall below it.
    Among equal scores the candidate that stands first wins, so that the same input gives the same pairs.

    Returns:
        The pairs in the order of the queries, and metrics: queries, with_pairs, pairs, mean_difference, and why the
        other queries gave none: all_zero (no candidate finds anything), too_few (under two candidates), ties (all
        the same score), below_margin, not_above_baseline (best-vs-baseline-losers only: no candidate beats the
        original query, or none falls below it).
    """
    by_query: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_query[candidate["query_id"]].append(candidate)
    pairs: list[Pair] = []
    without: Counter[str] = Counter(all_zero=0, too_few=0, ties=0, below_margin=0, not_above_baseline=0)
    with_pairs = 0
    for group in by_query.values():
        found = sorted(_pair_up(group, params), key=lambda pair: -pair.difference)[: params.per_query]
        pairs += found
        if found:
            with_pairs += 1
        else:
            without[_why_none(group, params)] += 1
    mean = sum(pair.difference for pair in pairs) / len(pairs) if pairs else 0.0
    return pairs, {
        "queries": len(by_query),
        "with_pairs": with_pairs,
        "pairs": len(pairs),
        "mean_difference": mean,
        "without_pairs": dict(without),
    }


def _pair_up(group: list[Candidate], params: Pairs) -> list[Pair]:
    ranked = sorted(group, key=lambda candidate: -candidate["ndcg@10"])
    best = ranked[0]
    match params.strategy:
        case "best-vs-worst":
            # Widest first: where per_query is above 1, the best goes against the next to worst too.
            pairs = [Pair(best, other) for other in ranked[:0:-1]]
        case "all":
            pairs = [Pair(better, worse) for better, worse in combinations(ranked, 2)]
        case "best-vs-baseline-losers":
            losers = [c for c in ranked if c["ndcg@10"] < c["baseline"]] if best["ndcg@10"] > best["baseline"] else []
            pairs = [Pair(best, loser) for loser in reversed(losers)]
    # 1e-9: a difference equal to the margin counts, whatever binary fractions make of it.
    return [pair for pair in pairs if pair.difference >= params.margin - 1e-9]


def _why_none(group: list[Candidate], params: Pairs) -> str:
    scores = [candidate["ndcg@10"] for candidate in group]
    if len(group) < 2:
        return "too_few"
    if max(scores) == 0:
        return "all_zero"
    if max(scores) == min(scores):
        return "ties"
    if max(scores) - min(scores) < params.margin - 1e-9:
        return "below_margin"
    return "not_above_baseline"
