"""The pipeline as a user runs it: real DVC, Lucene, training and MLflow, on a small Chinese collection and a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import run

pytestmark = pytest.mark.slow


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def store(project: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def parents(project: Path) -> dict[str, Any]:
    client = store(project)
    found = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    return {r.info.run_name: r for r in found if "mlflow.parentRunId" not in r.data.tags}


def test_repro_runs_every_stage_once(project: Path, reproduced: str) -> None:
    assert sorted(stages_run(reproduced)) == sorted([
        "collection", "index", "exemplars", "teach@zero_shot", "teach@few_shot", "student", "sft", "sample", "feedback",
        "pairs", "dpo", "expand@base", "expand@sft", "expand@dpo", "retrieve", "evaluate",
        "cost@base", "cost@sft", "cost@dpo", "summary",
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
    for title in ("SFT loss", "DPO reward margin", "nDCG@10", "nDCG@10 of each query"):
        assert title in page


def test_an_experiment_runs_only_what_beta_changes(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--name", "half", "-S", "dpo.beta=0.5")
    # evaluate may be spared: no time is in what it depends on, and so small a student may find what it found before.
    assert set(stages_run(output)) - {"evaluate"} == {"dpo", "expand@dpo", "cost@dpo", "retrieve", "summary"}
    changed = json.loads(run(project, "dvc", "params", "diff", "--json"))
    assert changed == {"params.yaml": {"dpo.beta": {"old": 0.1, "new": 0.5, "diff": 0.4}}}
    # Sentences, and no more than fit a screen.
    figures = json.loads(run(project, "dvc", "metrics", "diff", "--all", "--json", "metrics/summary.json"))
    assert list(figures) == ["metrics/summary.json"]
    assert set(figures["metrics/summary.json"]) == {
        "nDCG@10 of DPO on validation", "nDCG@10 of DPO on test", "nDCG@10 of SFT on test", "reward margin of DPO",
        "teacher gain kept by DPO on test", "p of DPO against the query on test", "validation loss of SFT",
        "tokens a query of DPO", "median seconds a query of DPO",
    }  # fmt: skip

    found = parents(project)
    half, base = found["half"], next(r for name, r in found.items() if name != "half")
    assert (base.data.params["dpo.beta"], half.data.params["dpo.beta"]) == ("0.1", "0.5")
    # The same figures in DVC and MLflow, also of stages that DVC skipped; and all curves.
    summary = json.loads((project / "metrics/summary.json").read_text())
    assert {key.replace("@", "_"): value for key, value in summary.items()}.items() <= half.data.metrics.items()
    assert base.data.metrics.keys() == half.data.metrics.keys() > {"sft/loss", "dpo/rewards/margins"}
    assert (half.data.tags["changes"], half.data.tags["test_sets"]) == ("dpo.beta=0.5", "test")


def test_queries_and_student_are_in_mlflow(project: Path, reproduced: str) -> None:
    client = store(project)
    (base,) = [r for r in parents(project).values() if "dvc.experiment" not in r.data.tags]
    table = json.loads((project / f"mlartifacts/{base.info.run_id}/artifacts/queries.json").read_text())
    assert len(table["data"]) == 4 + 2 and table["columns"][:2] == ["text", "dpo"]
    assert {"query_id", "split", "query", "teacher-few-shot", "difference"} <= set(table["columns"])
    plotted = (project / "plots/queries.csv").read_text().splitlines()
    assert plotted[0] == "rank,query_id,split,query,dpo,difference" and len(plotted) == 1 + 6
    names = {file.path for file in client.list_artifacts(base.info.run_id)}
    assert names == {"metrics", "queries.json", "results.md", "runs-top-100.zip"}

    (version,) = [v for v in client.search_model_versions("name = 'qedistill-student'") if v.run_id == base.info.run_id]
    assert "dvc.md5" in version.tags and "# qedistill-student: dpo" in version.description
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {"nDCG_10 of DPO on test", "tokens a query of DPO"} <= {metric.key for metric in model.metrics}
    (adapter,) = project.glob(f"mlartifacts/**/{model.model_id}/**/adapter_model.safetensors")
    assert adapter.read_bytes() == (project / "models/dpo/adapter_model.safetensors").read_bytes()
    card = (adapter.parent / "README.md").read_text()
    assert "teacher, few-shot" in card and str(project) not in card


def test_timing_is_an_input_of_the_summary_alone(project: Path, reproduced: str) -> None:
    for model in ("base", "sft", "dpo"):
        cost = json.loads((project / f"metrics/cost@{model}.json").read_text())
        expanded = json.loads((project / f"metrics/expand@{model}.json").read_text())
        assert cost["samples"] == expanded["samples"] == 2 and cost["batch_size"] in (2, 4)
        assert not {"seconds", "tokens_per_second"} & expanded.keys()
    teacher = json.loads((project / "metrics/cost@few_shot.json").read_text())
    assert teacher["completion_tokens_per_query"] is teacher["price_per_1000_queries"] is None
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    readers = {name for name, stage in lock.items() if any("metrics/cost@" in dep["path"] for dep in stage["deps"])}
    assert readers == {"summary"}


def test_a_temporary_copy_logs_to_the_root_too(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "evaluation.bootstrap=50")
    assert set(stages_run(output)) - {"summary"} == {"evaluate"}
    assert "temporary" in parents(project)


def test_bad_params_stop_before_work(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "-S", "dpo.beta=-1", fails=True)
    assert "dpo.beta: Input should be greater than 0 (is -1)" in output
    run(project, "git", "checkout", "-q", "params.yaml")
