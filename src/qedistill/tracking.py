"""MLflow: a parent run for an experiment, a nested run for each stage that ran.

    with tracking.stage_run("dpo", params) as run:
        ...
        run.curve([{"step": 1, "loss": 0.69}, ...])
        run.metrics({"reward": {"accuracy": 0.81}})
        run.artifact("plots/dpo.csv")
        run.experiment.artifact("report/report.html")  # on the parent

Runs are made with MlflowClient: unlike the fluent API it records no command line, user or environment, hence no secret.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from qedistill import layout, store
from qedistill.errors import UserError, in_one_sentence, show_all_letters
from qedistill.params import Params
from qedistill.process import host, identity, lives
from qedistill.registry import register
from qedistill.store import public, without_credentials
from qedistill.text import flatten, parse_yaml, read_json, read_yaml

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KEY_TAG = "qedistill.experiment_key"  # the parent's alone: it is found by it
PROCESS_TAG = "qedistill.process"  # a run whose process has gone is over, whatever its status says
PARENT_TAG = "mlflow.parentRunId"
CODE = ("src", "stages", "dvc.yaml")  # what makes a commit "dirty"; params have their digest, DVC rewrites the rest
NO_DATA = (*CODE, "metrics", "plots")
FEW = 3  # changed params that a run's name tells one by one
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the UI asks
    "mlflow.note.content": "A run an experiment; nested in it, a run a stage. Compare the former.",
}
# A call refused by these says nothing about the next one; other errors of MLflow mean that the store is gone.
REFUSALS = {
    "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
}  # fmt: skip


class Run:
    """A run of MLflow that is being logged to. It never fails the stage: what MLflow does not take is told, once, and when
    the store is gone the rest of the stage goes unlogged."""

    def __init__(self, log: "_Log", run_id: str, section: str) -> None:
        self._log, self.run_id, self._section = log, run_id, section

    def metrics(self, tree: dict[str, Any]) -> None:
        """Log the numbers of a nested mapping."""
        self._log.attempt(lambda client: _log_figures(client, self.run_id, [(_figures(self._section, tree), 0)]))

    def curve(self, rows: Iterable[dict[str, Any]], section: str | None = None) -> None:
        """Log rows of numbers with a `step`, such as a trainer's log history; for a live view, row by row.

        Args:
            section: what stands before the slash in their names; the stage's name by default.
        """
        name = self._section if section is None else section
        points = [(_figures(name, {k: v for k, v in row.items() if k != "step"}), int(row["step"])) for row in rows]
        self._log.attempt(lambda client: _log_figures(client, self.run_id, points))

    def artifact(self, *paths: str | Path) -> None:
        """Log small files or folders."""
        for path in paths:
            self._log.attempt(partial(_log_artifact, run_id=self.run_id, path=str(path)))

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Log rows as `name`.json, which the UI's evaluation view compares between runs."""
        self._log.attempt(lambda client: _log_table(client, self.run_id, rows, f"{name}.json"))

    def describe(self, markdown: str) -> None:
        """Set what the UI shows as the run's description."""
        self._log.attempt(lambda client: client.set_tag(self.run_id, "mlflow.note.content", markdown))


class StageRun(Run):
    """A stage's nested run.

    Attributes:
        experiment: the parent, which is what users look at and compare.
        experiment_name: its name.
    """

    def __init__(self, log: "_Log", parent_id: str, run_id: str, experiment_name: str) -> None:
        super().__init__(log, run_id, log.stage)
        self.experiment = Run(log, parent_id, "")
        self.experiment_name = experiment_name

    def data(self) -> None:
        """Put on the experiment as datasets the hashes DVC noted of every data file in dvc.lock, skipped stages' too."""
        self._log.attempt(
            lambda client: _log_hashes(client, self.experiment.run_id, _hashes("deps", "outs", but=self._section))
        )

    def model(self, name: str, folder: Path, card: str, figures: dict[str, Any]) -> None:
        """Register what a folder holds as the next version of a model, unless a version has the same hash in DVC.

        Either way the version gets the experiment's name as an alias. `card` becomes its README.md and description,
        `figures` its metrics. Weights go along if they are an adapter's; whole models stay with DVC, by their hash.
        """
        ids = self.experiment.run_id, self.run_id

        def call(client: "MlflowClient") -> None:
            digest = _hashes("outs").get(folder.as_posix(), "")
            register(client, *ids, name, folder, digest, card, _figures("", figures))

        self._log.attempt(call)

    def _close(self, status: str) -> None:
        if status == "FINISHED" and self._section != "summary":
            self._log.attempt(lambda client: _log_headline(client, self.experiment.run_id, self._section))
        for run in (self, self.experiment):
            self._log.attempt(partial(_end, run_id=run.run_id, status=status), last=True)


class _Log:
    """A stage's connection to MLflow, until the store is lost."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._client: MlflowClient | None = None
        self._lost = False
        self._told: set[str] = set()

    def connect(self, root: Path) -> str | None:
        """Open the store; where artifacts of a new experiment go."""
        self._client, artifacts = store.connect(store.address(root), root)
        return artifacts

    def attempt(self, call: "Callable[[MlflowClient], object]", lacks: str = "something", last: bool = False) -> None:
        """Call; what goes wrong is told.

        Args:
            lacks: how much of the stage MLflow then lacks.
            last: whether to try even if the store seems lost.
        """
        if self._client is None or (self._lost and not last):
            return
        end = time.monotonic() + (0 if self._lost else store.WAIT)
        while True:
            try:
                call(self._client)
                return
            except Exception as error:  # noqa: BLE001 - whatever fails here, the stage's work is not to be lost
                # MLflow waits for another's lock, but 20 seconds only.
                if "database is locked" not in str(error) or time.monotonic() > end:
                    self.tell(lacks, error)
                    return

    def tell(self, lacks: str, error: Exception) -> None:
        """Warn that MLflow lacks something of the stage, once each, or all of it from here on."""
        if self._lost:
            return
        self._lost = self._client is None or _gone(error)
        if self._lost and lacks == "something":
            lacks = "what comes from here on"
        said = public(error)[:300]
        if said not in self._told:
            self._told.add(said)
            click.echo(f"Warning: MLflow lacks {lacks} of {self.stage}: {said}", err=True)


def _gone(error: Exception) -> bool:
    """Whether an error means that the next call will fail as well."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, RequestException | SQLAlchemyError)


@contextmanager
def stage_run(stage: str, params: Params) -> Iterator[StageRun]:
    """A nested run for a stage, named as in dvc.yaml (`teach@zero_shot`), under the experiment's parent run.

    The parent is named after the DVC experiment, else after profile, changes and commit, and is found again by the stages
    that follow. It carries all params; the nested run those that dvc.yaml declares for the stage (all
    where it declares none), and as datasets DVC's hashes of the data the stage depends on: dvc.lock is current for
    them, as the stages that wrote them are over, while the stage's own outputs get their hashes only after its end.

    Where the store cannot be opened, that is told and the stage goes unlogged. Runs of processes that were killed are
    closed as KILLED.

    Raises:
        UserError: what the operating system refused in the block, in one sentence. Other errors inside the block pass
            through; all mark both runs FAILED, and being stopped (SIGTERM, Ctrl-C) marks them KILLED.
    """
    show_all_letters()
    with _stopped_in_order():
        run = _start(stage, params)
        try:
            yield run
        except Exception as error:
            run._close("FAILED")
            if isinstance(error, OSError) and (told := in_one_sentence(error)):
                raise told from error
            raise
        except BaseException:
            run._close("KILLED")
            raise
        run._close("FINISHED")


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Let SIGTERM, as DVC's queue and batch systems send it, end the block as Ctrl-C does, if nobody else handles it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start(stage: str, params: Params) -> StageRun:
    flat = flatten(_plain(params))
    name, tags = _description(params, flat)
    log = _Log(stage)
    root = layout.repository_root(Path.cwd())
    found: list[str] = []  # the ids of parent and nested run
    try:
        artifacts = log.connect(root)
    except Exception as error:  # noqa: BLE001 - database, network, server: to the user one thing
        log.tell("all", error)
    else:
        log.attempt(lambda client: found.extend(_open(client, stage, params, artifacts, name, tags)), lacks="all")
    if not found:
        return StageRun(_Log(stage), "", "", name)
    parent_id, run_id = found
    log.attempt(_close_dead)
    log.attempt(lambda client: _log_params(client, parent_id, flat))
    log.attempt(lambda client: _log_params(client, run_id, _declared(stage, flat)[0]))
    log.attempt(lambda client: _log_hashes(client, run_id, _needed(stage, flat)))
    return StageRun(log, parent_id, run_id, name)


def _plain(params: Params, **but: Any) -> dict[str, Any]:
    """Params as JSON has them: what the API's body holds may be anything."""
    return params.model_dump(mode="json", **but)


def _description(params: Params, flat: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The name and the tags of an experiment's runs."""
    commit = _git("rev-parse", "HEAD")
    profile, changes = _profile(flat)
    name = os.environ.get("DVC_EXP_NAME") or " ".join(
        [profile, *(changes if len(changes) <= FEW else [f"{len(changes)} changes"]), f"({commit[:7] or 'no git'})"]
    )
    digest = _digest(_plain(params, exclude={"tracking"}))
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
        KEY_TAG: _digest([name, commit, digest]),
        PROCESS_TAG: identity(),
    }
    return name, {tag: value for tag, value in tags.items() if value}


def _open(
    client: "MlflowClient", stage: str, params: Params, artifacts: str | None, name: str, tags: dict[str, str]
) -> tuple[str, str]:
    """The ids of the experiment's run, found or made, and of a new one for the stage."""
    experiment_id = _experiment_id(client, params.tracking.experiment, artifacts)
    if found := client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'", max_results=1):
        parent_id = found[0].info.run_id
        client.set_tag(parent_id, PROCESS_TAG, tags[PROCESS_TAG])
        client.update_run(parent_id, status="RUNNING")
    else:
        whole = {**tags, "mlflow.source.name": "dvc.yaml"}
        parent_id = client.create_run(experiment_id, tags=whole, run_name=name).info.run_id
    nested = {tag: value for tag, value in tags.items() if tag != KEY_TAG}
    nested |= {PARENT_TAG: parent_id, "mlflow.source.name": f"stages/{stage.partition('@')[0]}.py"}
    return parent_id, client.create_run(experiment_id, tags=nested, run_name=stage).info.run_id


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The experiment of a name, made where there is none; `name (2)` beside one that was deleted in the UI, which keeps its
    name and may be restored."""
    from mlflow.exceptions import MlflowException

    for number in count(1):
        numbered = name if number == 1 else f"{name} ({number})"
        experiment = client.get_experiment_by_name(numbered)
        if experiment is None:
            try:
                made = str(client.create_experiment(numbered, artifacts, EXPERIMENT_TAGS))
            except MlflowException:
                # Another worker of DVC's queue may have been faster.
                experiment = client.get_experiment_by_name(numbered)
                if experiment is None:
                    raise
            else:
                if number > 1:
                    click.echo(
                        f"MLflow's experiment {name!r} was deleted: {numbered!r} is used until you restore it", err=True
                    )
                return made
        if experiment.lifecycle_stage == "active":
            return str(experiment.experiment_id)
    raise AssertionError  # numbers do not end


def _close_dead(client: "MlflowClient") -> None:
    """Mark as KILLED the runs of this host whose processes have gone, and their experiments' where nothing else runs."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(ids, f"attributes.status = 'RUNNING' AND tags.`{PROCESS_TAG}` LIKE '{host()} %'")
    dead = [run for run in running if lives(run.data.tags[PROCESS_TAG]) is False]
    needed = {run.data.tags.get(PARENT_TAG) for run in running if run not in dead}
    for run in dead:
        if run.info.run_id not in needed:
            client.set_terminated(run.info.run_id, "KILLED")


def _profile(flat: dict[str, Any]) -> tuple[str, list[str]]:
    """The profile that params differ least from, and what was changed (`dpo.beta=0.5`): in an experiment of DVC since its
    baseline, else to that profile. `params.yaml` where there are no profiles."""
    found = [
        (len(changes), path.stem, changes)
        for path in layout.profiles()
        if (changes := _changes(flat, _text(path))) is not None
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
    return [f"{key}={without_credentials(str(flat.get(key)))}" for key in keys]


def _text(path: Path) -> str:
    """What a file holds; nothing where it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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


def _needed(stage: str, flat: dict[str, Any]) -> dict[str, str]:
    """MD5 of the data that dvc.yaml declares for a stage."""
    hashes = _hashes("outs")
    return {path: hashes[path] for path in _declared(stage, flat)[1] if path in hashes}


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


def _log_artifact(client: "MlflowClient", run_id: str, path: str) -> None:
    client.log_artifact(run_id, path)


def _end(client: "MlflowClient", run_id: str, status: str) -> None:
    client.set_terminated(run_id, status)


def _log_params(client: "MlflowClient", run_id: str, flat: dict[str, Any]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params  # an earlier stage's, which cannot be logged again
    # Limits of MLflow servers: 100 params a request, 500 characters a value.
    params = [Param(_name(key), without_credentials(str(value))[:500]) for key, value in flat.items()]
    params = [param for param in params if param.key not in known]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def _log_headline(client: "MlflowClient", parent_id: str, stage: str) -> None:
    """Give an experiment the headline that DVC left as it was, as where only the report runs."""
    figures = _figures("", read_json(layout.SUMMARY)) if layout.SUMMARY.exists() else {}
    if figures and not figures.keys() & client.get_run(parent_id).data.metrics.keys() and _headline_stands(stage):
        _log_figures(client, parent_id, [(figures, 0)])


def _headline_stands(stage: str) -> bool:
    """Whether the stage `summary` is up to date, and will be when this stage, which is about to end, has ended."""
    from dvc.repo import Repo

    locked = _yaml("dvc.lock").get("stages", {})
    outs = {out["path"]: out.get("md5") for entry in locked.values() for out in entry.get("outs", [])}
    deps = {dep["path"]: dep.get("md5") for dep in locked.get("summary", {}).get("deps", [])}
    if not deps or any(outs.get(path, md5) != md5 for path, md5 in deps.items()):
        return False  # known without asking DVC, which takes seconds
    with Repo() as repo:
        for each in repo.stage.collect("summary", with_deps=True):
            # Not each.changed(), as DVC has locked for writing what this stage writes.
            parts = each.outs if each.addressing == stage else [*each.deps, *each.outs]
            if any(part.status() for part in parts):
                return False
    return True


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
        _name(f"{section}/{key}" if section else key): float(value)
        for key, value in flatten(tree).items()
        if isinstance(value, int | float)
    }


def _name(key: str) -> str:
    return re.sub(r"[^\w./ -]", "_", key)


def _yaml(path: str) -> dict[str, Any]:
    """What dvc.yaml or dvc.lock holds; nothing, and a warning, where git has left conflict marks in it."""
    if not Path(path).exists():
        return {}
    try:
        return read_yaml(path) or {}
    except UserError as error:
        click.echo(f"Warning: MLflow lacks what is in it: {error.message}", err=True)
        return {}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _git(*args: str) -> str:
    """What git prints; nothing outside a repository, without git, or where it hangs."""
    try:
        found = subprocess.run(["git", *args], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.decode("utf-8", "replace").strip()
