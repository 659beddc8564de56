"""Candidate scores and pairs, worked by hand."""

import math
from typing import Any

import pytest

from qedistill.feedback import from_source, make_pairs, score_candidates, summary
from qedistill.params import Pairs


def candidate(query: str, sample: int, score: float, baseline: float = 0.2, style: str = "zero_shot") -> dict[str, Any]:
    return {
        "query_id": query, "style": style, "sample": sample, "text": f"{query} {style} {sample}",
        "ndcg@10": score, "baseline": baseline,
    }  # fmt: skip


def params(strategy: str, margin: float = 0.1, per_query: int = 1) -> Pairs:
    return Pairs(candidates="teacher", strategy=strategy, margin=margin, per_query=per_query)  # type: ignore[arg-type]


def scores(pairs: list[Any]) -> list[tuple[float, float]]:
    return [(pair.chosen["ndcg@10"], pair.rejected["ndcg@10"]) for pair in pairs]


def test_scores_by_hand() -> None:
    # q: d1 of grade 3, d2 of grade 1; ideal DCG = 3/log2(2) + 1/log2(3).
    qrels = {"q": {"d1": 3, "d2": 1, "d3": 0}}
    ideal = 3 + 1 / math.log2(3)
    found = {"0": {"d2": 9.0, "d1": 8.0}, "1": {"d3": 1.0}, "2": {}}
    candidates = [{"query_id": "q", "text": name} for name in "abc"]
    scored = score_candidates(candidates, found, {"q": {"d3": 5.0, "d1": 4.0}}, qrels)
    assert [c["ndcg@10"] for c in scored] == pytest.approx([(1 + 3 / math.log2(3)) / ideal, 0, 0], abs=1e-6)
    assert scored[0]["baseline"] == pytest.approx(3 / math.log2(3) / ideal, abs=1e-6)


def test_more_than_ten_candidates_keep_their_scores() -> None:
    # Keys are positions as strings: "10" sorts before "2".
    qrels = {"q": {"d": 1}}
    candidates = [{"query_id": "q", "text": str(i)} for i in range(12)]
    found = {str(i): {"d" if i == 11 else "x": 1.0} for i in range(12)}
    assert [c["ndcg@10"] for c in score_candidates(candidates, found, {"q": {}}, qrels)] == [0.0] * 11 + [1.0]


def test_best_vs_worst_and_why_none() -> None:
    group = [
        candidate("a", 0, 0.5), candidate("a", 1, 0.9), candidate("a", 2, 0.1),
        candidate("zero", 0, 0.0), candidate("zero", 1, 0.0),
        candidate("tie", 0, 0.4), candidate("tie", 1, 0.4),
        candidate("near", 0, 0.40), candidate("near", 1, 0.45),
        candidate("one", 0, 1.0),
    ]  # fmt: skip
    pairs, figures = make_pairs(group, params("best-vs-worst"))
    assert scores(pairs) == [(0.9, 0.1)]
    assert figures == {
        "queries": 5, "with_pairs": 1, "pairs": 1, "mean_difference": pytest.approx(0.8),
        "without_pairs": {"all_zero": 1, "too_few": 1, "ties": 1, "below_margin": 1, "not_above_baseline": 0},
    }  # fmt: skip


def test_sources_and_their_summary() -> None:
    scored = [candidate("q", 0, 0.4), candidate("q", 0, 0.1, style="student"), candidate("q", 1, 0.3, style="student"),
              candidate("r", 0, 0.0, style="student")]  # fmt: skip
    assert [c["style"] for c in from_source(scored, "teacher")] == ["zero_shot"]
    assert len(from_source(scored, "student")) == 3 and from_source(scored, "both") == scored
    figures = summary(from_source(scored, "student"))
    assert figures["candidates"] == 3 and figures["best"] == pytest.approx(0.15)
    assert figures["ndcg@10"] == pytest.approx(0.4 / 3) and figures["beat_baseline"] == pytest.approx(1 / 3)


def test_a_difference_equal_to_the_margin_counts() -> None:
    # 0.3 - 0.2 < 0.1 in binary fractions.
    assert len(make_pairs([candidate("a", 0, 0.3), candidate("a", 1, 0.2)], params("best-vs-worst"))[0]) == 1


def test_all_takes_the_widest_first() -> None:
    group = [candidate("a", i, score) for i, score in enumerate((0.1, 0.5, 0.9, 0.45))]
    pairs, _ = make_pairs(group, params("all", per_query=3))
    assert scores(pairs) == [(0.9, 0.1), (0.9, 0.45), (0.9, 0.5)]
    everything, _ = make_pairs(group, params("all", per_query=99))
    assert sorted(scores(everything)) == sorted([(0.9, 0.1), (0.9, 0.45), (0.9, 0.5), (0.5, 0.1), (0.45, 0.1)])


def test_best_vs_worst_with_more_pairs_a_query() -> None:
    group = [candidate("a", i, score) for i, score in enumerate((0.1, 0.5, 0.9))]
    assert scores(make_pairs(group, params("best-vs-worst", per_query=2))[0]) == [(0.9, 0.1), (0.9, 0.5)]


def test_best_vs_baseline_losers() -> None:
    group = [candidate("a", i, score) for i, score in enumerate((0.9, 0.15, 0.2, 0.5))]
    pairs, _ = make_pairs(group, params("best-vs-baseline-losers", per_query=9))
    assert scores(pairs) == [(0.9, 0.15)]  # 0.2 equals the original query's: no loser
    none, figures = make_pairs([candidate("b", 0, 0.1), candidate("b", 1, 0.0)], params("best-vs-baseline-losers"))
    assert none == [] and figures["without_pairs"]["not_above_baseline"] == 1


def test_among_equals_the_first_wins() -> None:
    group = [candidate("a", i, score) for i, score in enumerate((0.0, 0.8, 0.0, 0.8))]
    (pair,), _ = make_pairs(group, params("best-vs-worst"))
    assert (pair.chosen["sample"], pair.rejected["sample"]) == (1, 2)
