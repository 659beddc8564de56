"""Figures against answers that are known: worked by hand, or given by trec_eval's own C code or by SciPy.

pytrec_eval-terrier is trec_eval's C code with a Python interface, so what it says of raw judgments and runs is trec_eval.
"""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import binomtest, ttest_rel, wilcoxon

from qedistill import measures
from qedistill.errors import UserError
from qedistill.evaluation import _bootstrap, _p_value, evaluate, paired_difference
from qedistill.feedback import score_candidates
from qedistill.params import Bm25, Evaluation
from qedistill.retrieval import Searcher, build_index, combine
from qedistill.text import Qrels, Run, read_run, write_run

PARAMS = Evaluation(teacher="few_shot", relevance_level=1, test="student", alpha=0.05, bootstrap=500)
TREC = {"ndcg@10": "ndcg_cut_10", "ap": "map", "mrr": "recip_rank", "recall@100": "recall_100"}


def second(rank: int) -> float:
    return 1 / math.log2(rank + 1)


# Judgments and results of one query; what nDCG@10, AP and MRR must be.
CASES: dict[str, tuple[dict[str, int], dict[str, float], float, float, float]] = {
    # Of equal scores the last document id comes first: c, b, a.
    "tie": ({"a": 1}, {"a": 1.0, "b": 1.0, "c": 1.0}, second(3), 1 / 3, 1 / 3),
    # Ids are compared as strings: "9" before "10".
    "tie of numbers": ({"10": 1}, {"9": 1.0, "10": 1.0}, second(2), 1 / 2, 1 / 2),
    # Upper case sorts before lower case, and é after z.
    "tie of letters": ({"Z": 1, "é": 1}, {"Z": 1.0, "a": 1.0, "z": 1.0, "é": 1.0},
                       (1 + second(4)) / (1 + second(2)), (1 + 2 / 4) / 2, 1.0),
    # trec_eval reads scores as single floats, which do not tell these two apart: b, a.
    "tie in single precision": ({"a": 1}, {"a": 20.0000005, "b": 20.0}, second(2), 1 / 2, 1 / 2),
    "no tie in single precision": ({"a": 1}, {"a": 2.0000005, "b": 2.0}, 1.0, 1.0, 1.0),
    # The gain is the grade itself, not 2^grade - 1; the ideal is that of all judged documents, retrieved or not.
    "graded": ({"a": 1, "b": 3, "c": 2}, {"a": 3.0, "b": 2.0, "x": 1.0},
               (1 + 3 * second(2)) / (3 + 2 * second(2) + second(3)), (1 + 1) / 3, 1.0),
    # Who nobody judged takes a rank, and so does who was judged not relevant.
    "unjudged": ({"a": 1, "no": 0}, {"x": 4.0, "y": 3.0, "no": 2.0, "a": 1.0}, second(4), 1 / 4, 1 / 4),
    # A negative grade (spam, in some collections) gains nothing, and costs nothing but its rank.
    "negative": ({"spam": -2, "a": 2, "b": 1}, {"spam": 3.0, "b": 2.0, "a": 1.0},
                 (second(2) + 2 * second(3)) / (2 + second(2)), (1 / 2 + 2 / 3) / 2, 1 / 2),
    "beyond the tenth": ({"a": 1}, {f"x{i:02d}": 99.0 - i for i in range(10)} | {"a": 1.0}, 0.0, 1 / 11, 1 / 11),
    "nothing relevant": ({"a": 0}, {"a": 1.0}, 0.0, 0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_trec_eval_by_hand(case: str) -> None:
    grades, found, *expected = CASES[case]
    # Another query that the run lacks counts, as with trec_eval -c; one that nobody judged does not.
    qrels, run = {"q": grades, "not searched": {"a": 1}}, {"q": found, "not judged": {"a": 1.0}}
    ours = measures.score(qrels, run)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(run)["q"]
    for name, value in zip(("ndcg@10", "ap", "mrr"), expected, strict=True):
        assert theirs[TREC[name]] == pytest.approx(value, abs=1e-9), "the hand has erred"
        assert ours[name][sorted(qrels).index("q")] == pytest.approx(value, abs=1e-9)
        assert ours[name][sorted(qrels).index("not searched")] == 0
        assert len(ours[name]) == 2


def graded_run(seed: int) -> tuple[Qrels, Run]:
    """Random judgments from -2 to 4 and results full of ties, some of them in single precision alone."""
    r = random.Random(seed)
    docs = [f"{r.choice('aZé')}{n}" for n in range(400)]
    # A grade of 0 at least: where a query has none, trec_eval reads the levels of the query before.
    qrels = {
        f"q{n}": {"judged": 0} | {d: r.choice([-2, -1, 0, 0, 1, 2, 3, 4]) for d in r.sample(docs, r.randint(0, 60))}
        for n in range(60)
    }
    run = {
        f"q{n}": {d: r.choice([5, 20, 300]) + r.randint(0, 30) * r.choice([0.1, 1e-6]) for d in r.sample(docs, 200)}
        for n in range(5, 65)
    }
    return qrels, run


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("level", [1, 3])
def test_random_runs_against_trec_eval(seed: int, level: int) -> None:
    qrels, run = graded_run(seed)
    ours = measures.score(qrels, run, relevance_level=level)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values()), relevance_level=level).evaluate(run)
    assert len(theirs) == 55
    for name, trec in TREC.items():
        expected = [theirs.get(query, {}).get(trec, 0.0) for query in sorted(qrels)]
        np.testing.assert_allclose(ours[name], expected, atol=1e-9)


def test_a_run_file_keeps_the_order(tmp_path: Path) -> None:
    qrels, run = graded_run(0)
    write_run(tmp_path / "run.trec", run, "tag")
    for name, values in measures.score(qrels, read_run(tmp_path / "run.trec")).items():
        np.testing.assert_array_equal(values, measures.score(qrels, run)[name])


def test_pairs_are_scored_as_evaluation_scores(tmp_path: Path) -> None:
    # Many equal documents and long queries: ties at scores that a single float holds to no millionth, at rank ten too.
    r = random.Random(3)
    words = [f"word{n}" for n in range(12)]
    texts = {f"d{n:03d}": " ".join(r.choices(words, k=r.randint(1, 3))) for n in range(400)}
    fillers = {f"x{n}": f"number{n}" for n in range(400)}
    documents = [{"doc_id": i, "title": "", "text": text} for i, text in (texts | fillers).items()]
    build_index(documents, tmp_path / "index", "en", threads=1)
    searcher = Searcher(tmp_path / "index", "en", Bm25(k1=0.9, b=0.4))
    queries = {f"q{n}": " ".join(r.sample(words, 2)) for n in range(30)}
    qrels = {i: {d: r.choice([0, 1, 2, 3]) for d in texts} for i in queries}
    candidates = [{"query_id": i, "text": " ".join(r.choices(words, k=4))} for i in queries for _ in range(3)]
    weight = {n: r.choice([1, 8, 40]) for n in range(len(candidates))}
    searches = {str(n): combine(queries[c["query_id"]], c["text"], weight[n]) for n, c in enumerate(candidates)}

    scored = score_candidates(candidates, searcher.search(searches, 10), searcher.search(queries, 10), qrels)

    deep = searcher.search(searches, 1_000)
    assert max(max(found.values()) for found in deep.values()) > 64
    write_run(tmp_path / "run.trec", deep, "tag")
    judged = {str(n): qrels[c["query_id"]] for n, c in enumerate(candidates)}
    run = read_run(tmp_path / "run.trec")
    values = dict(zip(sorted(judged), measures.score(judged, run)["ndcg@10"], strict=True))
    assert len(set(values.values())) > 50
    assert [c["ndcg@10"] for c in scored] == [round(float(values[str(n)]), 6) for n in range(len(candidates))]
    # Lucene's order is the one that is scored.
    assert all(list(measures.rank({n: run[n]})[n]) == list(deep[n]) for n in deep)
    figures = evaluate(judged, {"query": run}, PARAMS, seed=1)
    assert figures["query"]["ndcg@10"] == pytest.approx(np.mean([c["ndcg@10"] for c in scored]), abs=5e-7)


def scores(seed: int, queries: int = 40) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(seed)
    first = r.beta(0.6, 1.0, queries).round(3)
    return first, np.clip(first + r.normal(0.04, 0.12, queries), 0, 1).round(3)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_against_scipy(seed: int) -> None:
    a, b = scores(seed)
    assert _p_value(a, b, "student", seed) == ttest_rel(a, b).pvalue
    # A normal approximation of the randomisation test: the sum of differences of random signs.
    z = abs((a - b).sum()) / np.sqrt(((a - b) ** 2).sum())
    assert _p_value(a, b, "fisher", seed) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.03)
    assert _p_value(a, b, "fisher", seed) == _p_value(a, b, "fisher", seed)
    assert _p_value(a, b, "fisher", seed) == pytest.approx(_p_value(b, a, "fisher", seed), abs=0.01)


def test_randomisation_of_few_queries_is_exact() -> None:
    # Differences of one size: the number of wins is binomial. Of ranks: Wilcoxon's signed-rank test is exact.
    tens = np.array([0.1] * 9 + [-0.1])
    assert _p_value(tens, np.zeros(10), "fisher", 0) == pytest.approx(binomtest(9, 10).pvalue)
    ranks = np.array([1, -2, 3, 4, 5, -6, 7, 8, 9, 10, 11.0])
    assert _p_value(ranks, np.zeros(11), "fisher", 0) == pytest.approx(wilcoxon(ranks, method="exact").pvalue)


@pytest.mark.parametrize("test", ["student", "fisher"])
def test_systems_that_score_alike(test: str) -> None:
    a, _ = scores(0)
    assert _p_value(a, a.copy(), test, 0) == 1.0


def test_a_randomisation_p_is_never_zero() -> None:
    ones = np.ones(60)
    assert _p_value(ones, np.zeros(60), "fisher", 0) == pytest.approx(2 / 10_000)


LOSS = 1 - second(2)
# Differences of queries, and p, which is no less than the randomisation test's.
DEGENERATE = {
    "one query": ([0.5], 1.0),
    "the same on two": ([0.5, 0.5], 0.5),
    "the same on two, but for rounding": ([LOSS, LOSS + 1e-16], 0.5),
    "nearly the same on two": ([0.5, 0.501], 0.5),
    "opposite": ([0.3, -0.3], 1.0),
    "the same on three": ([1.0] * 3, 0.25),
    "nearly the same on three": ([0.63, 0.63, 0.631], 0.25),
    "the same loss on six": ([-LOSS] * 6, 2 / 2**6),
    "nothing but ties": ([0.0] * 9, 1.0),
    "ties but for rounding": ([1e-9, -2e-9, 1e-16], 1.0),
    "two of a thousand": ([0.4, 0.4] + [0.0] * 998, 0.5),
    "the same on sixty": ([0.1] * 60, 2 / 10_000),  # too many to try all
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("test", ["student", "fisher"])
def test_no_certainty_from_queries_that_give_none(test: str, case: str) -> None:
    differences, expected = DEGENERATE[case]
    gain = np.array(differences)
    # Of a thousand queries not all randomisations are tried.
    error = 0.02 if len(gain) == 1_000 else 1e-9
    assert _p_value(gain, np.zeros(len(gain)), test, 0) == pytest.approx(expected, abs=error)


@pytest.mark.filterwarnings("error")
def test_where_there_is_no_interval() -> None:
    def ends(values: list[float], over: list[float] | None = None) -> bool:
        found = _bootstrap(np.array(values), None if over is None else np.array(over), 200, 0)
        assert found.value == pytest.approx(np.mean(values) / (1 if over is None else np.mean(over)))
        assert (found.low is None) == (found.high is None)
        return found.low is not None and found.high is not None and found.low <= found.value <= found.high

    assert not ends([0.5]) and not ends([0.2, 0.9]) and not ends([0.1, 0.2, 0.3, 0.4, 0.5])
    assert not ends([0.5] * 40) and not ends([LOSS, LOSS + 1e-16] * 20) and not ends([0.0] * 40)
    assert ends([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert not ends([0.5] * 40, [0.8] * 40) and ends([0.5] * 40, [0.7, 0.9] * 20)
    # The teacher against itself is 1, whatever the queries.
    assert ends([0.1, 0.9] * 20, [0.1, 0.9] * 20)


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
@pytest.mark.parametrize("queries", [1, 2, 9])
@pytest.mark.parametrize("first", [{}, {"a": 1.0}, {"x": 1.0}])
def test_degenerate_test_sets_are_evaluated(queries: int, first: dict[str, float]) -> None:
    qrels: Qrels = {f"q{n}": {"a": 1} for n in range(queries)}
    # Of `sft` the run is empty, of `dpo` the last query is missing, and one is there that nobody judged.
    found = {"a": 1.0}
    runs = {
        "query": dict.fromkeys(qrels, first), "sft": {}, "dpo": dict.fromkeys(list(qrels)[:-1], found) | {"other": found},
        "teacher-few-shot": dict.fromkeys(qrels, found),
    }  # fmt: skip
    figures = evaluate(qrels, runs, PARAMS, seed=1)
    assert figures["sft"]["ndcg@10"] == 0 and figures["dpo"]["ndcg@10"] == (queries - 1) / queries
    assert all("ndcg@10_low" not in figures[system] for system in ("query", "sft", "teacher-few-shot"))
    if first == found:  # the teacher gains nothing
        assert "gain_kept" not in figures["dpo"] and figures["teacher-few-shot"]["vs_query"]["p"] == 1
    else:
        assert figures["dpo"]["gain_kept"] == pytest.approx((queries - 1) / queries)
        assert figures["teacher-few-shot"]["vs_query"] == {"difference": 1.0, "p": pytest.approx(2 / 2**queries)}


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(UserError, match="no judged query"):
        evaluate({}, {"query": {}}, PARAMS, seed=1)
    with pytest.raises(UserError, match="no judged query"):
        paired_difference({}, {}, {}, PARAMS, seed=1)
    assert {name: list(values) for name, values in measures.score({}, {}, ("ap",)).items()} == {"ap": []}
    with pytest.raises(UserError, match="query q is NaN"):
        measures.score({"q": {"a": 1}}, {"q": {"b": 1.0, "a": math.nan}})


def test_the_interval_covers_what_it_says() -> None:
    # Of 600 samples of 80 queries with skewed scores, some of them 0, the 95 % interval must hold the true mean, and the
    # true ratio of two means, in some 95 %; a standard error of the count is 0.9 %. Too few queries make the percentile
    # interval a little narrow: 94 % is what to expect.
    r = np.random.default_rng(7)
    draws = 600
    mean = ratio = 0
    for seed in range(draws):
        found = r.random(80) < 0.8
        teacher = np.where(found, r.beta(2.0, 1.2, 80), 0.0)
        student = teacher * r.beta(3.0, 2.0, 80)  # three fifths of the teacher's, on average
        own, share = (_bootstrap(student, other, 600, seed) for other in (None, teacher))
        assert own.low is not None and own.high is not None and share.low is not None and share.high is not None
        mean += own.low <= 0.8 * 2.0 / 3.2 * 0.6 <= own.high
        ratio += share.low <= 0.6 <= share.high
    assert 0.92 <= mean / draws <= 0.97 and 0.92 <= ratio / draws <= 0.97


def test_a_ratio_that_the_queries_do_not_bound_has_no_interval() -> None:
    # One query in ten makes the whole of the teacher's gain: every third resample lacks it.
    qrels = {f"q{n}": {"good": 1} for n in range(10)}
    first, last = {"good": 2.0, "bad": 1.0}, {"good": 1.0, "bad": 2.0}
    runs = {
        "query": dict.fromkeys(qrels, last), "dpo": dict.fromkeys(qrels, last) | {"q0": first},
        "teacher-few-shot": dict.fromkeys(qrels, last) | {"q0": first},
    }  # fmt: skip
    figures = evaluate(qrels, runs, PARAMS, seed=1)["dpo"]
    assert figures["gain_kept"] == pytest.approx(1.0)
    assert "gain_kept_low" not in figures and "gain_kept_high" not in figures
    assert figures["retention_low"] == pytest.approx(figures["retention_high"]) == pytest.approx(1.0)
