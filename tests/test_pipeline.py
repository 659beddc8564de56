"""The pipeline as a user runs it: real DVC, Lucene, training and MLflow, on a small Chinese collection and a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from clone import run

pytestmark = pytest.mark.slow


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def parents(project: Path) -> dict[str, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    return {r.info.run_name: r for r in found if "mlflow.parentRunId" not in r.data.tags}


def test_repro_runs_every_stage_once(project: Path, reproduced: str) -> None:
    assert sorted(stages_run(reproduced)) == sorted([
        "collection", "index", "exemplars", "teach@zero_shot", "teach@few_shot", "student", "sft", "sample", "feedback",
        "pairs", "dpo", "expand@base", "expand@sft", "expand@dpo", "retrieve", "evaluate",
    ])  # fmt: skip
    assert stages_run(run(project, "dvc", "repro")) == []
    assert not (project / "checkpoints/sft").exists()


def test_the_figures_make_sense(project: Path, reproduced: str) -> None:
    def figures(system: str) -> dict[str, Any]:
        return json.loads((project / f"metrics/evaluate/test/{system}.json").read_text())

    # The teacher names the words of the one relevant document.
    assert figures("teacher-few-shot")["ndcg@10"] == 1.0
    assert figures("query")["ndcg@10"] < 1.0
    assert figures("teacher-zero-shot")["vs_query"]["difference"] > 0
    pairs = json.loads((project / "metrics/pairs.json").read_text())["train"]
    assert pairs["with_pairs"] == pairs["queries"] == 6 and pairs["mean_difference"] > 0.2
    lines = [json.loads(line) for line in (project / "data/pairs/train.jsonl").read_text().splitlines()]
    assert {line["chosen_from"] for line in lines} <= {"zero_shot/0", "few_shot/0"}
    feedback = json.loads((project / "metrics/feedback.json").read_text())
    # 8 queries, one of them the exemplar, which has no few-shot answers.
    assert feedback["teacher"]["candidates"] == 8 * 2 + 7 * 2 and feedback["student"]["candidates"] == 8 * 2
    expanded = [json.loads(line) for line in (project / "data/expansions/dpo.jsonl").read_text().splitlines()]
    assert sorted({record["sample"] for record in expanded}) == [0, 1] and len(expanded) == 6 * 2
    weights = json.loads((project / "metrics/retrieve.json").read_text())["query_weight"]
    assert set(weights) == {"base", "sft", "dpo", "teacher-zero-shot", "teacher-few-shot"}
    assert len((project / "runs/test/teacher-few-shot.trec").read_text().splitlines()[0].split()) == 6
    assert "student, SFT + DPO" in run(project, "qedistill", "table")


def test_dvc_shows_metrics_and_plots(project: Path, reproduced: str) -> None:
    assert "ndcg@10" in run(project, "dvc", "metrics", "show", "metrics/evaluate")
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    for title in ("SFT loss", "DPO reward margin", "nDCG@10"):
        assert title in page


def test_an_experiment_runs_only_what_beta_changes(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--name", "half", "-S", "dpo.beta=0.5")
    assert stages_run(output) == ["dpo", "expand@dpo", "retrieve", "evaluate"]
    changed = json.loads(run(project, "dvc", "params", "diff", "--json"))
    assert changed == {"params.yaml": {"dpo.beta": {"old": 0.1, "new": 0.5, "diff": 0.4}}}
    assert "metrics/dpo.json" in run(project, "dvc", "metrics", "diff")

    found = parents(project)
    half, base = found["half"], next(r for name, r in found.items() if name != "half")
    assert (base.data.params["dpo.beta"], half.data.params["dpo.beta"]) == ("0.1", "0.5")
    # Also the figures of stages that DVC skipped.
    for key in ("evaluate/test.dpo.ndcg_10", "sft/eval_loss", "pairs/train.pairs"):
        assert key in base.data.metrics and key in half.data.metrics


def test_a_temporary_copy_logs_to_the_root_too(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "evaluation.bootstrap=50")
    assert stages_run(output) == ["evaluate"]
    assert "temporary" in parents(project)


def test_bad_params_stop_before_work(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "-S", "dpo.beta=-1", fails=True)
    assert "dpo.beta: Input should be greater than 0 (is -1)" in output
    run(project, "git", "checkout", "-q", "params.yaml")
