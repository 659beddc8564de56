"""Systems compared on a test set: means with intervals, paired tests, and what of the teacher's figure is retained."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap, permutation_test, ttest_rel

from qedistill import measures
from qedistill.errors import UserError
from qedistill.params import Evaluation
from qedistill.text import Qrels, Run

# In the order of tables and plots.
QUERY, RM3, ROCCHIO = "query", "rm3", "rocchio"
STUDENTS = ("base", "sft", "dpo")
TEACHERS = {"zero_shot": "teacher-zero-shot", "few_shot": "teacher-few-shot"}
SYSTEMS = (QUERY, RM3, ROCCHIO, *STUDENTS, *TEACHERS.values())

PERMUTATIONS = 9_999  # of the randomisation test, where the queries are too few for all that there are
# Queries, at least, for a 95 % interval: all of fewer lie on one side of their median by chance in more than 5 %.
FEWEST = 6


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; None and None where the queries give none."""

    value: float
    low: float | None
    high: float | None

    def named(self, name: str, prefix: str = "") -> dict[str, float]:
        """The figure under a name, and the ends that it has as `<prefix>low` and `<prefix>high`."""
        ends = {f"{prefix}low": self.low, f"{prefix}high": self.high}
        return {name: self.value} | {key: end for key, end in ends.items() if end is not None}


def evaluate(qrels: Qrels, runs: dict[str, Run], params: Evaluation, seed: int) -> dict[str, dict[str, Any]]:
    """Figures of every system on one test set.

    Args:
        qrels: judgments; their queries are what is averaged over.
        runs: system → run; `query` and the teacher's, where there, are what the others are compared with.
        seed: of the bootstrap's resamples and of the randomisation test.

    Returns:
        system → each measure's mean, nDCG@10's interval (`ndcg@10_low`, `_high`), the paired differences to the
        original query and to the teacher, of `dpo` also to `sft`, with their p-values (`vs_query.difference`, `.low`,
        `.high`, `.p`, …); `retention`: the system's nDCG@10 as a share of the teacher's; and `gain_kept`: its gain over
        the original query as a share of the teacher's gain, where there is one. Intervals are left out where the
        queries give none: fewer than six, all of one score, or, of a share, too few that the teacher wins.

    Raises:
        UserError: there is no judged query.
        Disagreement: a figure by ranx differs from pytrec_eval's by more than 1e-6.
    """
    if not qrels:
        raise UserError("no judged query: there is nothing to evaluate on")
    scores = {name: measures.score(qrels, run, relevance_level=params.relevance_level) for name, run in runs.items()}
    ndcg = {name: by_measure[measures.NDCG] for name, by_measure in scores.items()}
    teacher = TEACHERS[params.teacher]
    results: dict[str, dict[str, Any]] = {}
    for name, by_measure in scores.items():
        figures: dict[str, Any] = {measure: float(values.mean()) for measure, values in by_measure.items()}
        mean = _bootstrap(ndcg[name], None, params.bootstrap, seed)
        figures |= mean.named(measures.NDCG, f"{measures.NDCG}_")
        others = {"vs_query": QUERY, "vs_teacher": teacher} | ({"vs_sft": "sft"} if name == "dpo" else {})
        for key, other in others.items():
            if other in runs and other != name:
                difference = _bootstrap(ndcg[name] - ndcg[other], None, params.bootstrap, seed)
                p = _p_value(ndcg[name], ndcg[other], params.test, seed)
                figures[key] = difference.named("difference") | {"p": p}
        if teacher in runs and ndcg[teacher].mean() > measures.TOLERANCE:
            share = _bootstrap(ndcg[name], ndcg[teacher], params.bootstrap, seed)
            figures |= share.named("retention", "retention_")
        if {teacher, QUERY} <= runs.keys() and name != QUERY:
            possible = ndcg[teacher] - ndcg[QUERY]
            if possible.mean() > measures.TOLERANCE:
                gain = _bootstrap(ndcg[name] - ndcg[QUERY], possible, params.bootstrap, seed)
                figures |= gain.named("gain_kept", "gain_kept_")
        results[name] = figures
    return results


@dataclass(frozen=True)
class Difference:
    """nDCG@10 of two runs of one system, `second` less `first` with interval and p, and on how many queries it is
    better, worse and the same."""

    first: float
    second: float
    difference: Interval
    p: float
    better: int
    worse: int
    same: int


def paired_difference(qrels: Qrels, first: Run, second: Run, params: Evaluation, seed: int) -> Difference:
    """Two runs compared as `evaluate` compares systems.

    Raises:
        UserError, Disagreement: as `evaluate`.
    """
    if not qrels:
        raise UserError("no judged query: there is nothing to compare on")
    runs = {"first": first, "second": second}
    ndcg = {name: measures.score(qrels, run, (measures.NDCG,))[measures.NDCG] for name, run in runs.items()}
    gain = ndcg["second"] - ndcg["first"]
    return Difference(
        float(ndcg["first"].mean()),
        float(ndcg["second"].mean()),
        _bootstrap(gain, None, params.bootstrap, seed),
        _p_value(ndcg["second"], ndcg["first"], params.test, seed),
        int((gain > measures.TOLERANCE).sum()),
        int((gain < -measures.TOLERANCE).sum()),
        int((np.abs(gain) <= measures.TOLERANCE).sum()),
    )


def _p_value(a: np.ndarray, b: np.ndarray, test: str, seed: int) -> float:
    """Of the mean difference between two systems' scores on the same queries; two-sided, not corrected.

    The t-test reads chance off the spread of the differences alone: where all gain about the same, it is certain after
    two queries. Hence it is never surer than the randomisation test can be of so many that differ (all signs alike: 2
    of 2^n), which stands in for it where there is no spread.

    SciPy's randomisation test, not ranx's: that one heeds no seed, for its threads draw from generators of their own.

    Source: Smucker et al. 2007, A Comparison of Statistical Significance Tests for Information Retrieval Evaluation.
    """
    difference = a - b
    differ = int((np.abs(difference) > measures.TOLERANCE).sum())
    if len(a) < 2 or not differ:
        return 1.0  # of one query nothing is known, and here is no difference at all
    if test == "student" and np.ptp(difference) > measures.TOLERANCE:
        return max(float(ttest_rel(a, b).pvalue), 2.0 ** (1 - differ))
    found = permutation_test(
        (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=PERMUTATIONS, batch=1_000,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _bootstrap(values: np.ndarray, over: np.ndarray | None, resamples: int, seed: int) -> Interval:
    """A mean, or the ratio of two means of the same queries, with its percentile bootstrap interval over queries.

    There is no interval where queries are too few for one, or do not differ, so that resamples do not either. A
    resample in which the second mean is not above zero bounds the ratio nowhere: it counts as infinite.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """

    def mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.mean(axis))

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        over = np.asarray(y.mean(axis))
        return np.where(over > 0, x.mean(axis) / np.where(over > 0, over, 1), np.inf)

    statistic = mean if over is None else ratio
    data = (values,) if over is None else (values, over)
    value = float(statistic(*data))
    if len(values) < FEWEST or max(map(np.ptp, data)) <= measures.TOLERANCE:
        return Interval(value, None, None)
    with np.errstate(invalid="ignore"):  # SciPy gives the standard error too, which infinite ratios have not
        found = bootstrap(
            data, statistic, paired=True, vectorized=True, n_resamples=resamples, method="percentile",
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    low, high = map(float, found.confidence_interval)
    return Interval(value, low, high) if np.isfinite([low, high]).all() else Interval(value, None, None)
