"""MLflow's model registry: each new student a version, with its figures and a model card."""

import re
import shutil
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qedistill.training.model import ADAPTER

if TYPE_CHECKING:
    from mlflow.entities import RunInfo
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

HASH_TAG = "dvc.md5"
LIMIT = 5000  # characters of a description, MLflow's


def register(
    client: "MlflowClient", run_id: str, stage_id: str, name: str, folder: Path, digest: str, card: str,
    figures: dict[str, float],
) -> None:  # fmt: skip
    """Make a version of the registered model `name` for a run, or find the one of the same hash; its alias is the run's name.

    Args:
        run_id: of the experiment.
        stage_id: of the nested run that `figures` are logged with; the experiment's are there already.
        folder: of the student; its files go along if they are an adapter's.
        digest: DVC's hash of the folder.
        card: Markdown, which becomes README.md and, without its front matter, the version's description.
        figures: metric → value.
    """
    run = client.get_run(run_id)
    _ensure(client, name)
    quote = '"' if "'" in name else "'"
    known = client.search_model_versions(f"name = {quote}{name}{quote}")
    version = next((found for found in known if digest and found.tags.get(HASH_TAG) == digest), None)
    if version is None:
        version = _create(client, run.info, stage_id, name, folder, digest, card, figures)
    client.set_registered_model_alias(name, alias(run.info.run_name), version.version)


def _ensure(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):
        client.get_registered_model(name)
        return
    try:
        client.create_registered_model(name, description="Students of query expansion; an alias names an experiment.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another worker of DVC's queue may have been faster
            raise


def alias(run_name: str) -> str:
    """A run's name as MLflow takes an alias: letters, digits, - and _; neither `latest` nor `v1`."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", run_name).strip("-")[:250]
    return f"run-{plain}" if not plain or re.fullmatch(r"(?i)latest|v\d+|\d+", plain) else plain


def _create(
    client: "MlflowClient", run: "RunInfo", stage_id: str, name: str, folder: Path, digest: str, card: str,
    figures: dict[str, float],
) -> "ModelVersion":  # fmt: skip
    from mlflow.entities import Metric
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri, get_tracking_uri

    tags = {HASH_TAG: digest, "dvc.path": folder.as_posix()}
    model = client.create_logged_model(run.experiment_id, folder.name, run.run_id, tags=tags, model_type="student")
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / folder.name
        if (folder / ADAPTER).exists():
            shutil.copytree(folder, package)
        else:
            package.mkdir()
        (package / "README.md").write_text(card, encoding="utf-8")
        client.log_model_artifacts(model.model_id, str(package))
    now = int(time.time() * 1000)
    client.log_batch(stage_id, [Metric(key, value, now, 0, model_id=model.model_id) for key, value in figures.items()])
    client.finalize_logged_model(model.model_id, "READY")
    # The store looks the model up at the process's address, not the client's: no store is there in DVC's temporary copies.
    elsewhere = get_tracking_uri() != client.tracking_uri
    with _use_tracking_uri(client.tracking_uri) if elsewhere else nullcontext():
        return client.create_model_version(
            name,
            f"models:/{model.model_id}",
            run.run_id,
            tags=tags,
            description=card.split("---\n")[-1][:LIMIT],
            await_creation_for=0,
            model_id=model.model_id,
        )
