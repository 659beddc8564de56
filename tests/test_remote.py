"""What one machine has run is shared with others: through a DVC remote (a folder, S3), or a common cache folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clone import run

pytestmark = pytest.mark.slow
BUCKET = "qedistill"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server on this machine with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="s", region_name="us-east-1"
    ).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def clone(project: Path, folder: Path, shared_cache: bool) -> Path:
    """A clone of the project's last commit, with the project's cache or an empty one of its own."""
    run(project, "git", "clone", "-q", str(project), str(folder))
    if shared_cache:
        run(folder, "dvc", "cache", "dir", "--local", str(project / ".dvc/cache"))
    return folder


def stages_in(lock: str) -> int:
    return len(yaml.safe_load(lock)["stages"])


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_clone_pulls_and_has_nothing_to_run(
    project: Path, reproduced: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    ours, theirs = clone(project, tmp_path / "ours", True), clone(project, tmp_path / "theirs", False)
    for folder in (ours, theirs):
        url = str(tmp_path / "remote") if kind == "folder" else f"s3://{BUCKET}/project"
        run(folder, "dvc", "remote", "add", "--local", "-d", "common", url)
        if kind == "s3":
            run(folder, "dvc", "remote", "modify", "--local", "common", "endpointurl", endpoint)
    assert "files pushed" in run(ours, "dvc", "push", "--run-cache")
    run(theirs, "dvc", "pull", "--run-cache")
    output = run(theirs, "dvc", "repro")
    assert (
        output.count("didn't change, skipping") == stages_in((theirs / "dvc.lock").read_text())
        and "Running stage" not in output
    )
    assert run(theirs, "git", "status", "--short") == ""


def test_a_common_cache_has_what_another_clone_ran(project: Path, reproduced: str, tmp_path: Path) -> None:
    """The run cache: also what no commit tells of."""
    folder = clone(project, tmp_path / "theirs", True)
    lock = (folder / "dvc.lock").read_text()
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / "metrics")
    output = run(folder, "dvc", "repro")
    assert output.count("is cached - skipping run") == stages_in(lock) and "Running stage" not in output
    assert (folder / "dvc.lock").read_text() == lock and run(folder, "git", "status", "--short") == ""
