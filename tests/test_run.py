"""stages/run.sh: which Python and which code run a stage."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCRIPT = "import os, sys\nopen('out', 'w').write(f'{sys.prefix} {os.environ[\"PYTHONPATH\"]} {sys.argv[1:]}')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a project (2)"
    (folder / "stages").mkdir(parents=True)
    shutil.copy(ROOT / "stages/run.sh", folder / "stages/run.sh")
    (folder / "stages/x.py").write_text(SCRIPT)
    (folder / "dvc.yaml").write_text("stages:\n  x:\n    cmd: sh stages/run.sh stages/x.py a 'b c'\n    outs: [out]\n")
    subprocess.run([BIN / "dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
    return folder


def elsewhere(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command without the environment of these tests on the PATH."""
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "SHELL": os.environ.get("SHELL", "/bin/sh")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_python_that_runs_dvc_runs_the_stage(folder: Path) -> None:
    expected = f"{sys.prefix} src ['a', 'b c']"
    for command in ([BIN / "dvc", "repro", "-f"], [sys.executable, "-m", "dvc", "repro", "-f"]):
        (folder / "out").unlink(missing_ok=True)
        done = elsewhere(folder, *command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (folder / "out").read_text() == expected


def test_a_relative_path_to_python_is_one_from_where_dvc_was_called(folder: Path) -> None:
    (folder / "venv").symlink_to(BIN.parent)
    (folder / "below").mkdir()
    done = subprocess.run(
        ["../venv/bin/python", "-m", "dvc", "repro", "../dvc.yaml"], cwd=folder / "below", capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "out").exists()


def test_a_python_without_the_packages_is_told(folder: Path) -> None:
    (folder / "bin").mkdir()
    bare = folder / "bin/python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    # Of no living parent, hence of no Python: the one on the PATH is taken.
    elsewhere(folder, "sh", "-c", "(sleep 0.2; sh stages/run.sh stages/x.py 2>told; echo $? >ended) &")
    until = time.monotonic() + 30
    while not (folder / "ended").exists() or not (folder / "ended").read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert (folder / "ended").read_text() == "1\n" and not (folder / "out").exists()
    assert (folder / "told").read_text() == (
        "Error: python lacks the project's packages: run `source .venv/bin/activate`, then the command again\n"
    )
