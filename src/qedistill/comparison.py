"""Two revisions of the project (DVC experiments, commits, the workspace) compared on their stored runs."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedistill.errors import UserError, in_one_sentence
from qedistill.evaluation import SYSTEMS, Difference, paired_difference
from qedistill.evidence import read_runs, run_folders
from qedistill.layout import METRICS, RUNS, qrels
from qedistill.params import Evaluation
from qedistill.text import Qrels, Run, flatten, read_json, read_qrels, read_yaml
from qedistill.words import one_line

WORKSPACE = "workspace"
# What training costs: metrics/<stage>.json, its key, what that is, and how many make one.
COSTS = (
    ("sft", "seconds", "minutes of SFT", 60),
    ("sample", "seconds", "minutes of sampling candidates", 60),
    ("dpo", "seconds", "minutes of DPO", 60),
    ("sft", "tokens", "tokens of SFT", 1),
    ("dpo", "tokens", "tokens of DPO", 1),
    ("teach@zero_shot", "cost", "cost of the teacher, zero-shot", 1),
    ("teach@few_shot", "cost", "cost of the teacher, few-shot", 1),
)


@dataclass(frozen=True)
class Revision:
    """What is compared of a revision: params (flat), runs and judgments by folder of runs/, and what training cost."""

    name: str
    params: dict[str, Any]
    runs: dict[str, dict[str, Run]]
    qrels: dict[str, Qrels]
    costs: dict[str, float]


def read_revision(name: str) -> Revision:
    """A DVC experiment or git revision out of DVC's cache, or the `workspace`.

    Raises:
        UserError: there is no such revision, or its runs are neither in the cache nor in a remote.
    """
    if name == WORKSPACE:
        if not RUNS.is_dir():
            raise UserError(f"{RUNS}: no runs in the workspace; `dvc checkout` or `dvc repro` brings them")
        return _read(name, Path())
    with tempfile.TemporaryDirectory() as folder:
        _fetch(name, Path(folder))
        return _read(name, Path(folder))


def compare(first: Revision, second: Revision, params: Evaluation, seed: int) -> dict[str, dict[str, Difference]]:
    """test set → system → the difference, where both revisions have it and judge alike; in the order of tables."""
    return {
        test: {
            system: paired_difference(second.qrels[test], first.runs[test][system], runs[system], params, seed)
            for system in SYSTEMS
            if system in runs and system in first.runs[test]
        }
        for test, runs in second.runs.items()
        if second.qrels[test] and first.qrels.get(test) == second.qrels[test]
    }


def changed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, and both values; None where there is none."""
    keys = dict.fromkeys([*first, *second])
    return {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}


def _fetch(name: str, folder: Path) -> None:
    """Copy what is compared of a revision into a folder."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError
    from dvc_data.index import DataIndexDirError

    try:
        files = DVCFileSystem(rev=name)
        files.ls("/")  # `exists` would take a wrong revision for a missing file
        for path in (Path("params.yaml"), METRICS, RUNS, qrels("").parent):
            if files.exists(path.as_posix()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                files.get(path.as_posix(), str(folder / path), recursive=True)
    except RevError:
        raise UserError(f"no revision or DVC experiment {name!r}; `dvc exp show` lists them") from None
    except (FileNotFoundError, DataIndexDirError):
        raise UserError(
            f"the runs of {name} are not in DVC's cache: bring them with `dvc fetch --all-commits`, or go there "
            "(`dvc exp apply`, `git checkout`) and run `dvc repro`"
        ) from None
    except DvcException as error:  # no repository, a broken dvc.lock or config
        raise UserError(f"{name} cannot be read by DVC: {one_line(error)}") from None
    except OSError as error:
        raise in_one_sentence(error) or error from None
    if not (folder / RUNS).is_dir():
        raise UserError(f"{name} has no runs: was it committed, with dvc.lock, after `dvc repro`?")


def _read(name: str, folder: Path) -> Revision:
    raw = read_yaml(folder / "params.yaml")
    folders = run_folders(raw["collection"]["tests"], folder / RUNS)
    costs: dict[str, float] = {}
    for stage, key, label, unit in COSTS:
        path = folder / METRICS / f"{stage}.json"
        if path.exists() and (value := read_json(path).get(key)) is not None:
            costs[label] = value if unit == 1 else value / unit
    return Revision(
        name,
        flatten(raw),
        {test: read_runs(folder / RUNS / test) for test in folders},
        {test: read_qrels(folder / qrels(split)) for test, split in folders.items()},
        costs,
    )
