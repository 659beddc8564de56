"""Whatever a stage writes for the stages after it has the same bytes in another folder, process and order of sets."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clone import run_stages, set_params

pytestmark = pytest.mark.slow

STAGES = (
    "collection", "index", "embed", "exemplars", "teach zero_shot", "teach few_shot", "student", "sft", "sample",
    "feedback", "pairs", "dpo", "expand base", "expand sft", "expand dpo", "retrieve",
)  # fmt: skip
OUTPUTS = ("data", "models", "runs")


def digests(project: Path) -> dict[str, str]:
    files = (path for name in OUTPUTS for path in (project / name).rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_stage_writes_the_same_bytes_again(project: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "another"]
    for folder in folders:
        left_out = shutil.ignore_patterns(".git", ".dvc", *OUTPUTS, "metrics", "plots", "report", "mlflow.db", "mlruns")
        shutil.copytree(project, folder, ignore=left_out)
        set_params(
            folder,
            {"dense": {"encoder": "encoder", "index": "hnsw"}, "sft": {"evaluations": 1}, "dpo": {"evaluations": 1}},
        )
    with ThreadPoolExecutor() as pool:  # one thread each, as for all tests that train models this small
        list(
            pool.map(
                lambda folder: run_stages(folder, *STAGES, PYTHONHASHSEED=str(len(folder.name)), OMP_NUM_THREADS="1"),
                folders,
            )
        )
    first, second = map(digests, folders)
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()
    found = {name.partition(".")[0] for name in first}
    for name in ("data/collection/corpus", "data/index/segments_1", "data/dense/index", "data/exemplars", "data/samples",
                 "data/teacher/few_shot", "data/feedback", "data/pairs/train", "data/expansions/dpo", "models/base/model",
                 "models/sft/adapter_config", "models/dpo/adapter_model", "runs/test/dpo"):  # fmt: skip
        assert name in found
    assert not any("seconds" in (folders[0] / name).read_text() for name in first if name.endswith(".jsonl"))
