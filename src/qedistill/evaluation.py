"""Systems compared on a test set: means with intervals, paired tests, and what of the teacher's figure is retained."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import ranx
from scipy.stats import bootstrap

from qedistill import measures
from qedistill.params import Evaluation
from qedistill.text import Qrels, Run

# In the order of tables and plots.
QUERY, RM3, ROCCHIO = "query", "rm3", "rocchio"
STUDENTS = ("base", "sft", "dpo")
TEACHERS = {"zero_shot": "teacher-zero-shot", "few_shot": "teacher-few-shot"}
SYSTEMS = (QUERY, RM3, ROCCHIO, *STUDENTS, *TEACHERS.values())


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def evaluate(qrels: Qrels, runs: dict[str, Run], params: Evaluation, seed: int) -> dict[str, dict[str, Any]]:
    """Figures of every system on one test set.

    Args:
        qrels: judgments; their queries are what is averaged over.
        runs: system → run; `query` and the teacher's, where there, are what the others are compared with.
        seed: of the bootstrap's resamples and of the randomisation test.

    Returns:
        system → each measure's mean, nDCG@10's interval (`ndcg@10_low`, `_high`), the paired differences to the
        original query and to the teacher, of `dpo` also to `sft`, with their p-values (`vs_query.difference`, `.p`,
        …); `retention`: the system's nDCG@10 as a share of the teacher's; and `gain_kept`: its gain over the original
        query as a share of the teacher's gain; both with intervals.

    Raises:
        Disagreement: a figure by ranx differs from pytrec_eval's by more than 1e-6.
    """
    scores = {name: measures.score(qrels, run, relevance_level=params.relevance_level) for name, run in runs.items()}
    ndcg = {name: by_measure[measures.NDCG] for name, by_measure in scores.items()}
    p_values = _paired_tests(qrels, runs, ndcg, params, seed)
    teacher = TEACHERS[params.teacher]
    results: dict[str, dict[str, Any]] = {}
    for name, by_measure in scores.items():
        figures: dict[str, Any] = {measure: float(values.mean()) for measure, values in by_measure.items()}
        interval = _bootstrap(ndcg[name], None, params.bootstrap, seed)
        figures |= {"ndcg@10_low": interval.low, "ndcg@10_high": interval.high}
        others = {"vs_query": QUERY, "vs_teacher": teacher} | ({"vs_sft": "sft"} if name == "dpo" else {})
        for key, other in others.items():
            if other in runs and other != name:
                difference = _bootstrap(ndcg[name] - ndcg[other], None, params.bootstrap, seed)
                p = p_values[frozenset((name, other))]
                figures[key] = {
                    "difference": difference.value, "low": difference.low, "high": difference.high, "p": p,
                }  # fmt: skip
        if teacher in runs and ndcg[teacher].mean() > 0:
            share = _bootstrap(ndcg[name], ndcg[teacher], params.bootstrap, seed)
            figures |= {"retention": share.value, "retention_low": share.low, "retention_high": share.high}
        if {teacher, QUERY} <= runs.keys() and name != QUERY and ndcg[teacher].mean() > ndcg[QUERY].mean():
            gain = _bootstrap(ndcg[name] - ndcg[QUERY], ndcg[teacher] - ndcg[QUERY], params.bootstrap, seed)
            figures |= {"gain_kept": gain.value, "gain_kept_low": gain.low, "gain_kept_high": gain.high}
        results[name] = figures
    return results


def _paired_tests(
    qrels: Qrels, runs: dict[str, Run], ndcg: dict[str, np.ndarray], params: Evaluation, seed: int
) -> dict[frozenset[str], float]:
    """ranx.compare's p-value for every two systems (two-sided, not corrected for the number of tests)."""
    if len(runs) < 2:
        return {}
    judged, ranked = measures.to_ranx(measures.view(qrels, "grades"), runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of runs that score alike; _p_value sees to them
        report = ranx.compare(
            judged, ranked, [measures.NDCG], stat_test=params.test, max_p=params.alpha, random_seed=seed
        )
    for name, values in ndcg.items():
        mean = report.results[name][measures.NDCG]
        if abs(mean - values.mean()) > measures.TOLERANCE:
            raise measures.Disagreement(f"{name}: ranx.compare gives {mean:.6f}, pytrec_eval {values.mean():.6f}")
    names = list(runs)
    return {
        frozenset((a, b)): _p_value(report.comparisons[frozenset((a, b))][measures.NDCG]["p_value"])
        for i, a in enumerate(names)
        for b in names[:i]
    }


def _p_value(p: float) -> float:
    # Runs that score the same on every query have no variance to test: no difference at all.
    return 1.0 if np.isnan(p) else float(p)


def _bootstrap(values: np.ndarray, over: np.ndarray | None, resamples: int, seed: int) -> Interval:
    """A mean, or the ratio of two means of the same queries, with its percentile bootstrap interval over queries.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """

    def mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.mean(axis))

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(x.mean(axis) / y.mean(axis))

    statistic = mean if over is None else ratio
    data = (values,) if over is None else (values, over)
    value = float(statistic(*data))
    if len(values) < 2:
        return Interval(value, value, value)
    found = bootstrap(
        data, statistic, paired=True, vectorized=True, n_resamples=resamples, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(value, float(found.confidence_interval.low), float(found.confidence_interval.high))
