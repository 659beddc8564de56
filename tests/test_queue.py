"""A sweep in DVC's queue, with several workers and no MLflow store yet."""

import shutil
import time
from pathlib import Path

import pytest
from clone import run

pytestmark = pytest.mark.slow


def test_a_queued_sweep_of_small_numbers_runs_to_its_end(
    project: Path, reproduced: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("queue") / "a 50% project"
    shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    run(folder, "git", "checkout", "-q", ".")
    run(folder, "dvc", "checkout", "--force")
    before = (folder / "params.yaml").read_text()
    run(folder, "dvc", "exp", "run", "--queue", "-S", "dpo.learning_rate=1e-5,5e-05", "-S", "dpo.beta=0.1,0.5", "dpo")
    assert (folder / "params.yaml").read_text() == before
    run(folder, "dvc", "queue", "start", "-j", "2")
    until = time.monotonic() + 600
    while (status := run(folder, "dvc", "queue", "status")).count("Success") < 4:
        assert "Failed" not in status and time.monotonic() < until, status
        time.sleep(3)
    run(folder, "dvc", "queue", "stop")

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("qedistill").experiment_id])
    trained = [r.data.params for r in runs if r.info.run_name == "dpo"]
    tried = {(float(p["dpo.learning_rate"]), float(p["dpo.beta"])) for p in trained}
    assert tried == {(rate, beta) for rate in (1e-5, 5e-5) for beta in (0.1, 0.5)} and len(trained) == 4
    assert {r.info.status for r in runs} == {"FINISHED"}
