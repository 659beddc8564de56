"""Where the report's figures come from: commit, DVC experiment, data hashes, packages, machine."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from qedistill.text import read_yaml


def provenance() -> list[tuple[str, str]]:
    """Name and value of what identifies the run, in the order of reading; without git there is no commit."""
    commit = _git("log", "-1", "--format=%H (%cs) %s")
    dirty = bool(_git("status", "--porcelain", "--", "src", "stages", "dvc.yaml", "params.yaml", "prompts"))
    found = [
        ("commit", commit + (", with changes since" if commit and dirty else "")),
        ("DVC experiment", os.environ.get("DVC_EXP_NAME", "")),
        ("Python", platform.python_version()),
        ("machine", f"{platform.machine()}, {platform.system()}, {os.cpu_count()} logical processors"),
    ]
    return [(name, value) for name, value in found if value]


def packages() -> list[tuple[str, str]]:
    """The project's direct dependencies and their versions here."""
    required = metadata.requires("qedistill") or []
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return [(name, metadata.version(name)) for name in sorted(names, key=str.casefold)]


def hashes(lock: Path = Path("dvc.lock")) -> list[tuple[str, str, str]]:
    """Path, hash and size in bytes of every file and folder that a stage wrote, from dvc.lock; none without it.

    DVC writes a stage's entry once the stage is over, so that dvc.lock is current for all that a stage depends on.
    """
    stages = (read_yaml(lock) or {} if lock.exists() else {}).get("stages", {})
    outs: dict[str, dict[str, Any]] = {out["path"]: out for stage in stages.values() for out in stage.get("outs", [])}
    return [
        (path, out.get("md5", ""), f"{out.get('size', 0):,}")
        for path, out in sorted(outs.items())
        if not path.startswith("report/")
    ]


def _git(*args: str) -> str:
    """What git prints; nothing outside a repository or without git."""
    try:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
