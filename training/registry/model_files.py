"""A version's file in MLflow's store, and on this machine."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ebseg.errors import ConfigError
from ebseg.files import nobody_elses, whole
from ebseg.runs.mlflow_store import patient

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODEL_FOLDER = "model"
"""Where a version's run keeps its file."""


def upload(client: "MlflowClient", run_id: str, path: Path) -> None:
    """Give a run a model's file."""
    with patient():
        client.log_artifact(run_id, str(path), MODEL_FOLDER)


def version_in(path: Path) -> str:
    """Tell the version that a checkpoint's predictions carry; see ``ebseg.loading.version_name``."""
    from ebseg.loading import version_name  # PyTorch takes seconds, and who only lists versions needs none

    return version_name(path)


def fetch(client: "MlflowClient", run_id: str, file: str, name: str, kept: Path) -> Path:
    """Find the file of a run in a store on this machine, or download it to ``kept``, whole or not at all.

    Raises ConfigError for a file that is not that of the version ``name``.
    """
    place = urlsplit(client.get_run(run_id).info.artifact_uri)
    local = Path(unquote(place.path), MODEL_FOLDER, file)
    if place.scheme in ("", "file") and local.is_file():
        return local
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (
        patient(),
        whole(kept, unfinished=nobody_elses(kept)) as unfinished,
        tempfile.TemporaryDirectory(dir=kept.parent) as folder,
    ):
        found = Path(client.download_artifacts(run_id, f"{MODEL_FOLDER}/{file}", folder))
        if version_in(found) != name:
            raise ConfigError(
                f"{MODEL_FOLDER}/{file} of MLflow's run {run_id} is {version_in(found)} and should be "
                f"{name}: it is damaged in MLflow's store"
            )
        found.rename(unfinished)
    return kept
