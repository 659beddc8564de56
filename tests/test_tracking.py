import datetime
import io
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from qedistill import registry, store, tracking
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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"http://someone:{SECRET}@127.0.0.1:9?token={SECRET}", "127.0.0.1"),
        (f"http://some/one:{SECRET}@127.0.0.1:9", "127.0.0.1"),
        (f"postgresql://someone:{SECRET}@127.0.0.1:9/mlflow", "psycopg"),
        (f"mysql+nothing://someone:{SECRET}@127.0.0.1/mlflow", "mysql.nothing"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null"),
        ("file:///tmp/mlruns", "file"),
        ("nonsense://", "nonsense"),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_and_the_stage_goes_on(root, params, monkeypatch, capsys, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with tracking.stage_run("dpo", params) as run:
        assert run.experiment_name.startswith("pyapi")
        run.curve([{"step": 1, "loss": 0.5}])
        run.experiment.metrics({"figure": 1})
        run.data()
        run.model("students", Path("models/dpo"), "# Card", {})
    out, err = capsys.readouterr()
    assert err.startswith("Warning: MLflow lacks all of dpo: ") and err.count("\n") == 1 and not out
    assert said in err and SECRET not in err


def test_what_mlflow_does_not_take_is_told_once_and_the_rest_is_logged(root, params, capsys):
    with tracking.stage_run("dpo", params) as run:
        run.metrics({"kept": 1})
        for _ in range(2):
            run.artifact("missing.json")
        run.metrics({"late": 2})
    warning = capsys.readouterr().err
    assert warning.count("Warning") == 1
    assert "missing.json" in warning
    (parent,), (dpo,), _ = runs(root)
    assert dpo.data.metrics == {"dpo/kept": 1, "dpo/late": 2}
    assert {run.info.status for run in (parent, dpo)} == {"FINISHED"}


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mlflow.tracking", "qedistill.tracking"])  # seconds, once


def a_stage(folder: Path, stage: str, begun=None, seconds: float = 0.0) -> None:
    """A stage in a process of its own."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.chdir(folder)
    with tracking.stage_run(stage, with_beta(BETA)) as run:
        run.metrics({"figure": 1})
        if begun is not None:
            begun.set()
        time.sleep(seconds)


def started(folder: Path, stage: str, seconds: float = 0.0, wait: bool = True):
    """A stage under way."""
    begun = FORKS.Event()
    process = FORKS.Process(target=a_stage, args=(folder, stage, begun, seconds))
    process.begun = begun  # else it may be gone before the process has it
    process.start()
    if wait:
        assert begun.wait(60)
    return process


def ended(*processes) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def statuses(root: Path) -> dict[str, str]:
    parents, nested, _ = runs(root)
    return {run.info.run_name.partition(" ")[0]: run.info.status for run in (*parents, *nested)}


def test_several_processes_open_a_store_that_is_not_there(root, capfd):
    (root / "mlflow.db").unlink()
    assert ended(*[started(root, f"expand@{n}", wait=False) for n in range(3)]) == [0, 0, 0]
    assert "Warning" not in capfd.readouterr().err
    _, nested, _ = runs(root)
    assert sorted(run.info.run_name for run in nested) == ["expand@0", "expand@1", "expand@2"]
    assert {run.info.status for run in nested} == {"FINISHED"}
    assert {path.name for path in root.glob("*mlflow*")} == {"mlflow.db", "mlflow.db-lock"}


def test_killed_at_any_moment_the_next_stage_goes_on_and_nothing_runs_for_ever(root, capfd):
    (root / "mlflow.db").unlink()
    for moment in (0.3, 0.8, 1.3, 1.8, 2.3, 0.2, 0.4, 0.6):  # making a store takes two seconds, opening it half of one
        process = started(root, "sft", seconds=60, wait=False)
        time.sleep(moment)
        process.kill()
        assert ended(process) == [-signal.SIGKILL]
    assert ended(started(root, "dpo")) == [0]
    assert "Warning" not in capfd.readouterr().err
    parents, nested, _ = runs(root)
    assert {run.info.status for run in nested if run.info.run_name == "sft"} <= {"KILLED"}
    assert {run.info.status for run in (*parents, *nested) if run.info.run_name != "sft"} == {"FINISHED"}
    assert {path.name for path in root.iterdir()} <= {
        ".git", "stages", "profiles", "mlartifacts", "mlflow.db", "mlflow.db-lock"
    }  # fmt: skip


def test_runs_are_closed_when_their_process_has_gone_and_not_before(root, monkeypatch, params):
    dead, alive = started(root, "sft", seconds=60), started(root, "feedback", seconds=60)
    dead.kill()
    ended(dead)
    monkeypatch.setenv("DVC_EXP_NAME", "another")
    with tracking.stage_run("dpo", params):
        pass
    assert statuses(root) == {
        "pyapi": "RUNNING", "sft": "KILLED", "feedback": "RUNNING", "another": "FINISHED", "dpo": "FINISHED"
    }  # fmt: skip
    alive.terminate()  # SIGTERM
    assert ended(alive) == [128 + signal.SIGTERM]
    assert statuses(root) == {
        "pyapi": "KILLED", "sft": "KILLED", "feedback": "KILLED", "another": "FINISHED", "dpo": "FINISHED"
    }  # fmt: skip


def cut_off(root: Path, template: bytes) -> None:
    (root / "mlflow.db").write_bytes(template)
    with closing(sqlite3.connect(root / "mlflow.db")) as db:
        db.executescript(
            "DELETE FROM experiments; DROP TABLE webhooks; UPDATE alembic_version SET version_num = '451aebb31d03'"
        )
    os.utime(root / "mlflow.db", (0, 0))


@pytest.mark.parametrize("state", ["cut off", "begun", "empty", "journal of a lost one"])
def test_a_store_whose_making_was_cut_off_is_set_aside_and_made_again(root, params, capsys, template, state):
    path = root / "mlflow.db"
    if state == "cut off":
        cut_off(root, template)
    elif state == "begun":
        path.unlink()
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        os.utime(path, (0, 0))
    elif state == "empty":
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    else:
        path.rename(root / "mlflow.db-journal")
    before = next(root.glob("mlflow.db*")).read_bytes()
    with tracking.stage_run("dpo", params) as run:
        run.metrics({"loss": 0.5})
    err = capsys.readouterr().err
    assert "Warning" not in err and ("mlflow.db-unfinished" in err) == (state != "journal of a lost one")
    assert runs(root)[1][0].data.metrics == {"dpo/loss": 0.5}
    (aside,) = root.glob("mlflow.db-unfinished*")
    assert aside.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE alembic_version SET version_num = '451aebb31d03'", "mlflow db upgrade 'sqlite+pysqlite:///"),
        ("DELETE FROM alembic_version", "mlflow db upgrade"),
        ("UPDATE alembic_version SET version_num = 'abcdefabcdef'", "a newer MLflow"),
        (None, "file is not a database"),
    ],
)
def test_a_store_of_another_version_or_a_damaged_one_is_told_and_left(root, params, capsys, change, said):
    path = root / "mlflow.db"
    if change:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(change)
    else:
        path.write_bytes(b"<<<<<<< HEAD\n" * 1000)
    before = path.read_bytes()
    with tracking.stage_run("dpo", params) as run:
        run.metrics({"loss": 0.5})
    err = capsys.readouterr().err
    assert err.count("Warning") == 1 and said in err and str(path) in err
    assert path.read_bytes() == before


def test_a_lock_of_another_process_is_waited_for(root, params, capsys):
    db = sqlite3.connect(root / "mlflow.db", check_same_thread=False, isolation_level=None)
    with closing(db):
        db.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(6, db.execute, ("ROLLBACK",))  # longer than SQLite's default
        timer.start()
        with tracking.stage_run("dpo", params) as run:
            run.metrics({"loss": 0.5})
        timer.join()
    assert not capsys.readouterr().err
    assert runs(root)[1][0].data.metrics == {"dpo/loss": 0.5}


def test_a_lock_without_end_is_told(root, params, capsys, monkeypatch):
    monkeypatch.setattr("qedistill.store.WAIT", 0.2)
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with tracking.stage_run("dpo", params) as run:
            run.metrics({"loss": 0.5})
    assert capsys.readouterr().err.endswith("mlflow.db: database is locked\n")


def test_what_users_do_in_the_ui(root, params, capsys):
    def stage(name: str = "dpo"):
        with tracking.stage_run(name, params) as run:
            run.metrics({"loss": 0.5})
        parents, nested, client = runs(root)
        return parents, nested, client, capsys.readouterr().err

    parents, nested, client, _ = stage()
    experiment_id = parents[0].info.experiment_id
    client.delete_run(parents[0].info.run_id)
    parents, nested, _, err = stage()
    assert len(parents) == 1 and nested[-1].data.tags["mlflow.parentRunId"] == parents[0].info.run_id and not err
    client.rename_experiment(experiment_id, "old")
    parents, nested, _, err = stage()
    assert [run.info.run_name for run in nested] == ["dpo"] and not err

    client.delete_experiment(parents[0].info.experiment_id)
    *_, err = stage()
    assert err == "MLflow's experiment 'qedistill' was deleted: 'qedistill (2)' is used until you restore it\n"
    *_, err = stage()
    second = client.get_experiment_by_name("qedistill (2)").experiment_id
    assert not err and len(client.search_runs([second], "tags.mlflow.parentRunId != ''")) == 2
    client.restore_experiment(parents[0].info.experiment_id)
    client.restore_run(parents[0].info.run_id)
    parents, nested, _, err = stage("sft")
    assert nested[-1].info.run_name == "sft" and not err

    # While a stage runs.
    with tracking.stage_run("dpo", params) as run:
        client.delete_run(run.run_id)
        run.metrics({"loss": 0.5})
        run.experiment.metrics({"headline": 0.7})
        shutil.rmtree(root / "mlartifacts", ignore_errors=True)
        run.experiment.artifact("stages/dpo.py")
    err = capsys.readouterr().err
    assert err.count("Warning") == 1 and "deleted" in err
    parents, *_ = runs(root)
    assert parents[-1].data.metrics == {"headline": 0.7} and parents[-1].info.status == "FINISHED"
    assert len(list(root.glob("mlartifacts/**/dpo.py"))) == 1


def test_an_experiment_made_in_the_ui_gets_artifacts(root, params, capsys):
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{root}/mlflow.db").create_experiment("qedistill", "mlflow-artifacts:/1")
    with tracking.stage_run("dpo", params) as run:
        run.artifact("stages/dpo.py")
    assert not capsys.readouterr().err
    assert len(list(root.glob("mlartifacts/1/**/dpo.py"))) == 1


def test_registered_students_survive_what_users_delete(root, params, capsys):
    def register(digest: str) -> None:
        student(root, digest * 32)
        with tracking.stage_run("summary", params) as run:
            run.model("it's students", Path("models/dpo"), "# Card", {"nDCG@10": 0.5})

    register("1")
    register("2")
    _, _, client = runs(root)
    _, second = sorted(client.search_model_versions(), key=lambda version: int(version.version))
    client.delete_model_version("it's students", second.version)
    register("2")
    (alias,) = client.get_registered_model("it's students").aliases
    client.delete_registered_model_alias("it's students", alias)
    register("2")
    assert [v.tags["dvc.md5"][0] for v in client.search_model_versions()] == ["2", "1"]
    client.rename_registered_model("it's students", "kept")
    register("1")
    assert {model.name for model in client.search_registered_models()} == {"it's students", "kept"}
    client.delete_registered_model("it's students")
    register("1")
    assert list(client.get_registered_model("it's students").aliases) == [alias]
    assert not capsys.readouterr().err


def test_artifacts_of_a_moved_project_are_found_and_written_there(root, params, monkeypatch, tmp_path, capsys):
    student(root)
    for name in ("summary", "dpo"):
        with tracking.stage_run(name, params) as run:
            run.artifact("stages/dpo.py")
            run.model("students", Path("models/dpo"), "# Card", {})
        if name == "summary":
            shutil.copytree(root, tmp_path / "moved 100%")
            before = sorted(root.glob("mlartifacts/**/*"))
            monkeypatch.chdir(tmp_path / "moved 100%")
            capsys.readouterr()
    assert capsys.readouterr().err == f"mlflow.db: the project was at {root}; artifacts are looked for here now\n"
    assert sorted(root.glob("mlartifacts/**/*")) == before
    client = store.connect(store.address(Path.cwd()), Path.cwd())[0]
    found = client.search_runs(["1"], "tags.mlflow.parentRunId != ''")
    assert [[file.path for file in client.list_artifacts(run.info.run_id)] for run in found] == [["dpo.py"]] * 2
    (version,) = client.search_model_versions()
    assert client.get_logged_model(version.source.removeprefix("models:/")).artifact_location.startswith(
        Path.cwd().as_uri()
    )
    assert not (tmp_path / "moved 100%25").exists() and not (tmp_path / "moved 100%2525").exists()


@pytest.mark.parametrize("name", ["per%20cent", "que?stion", "ha#sh", 'it\'s "q" [ab]; x&y=z@w', "鸟 ~"])
def test_a_project_folder_of_any_name(root, params, monkeypatch, tmp_path, capsys, name):
    folder = tmp_path / "place" / name
    shutil.copytree(root, folder)
    monkeypatch.chdir(folder)
    student(folder)
    with tracking.stage_run("summary", params) as run:
        run.artifact("stages/dpo.py")
        run.model("students", Path("models/dpo"), "# Card", {})
    assert not capsys.readouterr().err
    assert (run.experiment_name or "").startswith("pyapi")
    client = store.connect(store.address(folder), folder)[0]
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["dpo.py"]
    assert len(list((folder / "mlartifacts").rglob("adapter_model.safetensors"))) == 1
    assert os.listdir(tmp_path / "place") == [name]


def test_the_store_is_not_blamed_for_what_it_did_not_do(root, params, capsys):
    Path("profiles/.#own.yaml").symlink_to("someone@host.123:456")
    Path("profiles/~own.yaml").write_bytes(b"\xff\xfe")
    Path("profiles/mine.yaml").mkdir()
    Path("profiles/list.yaml").write_text("- a\n")
    Path("profiles/torn.yaml").write_text("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n")
    Path("profiles/gone.yaml").symlink_to("nowhere.yaml")
    with tracking.stage_run("dpo", params):
        pass
    assert not capsys.readouterr().err
    assert runs(root)[0][0].data.tags["profile"] == "pyapi"

    Path("dvc.lock").write_text("schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages: 1\n>>>>>>> other\n")
    with tracking.stage_run("dpo", params):
        pass
    err = capsys.readouterr().err
    assert "dvc.lock:3: not YAML" in err and "conflict marks" in err and "mlflow.db" not in err
    assert runs(root)[1][1].info.status == "FINISHED"


def test_any_body_of_an_api_is_logged(root, params):
    body = {"when": datetime.date(2026, 1, 1), "odd[key]": float("inf"), 1: {"a": [None]}, "b": "x" * 9000}
    api = params.teacher.api.model_copy(update={"extra_body": body})
    odd = params.model_copy(update={"teacher": params.teacher.model_copy(update={"api": api})})
    with tracking.stage_run("dpo", odd):
        pass
    (parent,), (dpo,), _ = runs(root)
    assert parent.data.params["teacher.api.extra_body.when"] == "2026-01-01"
    assert parent.data.params["teacher.api.extra_body.odd_key_"] in ("inf", "None")
    assert {run.info.status for run in (parent, dpo)} == {"FINISHED"}


def test_no_credentials_of_an_address_among_params(root, params):
    git("remote", "add", "origin", f"https://someone:{SECRET}@git.example/a.git")
    where = f"https://someone:{SECRET}@host.example/a?key={SECRET}"
    odd = params.model_copy(update={"collection": params.collection.model_copy(update={"path": where})})
    with tracking.stage_run("dpo", odd):
        pass
    assert runs(root)[0][0].data.params["collection.path"] == "https://host.example/a"
    assert SECRET.encode() not in (root / "mlflow.db").read_bytes()


def test_what_the_system_refuses_in_a_stage_is_told_in_a_sentence(root, params):
    with pytest.raises(UserError) as caught, tracking.stage_run("dpo", params):
        Path("/dev/full").write_text("full")
    assert caught.value.message == "No space left on device"
    with pytest.raises(UserError) as caught, tracking.stage_run("dpo", params):
        Path("stages/none.py").read_text()
    assert caught.value.message == "stages/none.py: No such file or directory"
    with pytest.raises(OSError, match="a library's own"), tracking.stage_run("dpo", params):
        raise OSError("a library's own")
    assert {run.info.status for run in runs(root)[1]} == {"FAILED"}


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_being_stopped_is_no_failure(root, params, how):
    with pytest.raises(how), tracking.stage_run("dpo", params):
        raise how
    assert set(statuses(root).values()) == {"KILLED"}


def test_an_ascii_terminal_shows_escapes(root, params, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with tracking.stage_run("dpo", params):
        print("鸟 \U0001f426")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"\\u9e1f \\U0001f426\n"


STAGE = """import sys
from qedistill.params import load_params
from qedistill.tracking import stage_run
with stage_run("report", load_params(sys.argv[1])):
    open("report.html", "w").write("report")
"""


def test_an_experiment_has_its_headline_where_dvc_skips_summary(root, params, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(tracking.__file__).parents[1]))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    default = Path(__file__).parents[1] / "params.yaml"
    stages = {
        "evaluate": {
            "cmd": "mkdir -p metrics && cp made metrics/dpo.json",
            "deps": ["code"],
            "outs": ["metrics/dpo.json"],
        },
        "summary": {
            "cmd": "cp metrics/dpo.json metrics/summary.json",
            "deps": ["metrics/dpo.json"],
            "metrics": [{"metrics/summary.json": {"cache": False}}],
        },
        "report": {
            "cmd": f"{sys.executable} stage.py {default}",
            "deps": ["page", "metrics/dpo.json"],
            "outs": ["report.html"],
        },
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Path("stage.py").write_text(STAGE)
    Path("made").write_text('{"nDCG@10": 0.5}')
    for name in ("code", "page"):
        Path(name).write_text("1")
    subprocess.run(["dvc", "init", "-q"], check=True)
    subprocess.run(["dvc", "repro", "-q", "summary"], check=True)
    monkeypatch.setenv("DVC_EXP_NAME", "report-alone")
    subprocess.run(["dvc", "repro", "-q"], check=True)

    def under_way(name: str, stage: str) -> None:
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with tracking.stage_run(stage, params):
            pass

    Path("code").write_text("2")
    under_way("same-figures", "evaluate")
    under_way("summary-is-to-come", "report")  # evaluate has not run
    Path("metrics/dpo.json").unlink()
    Path("metrics/dpo.json").write_text('{"nDCG@10": 0.6}')
    under_way("other-figures", "evaluate")
    parents, nested, _ = runs(root)
    assert {run.info.run_name: run.data.metrics for run in parents} == {
        "report-alone": {"nDCG_10": 0.5}, "same-figures": {"nDCG_10": 0.5},
        "summary-is-to-come": {}, "other-figures": {},
    }  # fmt: skip
    assert {run.info.status for run in (*parents, *nested)} == {"FINISHED"}
    assert not capsys.readouterr().err


# Last: MLflow's server leaves its address with the process.
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
