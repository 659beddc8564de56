"""Stages killed at a random moment: the next run goes on, and nothing is lost, half-written or left running.

`QEDISTILL_KILLS=50 pytest tests/test_kills.py` kills more often than a usual test run does.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clone import run

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("QEDISTILL_KILLS", "3"))
STAGES = (
    "dpo", "sft", "feedback", "collection", "index", "retrieve", "teach zero_shot", "sample", "expand dpo", "pairs", "student",
    "summary", "exemplars", "embed", "evaluate", "teach few_shot", "report", "cost base", "expand base", "expand sft",
)  # fmt: skip
OUTPUTS = ("data", "models", "runs", "metrics", "plots", "report")
TIMED = ("cost@", "index.json", "embed.json", "feedback.json", "sft.json", "dpo.json", "report.html")


@pytest.fixture(scope="module")
def copy(project: Path, reproduced: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "project"
    shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    run(folder, "git", "checkout", "-q", ".")
    run(folder, "dvc", "checkout", "--force")
    return folder


def start(folder: Path, stage: str) -> "subprocess.Popen[bytes]":
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "GIT_"))}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    name, *arguments = stage.split()
    return subprocess.Popen(
        ["sh", "stages/run.sh", f"stages/{name}.py", *arguments], cwd=folder, env=env, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """File → digest, of all outputs that are the same each time; JSON files are read, whatever they hold."""
    found = {}
    for top in OUTPUTS:
        for path in sorted((folder / top).rglob("*")):
            if path.is_file() and "qedistill-draft" not in str(path):
                if path.suffix == ".json":
                    json.loads(path.read_text(encoding="utf-8"))
                if not path.name.startswith(TIMED) and path.suffix != ".csv":
                    found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_kills(copy: Path) -> None:
    chance = random.Random(time.time_ns())
    before = contents(copy)
    for number in range(KILLS):
        stage = STAGES[number % len(STAGES)]
        process = start(copy, stage)
        time.sleep(chance.uniform(0.2, 9.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        left = contents(copy)  # whole files only, old or new, which are the same
        assert all(before[name] == digest for name, digest in left.items() if name in before), stage
        again = start(copy, stage)
        output = again.communicate()[0].decode()
        assert again.returncode == 0, f"{stage}: {output}"
        assert contents(copy) == before, stage
    assert not list(copy.rglob("*qedistill-draft*")) and not list((copy / "checkpoints").glob("*"))

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{copy}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    assert runs and not [r.info.run_name for r in runs if r.info.status == "RUNNING"]
