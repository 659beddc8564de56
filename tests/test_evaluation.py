"""Measures against pytrec_eval, comparisons by hand, and the results table."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from scipy.stats import ttest_rel

from qedistill import measures, report
from qedistill.errors import UserError
from qedistill.evaluation import evaluate
from qedistill.params import Evaluation
from qedistill.text import Qrels, Run, write_json

PARAMS = Evaluation(teacher="few_shot", relevance_level=2, test="student", alpha=0.05, bootstrap=500)


def judged_run(seed: int, ties: bool = True) -> tuple[Qrels, Run]:
    """Random judgments and results, with ties, absent queries and empty results."""
    r = random.Random(seed)
    docs = [f"document.{i}" * r.randint(1, 3) for i in range(300)]
    qrels = {f"q{i}": {d: r.choice([0, 0, 1, 2, 3]) for d in r.sample(docs, r.randint(1, 40))} for i in range(30)}
    run = {
        f"q{i}": {d: round(r.random() * 5, 1 if ties else 6) for d in r.sample(docs, r.randint(1, 250))}
        for i in range(27)
    }
    return qrels, run | {"q27": {}, "not judged": {"document.1": 1.0}}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [1, 2])
def test_measures_against_pytrec_eval(seed: int, level: int) -> None:
    qrels, run = judged_run(seed)
    scores = measures.score(qrels, run, relevance_level=level)
    names = {
        "ndcg@10": "ndcg_cut_10",
        "ap": "map",
        "mrr": "recip_rank",
        "recall@100": "recall_100",
        "recall@1000": "recall_1000",
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(names.values()), relevance_level=level).evaluate(run)
    for ours, trec in names.items():
        expected = [theirs.get(query, {}).get(trec, 0.0) for query in sorted(qrels)]
        np.testing.assert_allclose(scores[ours], expected, atol=1e-6)
    top = {q: sorted(found, key=lambda d: (np.float32(found[d]), d), reverse=True)[:10] for q, found in run.items()}
    judged = [sum(d in qrels[q] for d in top.get(q, [])) / 10 for q in sorted(qrels)]
    np.testing.assert_allclose(scores["judged@10"], judged, atol=1e-9)


def test_a_wrong_figure_stops_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    qrels, run = judged_run(0)
    right = measures.ranx.evaluate
    monkeypatch.setattr(measures.ranx, "evaluate", lambda *args, **kwargs: right(*args, **kwargs) * 0.99)
    with pytest.raises(measures.Disagreement, match="ndcg@10 of query .*ranx says .*pytrec_eval"):
        measures.score(qrels, run)


def systems() -> tuple[Qrels, dict[str, Run]]:
    """A teacher that finds the one relevant document first, a query that finds it third, a student in between."""
    qrels = {f"q{i}": {"good": 3, "bad": 0} for i in range(12)}

    def at(rank: int) -> dict[str, float]:
        others = [f"other{i}" for i in range(3)]
        order = [*others[: rank - 1], "good", *others[rank - 1 :]]
        return {doc_id: 10.0 - position for position, doc_id in enumerate(order)}

    student = {q: at(1 if i % 3 == 0 else 2) for i, q in enumerate(qrels)}
    return qrels, {
        "query": {q: at(3) for q in qrels}, "sft": student, "dpo": student, "teacher-few-shot": {q: at(1) for q in qrels},
    }  # fmt: skip


def test_comparisons_by_hand() -> None:
    qrels, runs = systems()
    results = evaluate(qrels, runs, PARAMS, seed=1)
    second = 1 / np.log2(3)
    student = (4 + 8 * second) / 12
    dpo = results["dpo"]
    assert dpo["ndcg@10"] == pytest.approx(student)
    assert dpo["retention"] == pytest.approx(student)
    assert dpo["retention_low"] < student < dpo["retention_high"]
    assert dpo["vs_query"]["difference"] == pytest.approx(student - 0.5)
    assert dpo["gain_kept"] == pytest.approx((student - 0.5) / 0.5)
    assert dpo["gain_kept_low"] < dpo["gain_kept"] < dpo["gain_kept_high"]
    assert dpo["vs_sft"]["difference"] == 0 and dpo["vs_sft"]["p"] == 1
    assert "gain_kept" not in results["query"] and "vs_sft" not in results["sft"]
    per_query = [1.0 if i % 3 == 0 else second for i in range(12)]
    # ranx compares in the sorted order of query ids; a paired test does not mind.
    assert dpo["vs_query"]["p"] == pytest.approx(ttest_rel(per_query, [0.5] * 12).pvalue, rel=1e-6)
    assert "ndcg@10_low" not in results["query"], "twelve queries of one score say nothing of the next"
    assert "vs_query" not in results["query"] and "vs_teacher" not in results["teacher-few-shot"]
    assert results["sft"]["vs_teacher"]["difference"] == pytest.approx(student - 1)


@pytest.mark.parametrize("test", ["student", "fisher"])
def test_one_query_proves_nothing(test: str) -> None:
    qrels, runs = systems()
    one = {"q0": qrels["q0"]}
    results = evaluate(one, runs, PARAMS.model_copy(update={"test": test}), seed=1)
    assert results["dpo"]["vs_query"]["difference"] > 0 and results["dpo"]["vs_query"]["p"] == 1
    json.dumps(results, allow_nan=False)


def test_the_same_seed_gives_the_same_intervals() -> None:
    qrels, runs = systems()
    assert evaluate(qrels, runs, PARAMS, seed=1) == evaluate(qrels, runs, PARAMS, seed=1)


def test_randomisation_test() -> None:
    qrels, runs = systems()
    results = evaluate(qrels, runs, PARAMS.model_copy(update={"test": "fisher"}), seed=1)
    assert results["dpo"]["vs_query"]["p"] < 0.01


def test_without_a_teacher() -> None:
    qrels, runs = systems()
    results = evaluate(qrels, {"query": runs["query"]}, PARAMS, seed=1)
    assert "retention" not in results["query"]


def test_the_table(tmp_path: Path) -> None:
    qrels, runs = systems()
    for name, figures in evaluate(qrels, runs, PARAMS, seed=1).items():
        write_json(tmp_path / "evaluate/test" / f"{name}.json", figures)
    write_json(tmp_path / "retrieve.json", {"query_weight": {"dpo": 5}})
    write_json(tmp_path / "expand@dpo.json", {"tokens_per_query": 31.7})
    header, body = report.rows(tmp_path, ["test"])
    assert [row[0] for row in body] == [
        "original query (BM25)",
        "student, SFT",
        "student, SFT + DPO",
        "teacher, few-shot",
    ]
    assert body[2][1] == "5" and body[2][-1] == "32" and body[2][3] == "<0.001"
    _, gained = report.gains(tmp_path, ["test"])
    figures = json.loads((tmp_path / "evaluate/test/dpo.json").read_text())["vs_query"]
    assert [row[0] for row in gained] == ["SFT − query", "DPO − query", "DPO − SFT"]
    assert gained[1][1] == f"+{figures['difference']:.3f} [+{figures['low']:.3f}, +{figures['high']:.3f}], p <0.001"
    markdown = report.to_markdown(header, body)
    assert len({line.count("|") for line in markdown.splitlines()}) == 1

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n")
    report.insert(readme, markdown)
    assert readme.read_text().splitlines()[2] == markdown.splitlines()[0]
    assert "old" not in readme.read_text() and readme.read_text().endswith("after\n")
    with pytest.raises(UserError, match="no <!-- results -->"):
        readme.write_text("nothing")
        report.insert(readme, markdown)


def test_the_table_has_rows_for_dense_and_fused(tmp_path: Path) -> None:
    qrels, runs = systems()
    figures = evaluate(qrels, runs, PARAMS, seed=1)
    for folder in ("test", "test.dense", "test.fused"):
        for name in ("query", "dpo"):
            write_json(tmp_path / "evaluate" / folder / f"{name}.json", figures[name])
    write_json(tmp_path / "retrieve.json", {"query_weight": {"dpo": 5}})
    _, body = report.rows(tmp_path, ["test", "other"])
    assert [row[:2] for row in body] == [
        ["original query (BM25)", "–"], ["student, SFT + DPO", "5"],
        ["original query, dense", "–"], ["student, SFT + DPO, dense", "–"],
        ["original query, fused", "–"], ["student, SFT + DPO, fused", "5"],
    ]  # fmt: skip
    assert {row[6] for row in body} == {"–"} and body[3][2] == body[1][2]


def test_no_results_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `dvc repro` first"):
        report.rows(tmp_path, ["test"])
