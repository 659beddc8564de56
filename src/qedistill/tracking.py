"""MLflow: a parent run for an experiment, a nested run for each stage that ran.

    with tracking.stage_run("dpo", params) as run:
        ...
        run.curve([{"step": 1, "loss": 0.69}, ...])
        run.metrics({"reward": {"accuracy": 0.81}})
        run.artifact("plots/dpo.csv")
        run.experiment.artifact("report/report.html")  # on the parent

The store is `mlflow.db` and `mlartifacts/` in the repository root, or whatever MLFLOW_TRACKING_URI names. Runs are made
with MlflowClient: unlike the fluent API it records no command line, user or environment, hence no secret.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from qedistill.errors import UserError
from qedistill.layout import repository_root
from qedistill.params import Params
from qedistill.registry import register
from qedistill.text import flatten, parse_yaml, read_yaml

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY_TAG = "qedistill.experiment_key"  # the parent's alone: it is found by it
PARENT_TAG = "mlflow.parentRunId"
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
CODE = ("src", "stages", "dvc.yaml")  # what makes a commit "dirty"; params have their digest, DVC rewrites the rest
NO_DATA = (*CODE, "metrics", "plots")
FEW = 3  # changed params that a run's name tells one by one
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the UI asks
    "mlflow.note.content": "A run an experiment; nested in it, a run a stage. Compare the former.",
}
ENVIRONMENT = {  # before MLflow is imported; what the user set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else a first run tells of every table it makes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password the address may carry
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # else a dead server holds a stage up for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class Run:
    """A run of MLflow that is being logged to. It never fails the stage: MLflow's first error is told, the rest of the
    stage goes unlogged."""

    def __init__(self, log: "_Log", run_id: str, section: str) -> None:
        self._log, self.run_id, self._section = log, run_id, section

    def metrics(self, tree: dict[str, Any]) -> None:
        """Log the numbers of a nested mapping."""
        self._log.attempt(_log_figures, self._log.client, self.run_id, [(_figures(self._section, tree), 0)])

    def curve(self, rows: Iterable[dict[str, Any]], section: str | None = None) -> None:
        """Log rows of numbers with a `step`, such as a trainer's log history; for a live view, row by row.

        Args:
            section: what stands before the slash in their names; the stage's name by default.
        """
        name = self._section if section is None else section
        points = [(_figures(name, {k: v for k, v in row.items() if k != "step"}), int(row["step"])) for row in rows]
        self._log.attempt(_log_figures, self._log.client, self.run_id, points)

    def artifact(self, *paths: str | Path) -> None:
        """Log small files or folders."""
        for path in paths:
            self._log.attempt(self._log.client.log_artifact, self.run_id, str(path))

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Log rows as `name`.json, which the UI's evaluation view compares between runs."""
        self._log.attempt(_log_table, self._log.client, self.run_id, rows, f"{name}.json")

    def describe(self, markdown: str) -> None:
        """Set what the UI shows as the run's description."""
        self._log.attempt(self._log.client.set_tag, self.run_id, "mlflow.note.content", markdown)


class StageRun(Run):
    """A stage's nested run.

    Attributes:
        experiment: the parent, which is what users look at and compare.
        experiment_name: its name.
    """

    def __init__(self, client: "MlflowClient", parent_id: str, run_id: str, stage: str, experiment_name: str) -> None:
        super().__init__(_Log(client, stage), run_id, stage)
        self.experiment = Run(self._log, parent_id, "")
        self.experiment_name = experiment_name

    def data(self) -> None:
        """Put on the experiment as datasets the hashes DVC noted of every data file in dvc.lock, skipped stages' too."""
        hashes = _hashes("deps", "outs", but=self._section)
        self._log.attempt(_log_hashes, self._log.client, self.experiment.run_id, hashes)

    def model(self, name: str, folder: Path, card: str, figures: dict[str, Any]) -> None:
        """Register what a folder holds as the next version of a model, unless a version has the same hash in DVC.

        Either way the version gets the experiment's name as an alias. `card` becomes its README.md and description,
        `figures` its metrics. Weights go along if they are an adapter's; whole models stay with DVC, by their hash.
        """
        digest = _hashes("outs").get(folder.as_posix(), "")
        self._log.attempt(register, self._log.client, self.experiment.run_id, self.run_id, name, folder, digest,
                          card, _figures("", figures))  # fmt: skip

    def _close(self, status: str) -> None:
        for run in (self, self.experiment):
            self._log.attempt(self._log.client.set_terminated, run.run_id, status)


class _Log:
    """A stage's connection to MLflow, lost at its first error."""

    def __init__(self, client: "MlflowClient", stage: str) -> None:
        self.client, self.stage, self._lost = client, stage, False

    def attempt(self, call: Callable[..., object], *args: object) -> None:
        if self._lost:
            return
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001 - whatever fails here, the stage's work is not to be lost
            self._lost = True
            click.echo(f"Warning: MLflow lacks what {self.stage} logs from here on: {_public(error)}", err=True)


@contextmanager
def stage_run(stage: str, params: Params) -> Iterator[StageRun]:
    """A nested run for a stage, named as in dvc.yaml (`teach@zero_shot`), under the experiment's parent run.

    The parent is named after the DVC experiment, else after profile, changes and commit, and is found again by the stages
    that follow. It carries all params; the nested run those that dvc.yaml declares for the stage (all
    where it declares none), and as datasets DVC's hashes of the data the stage depends on: dvc.lock is current for
    them, as the stages that wrote them are over, while the stage's own outputs get their hashes only after its end.

    Raises:
        UserError: the store cannot be opened. Errors inside the block mark both runs FAILED and pass through.
    """
    root = repository_root(Path.cwd())
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.as_posix()}/mlflow.db"
    try:
        run = _open(stage, params, uri, root)
    except Exception as error:  # noqa: BLE001 - database, network, server: to the user one thing
        where = f"{_public(uri)} (MLFLOW_TRACKING_URI, else mlflow.db in the repository root)"
        raise UserError(f"cannot use the MLflow store {where}: {_public(error)}") from None
    try:
        yield run
    except BaseException:
        run._close("FAILED")
        raise
    run._close("FINISHED")


def _open(stage: str, params: Params, uri: str, root: Path) -> StageRun:
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow.tracking import MlflowClient  # seconds to import

    client = MlflowClient(uri)
    # A server knows where artifacts go; beside a bare database MLflow would put them in the working folder.
    artifacts = (root / "mlartifacts").as_uri() if uri.startswith(DATABASES) else None
    experiment_id = _experiment_id(client, params.tracking.experiment, artifacts)

    flat = flatten(params.model_dump())
    commit = _git("rev-parse", "HEAD")
    digest = _digest(params.model_dump(exclude={"tracking"}))
    profile, changes = _profile(flat)
    name = os.environ.get("DVC_EXP_NAME") or " ".join(
        [profile, *(changes if len(changes) <= FEW else [f"{len(changes)} changes"]), f"({commit[:7] or 'no git'})"]
    )
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git("branch", "--show-current"),  # none in an experiment of DVC
        "git.dirty": str(bool(_git("status", "--porcelain", "--", *CODE))).lower(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", "")[:7],
        "profile": profile,
        "changes": ", ".join(changes)[:500] or "none",
        "test_sets": ", ".join(params.collection.tests),
        "params_digest": digest[:8],
    }
    tags = {tag: value for tag, value in tags.items() if value}
    key = _digest([name, commit, digest])
    if found := client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1):
        parent_id = found[0].info.run_id
        client.update_run(parent_id, status="RUNNING")
    else:
        whole = {**tags, KEY_TAG: key, "mlflow.source.name": "dvc.yaml"}
        parent_id = client.create_run(experiment_id, tags=whole, run_name=name).info.run_id
        _log_params(client, parent_id, flat)

    declared, needed = _declared(stage, flat)
    hashes = _hashes("outs")
    nested = {**tags, PARENT_TAG: parent_id, "mlflow.source.name": f"stages/{stage.partition('@')[0]}.py"}
    run_id = client.create_run(experiment_id, tags=nested, run_name=stage).info.run_id
    _log_params(client, run_id, declared)
    _log_hashes(client, run_id, {path: hashes[path] for path in needed if path in hashes})
    return StageRun(client, parent_id, run_id, stage, name)


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(name, artifacts, EXPERIMENT_TAGS))
    except MlflowException:
        # Another worker of DVC's queue may have been faster.
        if experiment := client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        raise


def _profile(flat: dict[str, Any]) -> tuple[str, list[str]]:
    """The profile that params differ least from, and what was changed (`dpo.beta=0.5`): in an experiment of DVC since its
    baseline, else to that profile. `params.yaml` where there are no profiles."""
    found = [
        (len(changes), path.stem, changes)
        for path in sorted(Path("profiles").glob("*.yaml"))
        if (changes := _changes(flat, path.read_text(encoding="utf-8"))) is not None
    ]
    _, profile, changes = min(found, default=(0, "params.yaml", []))
    if baseline := os.environ.get("DVC_EXP_BASELINE_REV"):
        since = _changes(flat, _git("show", f"{baseline}:./params.yaml"))
        changes = changes if since is None else since
    return profile, changes


def _changes(flat: dict[str, Any], text: str) -> list[str] | None:
    """How params differ from those in a YAML text, but for `tracking`; None where that holds none."""
    try:
        known = flatten(parse_yaml(text, "params"))
    except (UserError, AttributeError):
        return None
    keys = [key for key in known | flat if not key.startswith("tracking.") and known.get(key) != flat.get(key)]
    return [f"{key}={flat.get(key)}" for key in keys]


def _declared(stage: str, flat: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The params and the data that dvc.yaml declares for a stage; a dependency inside an output counts as it."""
    name, _, item = stage.partition("@")
    entry = _yaml("dvc.yaml").get("stages", {}).get(name, {})
    entry = entry.get("do", entry)

    def filled(text: str) -> str:
        return re.sub(r"\$\{(.+?)\}", lambda m: item if m[1].startswith("item") else str(flat.get(m[1])), text)

    groups = tuple(filled(group) for group in entry.get("params", []) if isinstance(group, str))
    params = {k: v for k, v in flat.items() if not groups or f"{k}.".startswith(tuple(f"{g}." for g in groups))}
    paths = [PurePosixPath(filled(path)) for path in entry.get("deps", [])]
    return params, list(dict.fromkeys(str(p) for path in paths for p in (path, *path.parents)))


def _hashes(*kinds: str, but: str | None = None) -> dict[str, str]:
    """MD5 of the data files and folders in dvc.lock; the last kind wins, as a dependency not yet rerun is noted as it was.

    A stage under way is left out by `but`: DVC rewrites its entry at its end.
    """
    stages = _yaml("dvc.lock").get("stages", {})
    return {
        entry["path"]: entry["md5"].removesuffix(".dir")
        for kind in kinds
        for stage, lock in stages.items()
        if stage != but
        for entry in lock.get(kind, [])
        if "md5" in entry and PurePosixPath(entry["path"]).parts[0] not in NO_DATA
    }


def _log_hashes(client: "MlflowClient", run_id: str, hashes: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    inputs = [
        DatasetInput(Dataset(path, digest, source_type="dvc", source=json.dumps({"path": path})))
        for path, digest in hashes.items()
    ]
    if inputs:
        client.log_inputs(run_id, inputs)


def _log_params(client: "MlflowClient", run_id: str, flat: dict[str, Any]) -> None:
    from mlflow.entities import Param

    # Limits of MLflow servers: 100 params a request, 500 characters a value.
    params = [Param(key, str(value)[:500]) for key, value in flat.items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def _log_figures(client: "MlflowClient", run_id: str, points: list[tuple[dict[str, float], int]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for figures, step in points for key, value in figures.items()]
    for start in range(0, len(metrics), 1000):  # MLflow's limit a request
        client.log_batch(run_id, metrics=metrics[start : start + 1000])


def _log_table(client: "MlflowClient", run_id: str, rows: list[dict[str, Any]], file: str) -> None:
    # As client.log_table, which appends to what an earlier run of the stage has logged, writes it and tells the UI.
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
    client.log_text(run_id, json.dumps(table, ensure_ascii=False), file)
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": file, "type": "table"}]))


def _figures(section: str, tree: dict[str, Any]) -> dict[str, float]:
    """The numbers of a tree under `section/dotted.key`; the UI makes a section of charts of what stands before the slash.

    MLflow forbids `@` and commas in the name of a metric: `ndcg@10` is `ndcg_10`.
    """
    return {
        re.sub(r"[^\w./ -]", "_", f"{section}/{key}" if section else key): float(value)
        for key, value in flatten(tree).items()
        if isinstance(value, int | float)
    }


def _yaml(path: str) -> dict[str, Any]:
    return (read_yaml(path) or {}) if Path(path).exists() else {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _git(*args: str) -> str:
    """What git prints; nothing outside a repository or without git."""
    try:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _public(message: object) -> str:
    """A message or address in one line, without the credentials an address may carry."""
    line = " ".join(str(message).split())
    return re.sub(r"//[^/\s]*@", "//", re.sub(r"\?\S*", "", line))[:300]
