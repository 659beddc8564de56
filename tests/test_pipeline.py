"""The pipeline as a user runs it: real DVC, Lucene, training and MLflow, on a small Chinese collection and a tiny model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
import yaml
from clone import TOPICS, run
from scipy.stats import ttest_rel
from test_report import blob

from qedistill.evaluation import SYSTEMS
from qedistill.report import NAMES
from qedistill.text import read_run, write_run

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
        "collection", "index", "embed", "exemplars", "teach@zero_shot", "teach@few_shot", "student", "sft", "sample", "feedback",
        "pairs", "dpo", "expand@base", "expand@sft", "expand@dpo", "retrieve", "evaluate",
        "cost@base", "cost@sft", "cost@dpo", "summary", "report",
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
    # 6 training queries, one of them the exemplar, which has no few-shot answers.
    assert feedback["teacher"]["candidates"] == 6 * 2 + 5 * 2 and feedback["student"]["candidates"] == 6 * 2
    expanded = [json.loads(line) for line in (project / "data/expansions/dpo.jsonl").read_text().splitlines()]
    assert sorted({record["sample"] for record in expanded}) == [0, 1] and len(expanded) == 6 * 2
    weights = json.loads((project / "metrics/retrieve.json").read_text())["query_weight"]
    assert set(weights) == {"base", "sft", "dpo", "teacher-zero-shot", "teacher-few-shot"}
    assert len((project / "runs/test/teacher-few-shot.trec").read_text().splitlines()[0].split()) == 6
    assert "student, SFT + DPO" in run(project, "qedistill", "table")


def test_the_report(project: Path, reproduced: str) -> None:
    page = (project / "report/report.html").read_text()
    data = blob(page)
    (test,) = data["tests"]
    assert test["systems"] == list(SYSTEMS) and [q["id"] for q in test["queries"]] == ["q8", "q9", "q10", "q11"]
    for system in SYSTEMS:
        mean = sum(q["ndcg"][system] for q in test["queries"]) / 4
        figures = json.loads((project / f"metrics/evaluate/test/{system}.json").read_text())
        assert mean == pytest.approx(figures["ndcg@10"], abs=1e-4)
    query = test["queries"][0]
    # The teacher's words are those of the one relevant document, whose rank each helps or leaves.
    ((relevant, grade, ranks),) = query["relevant"]
    assert (data["docs"][relevant][0], grade, ranks["teacher-few-shot"]) == ("d8", 1, 1)
    assert data["docs"][relevant][2] == f"{list(TOPICS.values())[8]}。第8篇"
    assert query["top"]["teacher-few-shot"][0] == [relevant, 1]
    assert query["expansions"]["teacher-few-shot"] == [list(TOPICS.values())[8]]
    assert len(query["expansions"]["dpo"]) == 2 and {"dpo", "sft", "teacher-few-shot"} == query["terms"].keys()
    commit = run(project, "git", "rev-parse", "HEAD~1").strip()  # the one the stages ran on
    for text in (
        commit,
        "dpo.beta",
        "SFT: loss",
        "DPO: reward margin",
        "Score differences",
        "models/dpo",
        "transformers",
    ):
        assert text in page
    assert len(page) < 1_000_000


def test_dvc_shows_metrics_and_plots(project: Path, reproduced: str) -> None:
    assert "ndcg@10" in run(project, "dvc", "metrics", "show", "metrics/evaluate")
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    for title in ("SFT loss", "DPO reward margin", "nDCG@10", "nDCG@10 of each query"):
        assert title in page


def test_queries_and_student_are_in_mlflow(project: Path, reproduced: str) -> None:
    client = store(project)
    (base,) = [r for r in parents(project).values() if "dvc.experiment" not in r.data.tags]
    table = json.loads((project / f"mlartifacts/{base.info.run_id}/artifacts/queries.json").read_text())
    assert len(table["data"]) == 4 + 2 and table["columns"][:2] == ["text", "dpo"]
    assert {"query_id", "split", "query", "teacher-few-shot", "difference"} <= set(table["columns"])
    plotted = (project / "plots/queries.csv").read_text().splitlines()
    assert plotted[0] == "rank,query_id,split,query,dpo,difference" and len(plotted) == 1 + 6
    names = {file.path for file in client.list_artifacts(base.info.run_id)}
    assert names == {"metrics", "queries.json", "report.html", "results.md", "runs-top-100.zip"}

    (version,) = [v for v in client.search_model_versions("name = 'qedistill-student'") if v.run_id == base.info.run_id]
    assert "dvc.md5" in version.tags and "# qedistill-student: dpo" in version.description
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {"nDCG_10 of DPO on test", "tokens a query of DPO"} <= {metric.key for metric in model.metrics}
    (adapter,) = project.glob(f"mlartifacts/**/{model.model_id}/**/adapter_model.safetensors")
    assert adapter.read_bytes() == (project / "models/dpo/adapter_model.safetensors").read_bytes()
    card = (adapter.parent / "README.md").read_text()
    assert "teacher, few-shot" in card and str(project) not in card


@pytest.fixture(scope="module")
def half(project: Path, reproduced: str) -> str:
    """What an experiment with another beta prints; the workspace holds its results at first."""
    return run(project, "dvc", "exp", "run", "--name", "half", "-S", "dpo.beta=0.5")


def test_an_experiment_runs_only_what_beta_changes(project: Path, half: str) -> None:
    # retrieve and evaluate may be spared: no time is in what they depend on, and so small a student may write or find what
    # it did before.
    spared = {"retrieve", "evaluate"}
    assert set(stages_run(half)) - spared == {"dpo", "expand@dpo", "cost@dpo", "summary", "report"}
    changed = json.loads(run(project, "dvc", "params", "diff", "--json"))
    assert changed == {"params.yaml": {"dpo.beta": {"old": 0.1, "new": 0.5, "diff": 0.4}}}
    # Sentences, and no more than fit a screen.
    figures = json.loads(run(project, "dvc", "metrics", "diff", "--all", "--json", "--targets", "metrics/summary.json"))
    assert list(figures) == ["metrics/summary.json"]
    assert set(figures["metrics/summary.json"]) == {
        "nDCG@10 of DPO on validation", "nDCG@10 of DPO on test", "nDCG@10 of SFT on test", "reward margin of DPO",
        "teacher gain kept by DPO on test", "p of DPO against the query on test", "validation loss of SFT",
        "tokens a query of DPO", "median seconds a query of DPO",
    }  # fmt: skip

    found = parents(project)
    other, base = found["half"], next(r for name, r in found.items() if name != "half")
    assert (base.data.params["dpo.beta"], other.data.params["dpo.beta"]) == ("0.1", "0.5")
    # The same figures in DVC and MLflow, also of stages that DVC skipped; and all curves.
    summary = json.loads((project / "metrics/summary.json").read_text())
    assert {key.replace("@", "_"): value for key, value in summary.items()}.items() <= other.data.metrics.items()
    assert base.data.metrics.keys() == other.data.metrics.keys() > {"sft/loss", "dpo/rewards/margins"}
    assert (other.data.tags["changes"], other.data.tags["test_sets"]) == ("dpo.beta=0.5", "test")


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
    assert readers == {"summary", "report"}


def row_of(output: str, first: str) -> list[str]:
    """The cells of the one printed row that starts with a name."""
    (line,) = [line for line in output.splitlines() if line.strip().startswith(f"{first}  ")]
    return re.split(r"\s{2,}", line.strip())


def test_compare_gives_the_figures_of_the_metrics_files(project: Path, half: str) -> None:
    output = run(project, "qedistill", "compare", "HEAD", "half")
    assert "\x1b" not in output and "…" not in output
    (ref,) = [r for r in run(project, "git", "for-each-ref", "--format=%(refname)").splitlines() if r.endswith("/half")]
    for system in SYSTEMS:
        committed = [
            json.loads(run(project, "git", "show", f"{revision}:metrics/evaluate/test/{system}.json"))["ndcg@10"]
            for revision in ("HEAD", ref)
        ]
        row = row_of(output, NAMES[system])
        assert row[1:3] == [f"{figure:.4f}" for figure in committed]
        assert row[3] == f"{committed[1] - committed[0]:+.4f}"  # of four queries, which give no interval
    assert row_of(output, "dpo.beta") == ["dpo.beta", "0.1", "0.5"]
    seconds = json.loads(run(project, "git", "show", f"{ref}:metrics/dpo.json"))["seconds"]
    assert float(row_of(output, "minutes of DPO")[2]) == pytest.approx(seconds / 60, abs=0.005)


def test_compare_tests_the_runs_query_by_query(project: Path, half: str) -> None:
    """The workspace, where one run is altered, against the last commit's runs in the cache; p by scipy."""
    run(project, "git", "checkout", "-q", ".")
    run(project, "dvc", "checkout", "--force")
    path = project / "runs/test/query.trec"
    before = read_run(path)
    after = before | {"q8": {"d8": 1.0}, "q9": {"other1": 2.0, "d9": 1.0}, "q10": {}}
    write_run(path, after, "query")
    row = row_of(run(project, "qedistill", "compare", "HEAD"), NAMES["query"])
    run(project, "dvc", "checkout", "--force")
    judged = {f"q{i}": {f"d{i}": 1} for i in range(8, 12)}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut_10"})
    scores = [
        [found.get(i, {"ndcg_cut_10": 0.0})["ndcg_cut_10"] for i in judged]
        for found in (evaluator.evaluate(before), evaluator.evaluate(after))
    ]
    assert row[1:3] == [f"{sum(values) / 4:.4f}" for values in scores]
    gains = [b - a for a, b in zip(*scores, strict=True)]
    surest = 2.0 ** (1 - sum(gain != 0 for gain in gains))  # of a randomisation test
    assert float(row[4]) == pytest.approx(max(ttest_rel(*scores).pvalue, surest), abs=0.0005)
    assert list(map(int, row[5:])) == [sum(g > 0 for g in gains), sum(g == 0 for g in gains), sum(g < 0 for g in gains)]
    assert len({*gains}) > 1


def test_compare_says_what_is_missing(project: Path, half: str) -> None:
    assert "no revision or DVC experiment 'none'" in run(project, "qedistill", "compare", "none", fails=True)
    (project / ".dvc/cache").rename(project / ".dvc/away")
    try:
        output = run(project, "qedistill", "compare", "HEAD", "half", fails=True)
    finally:
        (project / ".dvc/away").rename(project / ".dvc/cache")
    assert "the runs of HEAD are not in DVC's cache" in output and "Traceback" not in output


def test_show(project: Path, reproduced: str) -> None:
    run(project, "git", "checkout", "-q", ".")
    run(project, "dvc", "checkout", "--force")
    output = run(project, "qedistill", "show", "q8")
    assert f"q8 (test): {list(TOPICS)[8]}" in output and "\x1b" not in output and "…" not in output
    assert row_of(output, NAMES["teacher-few-shot"])[1] == list(TOPICS.values())[8]
    assert "test, teacher, few-shot: nDCG@10 1.0000" in output
    assert f"d8: {list(TOPICS.values())[8]}。第8篇" in output
    assert "no query 'q99'" in run(project, "qedistill", "show", "q99", fails=True)


def test_pictures(project: Path, reproduced: str) -> None:
    assert "docs/pictures/test.svg" in run(project, "qedistill", "pictures")
    assert (project / "docs/pictures/test.svg").read_text().count("<svg") == 1


def test_dense_retrieval_beside_sparse(project: Path, reproduced: str) -> None:
    def figures(split: str, system: str) -> dict[str, Any]:
        return json.loads((project / f"metrics/evaluate/{split}/{system}.json").read_text())

    assert json.loads((project / "metrics/embed.json").read_text())["documents"] == 0
    assert {path.name for path in (project / "runs").iterdir()} == {"validation", "test"}
    sparse = (project / "runs/test/teacher-few-shot.trec").read_text()
    scores = [json.loads(line)["ndcg@10"] for line in (project / "data/feedback.jsonl").read_text().splitlines()]
    output = run(
        project, "dvc", "exp", "run", "--name", "dense", "-S", "dense.encoder=encoder", "-S", "dense.index=hnsw",
        "-S", "dense.expansion=mean", "-S", "feedback.retriever=dense",
    )  # fmt: skip
    assert {"embed", "feedback", "retrieve", "evaluate"} <= set(stages_run(output))
    assert not {"index", "exemplars", "sft", "sample"} & set(stages_run(output))
    assert json.loads((project / "metrics/embed.json").read_text())["documents"] == 52
    assert (project / "runs/test/teacher-few-shot.trec").read_text() == sparse
    # The teacher names all characters of the one relevant document, in its order.
    assert figures("test.dense", "teacher-few-shot")["ndcg@10"] > figures("test.dense", "query")["ndcg@10"]
    assert figures("test.fused", "dpo")["vs_teacher"]["difference"] <= 0
    assert not (project / "metrics/evaluate/test.dense/rm3.json").exists()
    by_dense = [json.loads(line)["ndcg@10"] for line in (project / "data/feedback.jsonl").read_text().splitlines()]
    assert len(by_dense) == len(scores) and by_dense != scores
    table = run(project, "qedistill", "table")
    assert "teacher, few-shot, dense" in table and "original query, fused" in table
    assert "nDCG_10 of DPO on test.dense" in parents(project)["dense"].data.metrics
    run(project, "git", "checkout", "-q", ".")


def test_a_temporary_copy_logs_to_the_root_too(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "evaluation.bootstrap=50")
    assert set(stages_run(output)) - {"summary"} == {"evaluate", "report"}
    assert "temporary" in parents(project)


def test_bad_params_stop_before_work(project: Path, reproduced: str) -> None:
    output = run(project, "dvc", "exp", "run", "-S", "dpo.beta=-1", fails=True)
    assert "dpo.beta: Input should be greater than 0 (is -1)" in output
    run(project, "git", "checkout", "-q", "params.yaml")
