import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from qedistill import registry, tracking
from qedistill.errors import UserError
from qedistill.layout import repository_root
from qedistill.params import Params, load_params

SECRET = "sk-a-secret-of-the-test"
BETA = 0.25


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty store: making one takes seconds, copying it none."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def root(tmp_path, monkeypatch, template):
    """A repository with a store, a space in its path, an API key in its environment, and no DVC around it."""
    folder = tmp_path / "a repository"
    (folder / "stages").mkdir(parents=True)
    (folder / "stages/dpo.py").write_text("pass\n")
    (folder / "mlflow.db").write_bytes(template)
    (folder / "profiles").mkdir()
    for name in ("pyapi", "smoke"):
        shutil.copy(Path(__file__).parents[1] / f"profiles/{name}.yaml", folder / "profiles")
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QEDISTILL_API_KEY", SECRET)
    monkeypatch.chdir(folder)
    git("init", "-q")
    git("add", "stages", "profiles")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false", "commit", "-qm", "first")
    return folder


@pytest.fixture
def params() -> Params:
    return with_beta(BETA)


def with_beta(beta: float) -> Params:
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    return params.model_copy(update={"dpo": params.dpo.model_copy(update={"beta": beta})})


def git(*args: str) -> None:
    subprocess.run(["git", *args], check=True)


def runs(root: Path, uri: str | None = None):
    """(parents, nested runs), oldest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("qedistill")
    found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]) if experiment else []
    nested = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return [run for run in found if run not in nested], nested, client


def test_parent_and_nested_runs(root, params):
    Path("metrics").mkdir()
    Path("metrics/dpo.json").write_text("{}")
    with tracking.stage_run("dpo", params) as run:
        run.curve([{"step": 1, "loss": 0.7, "note": "no number"}, {"step": 2, "loss": 0.5}])
        run.metrics({"validation": {"loss": 0.6}, "ndcg@10": 0.4, "model": "text"})
        run.artifact("metrics/dpo.json")
    with tracking.stage_run("expand@dpo", params):
        pass

    (parent,), (dpo, expand), client = runs(root)
    commit = parent.data.tags["mlflow.source.git.commit"]
    assert parent.info.run_name == f"pyapi dpo.beta={BETA} ({commit[:7]})"
    assert {name: parent.data.tags[name] for name in ("profile", "changes", "test_sets", "mlflow.source.name")} == {
        "profile": "pyapi", "changes": f"dpo.beta={BETA}", "test_sets": "test-unseen, test-seen",
        "mlflow.source.name": "dvc.yaml",
    }  # fmt: skip
    assert dpo.data.tags["mlflow.source.name"] == "stages/dpo.py"
    assert [run.info.run_name for run in (dpo, expand)] == ["dpo", "expand@dpo"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (dpo, expand)} == {parent.info.run_id}
    assert {run.info.status for run in (parent, dpo, expand)} == {"FINISHED"}
    assert {run.data.tags["git.dirty"] for run in (parent, dpo)} == {"false"}
    assert parent.data.params["dpo.beta"] == str(BETA)
    figures = {"dpo/validation.loss": 0.6, "dpo/ndcg_10": 0.4}
    assert parent.data.metrics == {}
    assert dpo.data.metrics == {**figures, "dpo/loss": 0.5}
    assert [(m.step, m.value) for m in client.get_metric_history(dpo.info.run_id, "dpo/loss")] == [(1, 0.7), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(dpo.info.run_id)] == ["dpo.json"]
    assert (root / "mlartifacts").is_dir()
    assert not (root / "mlruns").exists()


def test_parent_of_an_experiment_of_dvc_is_found_again_for_the_same_params(root, params, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "it's-a-name")
    for each in (params, params, with_beta(0.5)):
        with tracking.stage_run("dpo", each) as run:
            run.metrics({"loss": each.dpo.beta})

    parents, nested, _ = runs(root)
    assert [parent.info.run_name for parent in parents] == ["it's-a-name"] * 2
    assert [parent.data.params["dpo.beta"] for parent in parents] == [str(BETA), "0.5"]
    assert [run.data.tags["mlflow.parentRunId"] for run in nested] == [parents[i].info.run_id for i in (0, 0, 1)]


def test_declared_params_and_hashes(root, params):
    stages = {
        "teach": {"matrix": {"style": ["zero_shot"]}, "outs": ["data/teach"]},
        "dpo": {
            "foreach": ["a", "b"],
            "do": {
                "params": ["seed", "dpo", {"other.yaml": ["x"]}],
                "deps": ["stages/dpo.py", "data/teach/${item}.jsonl", "data/${collection.language}"],
            },
        },
    }
    lock = {
        "dpo@a": {"deps": [{"path": "data/teach", "md5": "9" * 32}], "outs": [{"path": "models/dpo", "md5": "8" * 32}]},
        "teach@zero_shot": {
            "deps": [{"path": "recordings", "md5": "3" * 32 + ".dir"}, {"path": "stages/teach.py", "md5": "4" * 32}],
            "outs": [{"path": "data/teach", "md5": "1" * 32 + ".dir"}, {"path": "data/en", "md5": "2" * 32}],
        },
        "report": {"deps": [{"path": "data/teach", "md5": "9" * 32}]},  # as it was before teach ran again
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    with tracking.stage_run("dpo@a", params) as run:
        run.data()

    (parent,), (dpo,), _ = runs(root)
    assert {name.partition(".")[0] for name in dpo.data.params} == {"seed", "dpo"}
    assert len(parent.data.params) > len(dpo.data.params)
    inputs = {"data/teach": "1" * 32, "data/en": "2" * 32}
    assert digests(dpo) == inputs
    assert digests(parent) == {**inputs, "recordings": "3" * 32}
    assert dpo.data.tags["git.dirty"] == "true"  # dvc.yaml is new


def digests(run) -> dict[str, str]:
    return {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}


def test_what_users_compare_is_on_the_parent(root, params):
    name = "nDCG@10 of DPO on test-unseen"
    Path("results.md").write_text("| a |")
    with tracking.stage_run("summary", params) as run:
        run.metrics({"rows": 2})
        run.experiment.metrics({name: 0.5})
        run.experiment.curve([{"step": 1, "rewards/margins": 0.1}, {"step": 2, "rewards/margins": 0.2}], section="dpo")
        run.experiment.artifact("results.md")
        for _ in range(2):  # the second time in place of the first
            run.experiment.table([{"query_id": "q1", "dpo": 0.5}, {"query_id": "q2", "sft": 0.0}], "queries")
        run.experiment.describe("| table |")

    (parent,), (summary,), client = runs(root)
    assert parent.data.metrics == {name.replace("@", "_"): 0.5, "dpo/rewards/margins": 0.2}
    assert [m.step for m in client.get_metric_history(parent.info.run_id, "dpo/rewards/margins")] == [1, 2]
    assert summary.data.metrics == {"summary/rows": 2}
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"queries.json", "results.md"}
    table = client.load_table(parent.info.experiment_id, "queries.json")
    assert list(table.columns) == ["query_id", "dpo", "sft"] and list(table["dpo"].fillna(-1)) == [0.5, -1]
    assert parent.data.tags["mlflow.note.content"] == "| table |"


def student(root: Path, digest: str = "7" * 32, adapter: bool = True) -> None:
    """A student's folder, as dvc.lock tells of it."""
    Path("models/dpo").mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors") if adapter else ("model.safetensors",):
        (root / "models/dpo" / name).write_text("{}")
    lock = {"stages": {"dpo": {"outs": [{"path": "models/dpo", "md5": f"{digest}.dir"}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))


def test_a_new_student_is_a_version_of_the_registered_model(root, params, monkeypatch):
    # beta-0.5 twice, then an experiment that trains no other student, then one that does.
    for name, digest in (("beta-0.5", "7"), ("beta-0.5", "7"), ("v2", "7"), ("beta-0.9", "8")):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        student(root, digest * 32)
        with tracking.stage_run("summary", params) as run:
            run.experiment.metrics({"nDCG@10": 0.5})
            run.model("students", Path("models/dpo"), f"---\ntags: [a]\n---\n# Card of {name}", {"nDCG@10": 0.5})

    parents, _, client = runs(root)
    first, second = sorted(client.search_model_versions("name = 'students'"), key=lambda v: int(v.version))
    assert (first.description, second.description) == ("# Card of beta-0.5", "# Card of beta-0.9")
    assert [v.tags["dvc.md5"] for v in (first, second)] == ["7" * 32, "8" * 32]
    assert first.run_id == parents[0].info.run_id and second.run_id == parents[-1].info.run_id
    # A dot is not allowed in an alias, v2 would name a version.
    aliases = {"beta-0-5": first.version, "run-v2": first.version, "beta-0-9": second.version}
    assert client.get_registered_model("students").aliases == aliases
    model_id = first.source.removeprefix("models:/")
    (stored,) = root.glob(f"mlartifacts/**/{model_id}")
    assert {file.name for file in stored.rglob("*.*")} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    assert {m.key: m.value for m in client.get_logged_model(model_id).metrics} == {"nDCG_10": 0.5}
    # Once for each time it ran: two values of one run would be a curve.
    assert [len(client.get_metric_history(run.info.run_id, "nDCG_10")) for run in parents] == [2, 1, 1]


def test_a_student_is_registered_from_a_temporary_copy_of_dvc(root, params, monkeypatch, capsys):
    copy = root / ".dvc/tmp/exps/standalone/tmp1"
    shutil.copytree(root / "stages", copy / "stages")
    monkeypatch.chdir(copy)
    student(copy)
    with tracking.stage_run("summary", params) as run:
        run.model("students", Path("models/dpo"), "# Card", {})
    _, _, client = runs(root)
    (version,) = client.search_model_versions("name = 'students'")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert "Warning" not in capsys.readouterr().err and not (copy / "mlflow.db").exists()


def test_a_whole_model_stays_with_dvc(root, params):
    student(root, adapter=False)
    with tracking.stage_run("summary", params) as run:
        run.model("students", Path("models/dpo"), "# Card", {})
    assert [path.name for path in root.glob("mlartifacts/**/*.*") if path.is_file()] == ["README.md"]


def test_changes_of_an_experiment_are_those_since_its_baseline(root, params, monkeypatch):
    default = (Path(__file__).parents[1] / "profiles/pyapi.yaml").read_text()
    Path("params.yaml").write_text(default.replace("seed: 42", "seed: 7").replace("epochs: 2.2", "epochs: 9"))
    git("add", "params.yaml")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false", "commit", "-qm", "mine")
    monkeypatch.setenv("DVC_EXP_NAME", "half")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "HEAD")
    with tracking.stage_run("dpo", params):
        pass
    tags = runs(root)[0][0].data.tags
    assert (tags["profile"], tags["changes"]) == ("pyapi", f"seed=42, sft.epochs=2.2, dpo.beta={BETA}")


@pytest.mark.parametrize(
    ("name", "alias"), [("pyapi (592f522)", "pyapi-592f522"), ("latest", "run-latest"), ("鸟", "run-"), ("7", "run-7")]
)
def test_alias(name, alias):
    assert registry.alias(name) == alias


def test_failure_marks_both_runs_and_passes_through(root, params):
    with pytest.raises(ZeroDivisionError), tracking.stage_run("sft", params) as run:
        run.metrics({"loss": 0.1})
        raise ZeroDivisionError
    (parent,), (sft,), _ = runs(root)
    assert (parent.info.status, sft.info.status) == ("FAILED", "FAILED")
    assert sft.data.metrics == {"sft/loss": 0.1}
    assert parent.data.metrics == {}

    with tracking.stage_run("sft", params):
        assert runs(root)[0][0].info.status == "RUNNING"
    assert runs(root)[0][0].info.status == "FINISHED"


def test_no_secret_in_store_or_artifacts(root, params):
    Path("plot.json").write_text("[]")
    with tracking.stage_run("dpo", params) as run:
        run.artifact("plot.json")
    files = [path for path in [*root.glob("mlflow.db*"), *root.glob("mlartifacts/**/*")] if path.is_file()]
    assert len(files) >= 2
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("copy", ["", ".dvc/tmp/exps/tmp1a2b3c", ".dvc/tmp/exps/standalone/tmp1a2b3c"])
def test_store_is_in_the_repository_root(root, params, monkeypatch, copy):
    workspace = root / copy
    workspace.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(workspace)
    assert repository_root(Path.cwd()) == root
    Path("figure.json").write_text("{}")
    with tracking.stage_run("index", params) as run:
        run.artifact("figure.json")
    assert len(runs(root)[0]) == 1
    assert len(list(root.glob("mlartifacts/*/artifacts/figure.json"))) == 1
    assert not copy or not list(workspace.glob("mlflow.db"))


def test_outside_git(root, params, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with tracking.stage_run("index", params):
        pass
    assert runs(root)[0][0].info.run_name == f"pyapi dpo.beta={BETA} (no git)"


def test_unreachable_server_is_told_at_once_and_without_its_password(root, params, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@127.0.0.1:9?token={SECRET}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as caught, tracking.stage_run("dpo", params):
        pytest.fail("the stage must not start")
    assert SECRET not in caught.value.message
    assert "127.0.0.1:9" in caught.value.message
    assert "\n" not in caught.value.message
    assert SECRET not in "".join(capsys.readouterr())


def test_store_lost_midway_does_not_fail_the_stage(root, params, capsys):
    with tracking.stage_run("dpo", params) as run:
        run.metrics({"kept": 1})
        run.artifact("missing.json")
        run.metrics({"late": 2})
    warning = capsys.readouterr().err
    assert warning.count("Warning") == 1
    assert "missing.json" in warning
    assert runs(root)[1][0].data.metrics == {"dpo/kept": 1}


def test_server_named_by_the_environment_wins(root, params, monkeypatch, tmp_path, capsys):
    import mlflow.server
    from werkzeug.serving import make_server

    monkeypatch.setenv(mlflow.server.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{tmp_path}/served.db")
    monkeypatch.setenv(mlflow.server.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(mlflow.server.SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(mlflow.server.ARTIFACTS_DESTINATION_ENV_VAR, (tmp_path / "served").as_uri())
    (tmp_path / "served.db").write_bytes((root / "mlflow.db").read_bytes())
    before = (root / "mlflow.db").read_bytes()
    server = make_server("127.0.0.1", 0, mlflow.server.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@127.0.0.1:{server.server_port}")
        Path("figure.json").write_text("{}")
        student(root)
        with tracking.stage_run("dpo", params) as run:
            run.metrics({"loss": 0.5})
            run.artifact("figure.json")
            run.experiment.table([{"query_id": "q1", "dpo": 0.5}], "queries")
            run.model("students", Path("models/dpo"), "# Card", {"loss": 0.5})
        assert not any(capsys.readouterr())
        _, (dpo,), client = runs(root, os.environ["MLFLOW_TRACKING_URI"])
        assert dpo.data.metrics == {"dpo/loss": 0.5, "loss": 0.5}
        (version,) = client.search_model_versions("name = 'students'")
        assert (version.description, version.status) == ("# Card", "READY")
    finally:
        server.shutdown()
    for name in ("figure.json", "queries.json", "adapter_model.safetensors"):
        assert len(list((tmp_path / "served").glob(f"**/{name}"))) == 1
    assert (root / "mlflow.db").read_bytes() == before
    assert SECRET.encode() not in (tmp_path / "served.db").read_bytes()
