"""MLflow's record of a training run: settings, curves, pictures, how it ended.

MLflow is imported when a run starts: its import takes a second.
"""

import json
import logging
import os
import platform
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ebseg.config import TrainConfig
from ebseg.data.samples import Sample, Source
from ebseg.errors import MlflowUnavailable
from ebseg.model import EBSeg
from ebseg.predictor import Predictor, evaluation_mode
from ebseg.render import overlay
from ebseg.runs.folder import RunFolder
from ebseg.runs.mlflow_store import connect, default_tracking_uri, disconnect, experiment_id, unusable
from ebseg.runs.watch import StepReport, Watcher
from ebseg.segmentation import Segmentation
from ebseg.text_cache import TextCache
from ebseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

RETRY_AFTER = 300.0
"""Seconds without a try after a failed one, which may have taken 10: an outage slows a run by 3 % at most."""

FILES_KEPT = 64
"""Files, the newest, that wait for MLflow to be back. Points of curves are small: all of them wait."""

LARGEST_PICTURE = 1600
"""Pixels that a picture's longer side may have."""

POINTS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""MLflow's limits."""


class MlflowRun(Watcher):
    """Writes a training run into MLflow, into the same run again where training goes on.

    ``folder``: the training run's; MLflow's number of the run is kept in its ``mlflow.json``. ``name``,
    ``experiment``: what MLflow shows. ``validation``: a few photos whose labels are drawn at each checkpoint,
    beside their truth; ``vocabulary``: what their numbers mean, by default that of the first source.

    The store is ``tracking_uri``, else the one that ``MLFLOW_TRACKING_URI`` names, else
    ``default_tracking_uri`` of the folder's parent, which runs beside each other so share. A store that
    cannot be used ends the run at its start (MlflowUnavailable); later it is one warning: the run goes on,
    and what is missing follows when the store is back. A resumed run keeps the points that MLflow has, also
    of steps that are done again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        experiment: str = "ebseg",
        validation: Sequence[Sample] = (),
        vocabulary: Vocabulary | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        self._folder, self._name, self._experiment = RunFolder(folder), name, experiment
        self._validation = dict(zip(_picture_folders([s.name for s in validation]), validation, strict=True))
        self._vocabulary = vocabulary
        self._tracking_uri = tracking_uri
        self._texts = TextCache(None)
        self._outbox: _Outbox | None = None
        self._log_every = 1
        self._logged = 0
        self._photos = self._seconds = 0.0

    def started(self, net: EBSeg, config: TrainConfig, sources: Sequence[Source], step: int) -> None:
        """Open the run and describe it. Raises MlflowUnavailable where the store cannot be used."""
        self._vocabulary = self._vocabulary or sources[0].vocabulary
        self._log_every = config.log_every
        stated = self._tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = stated or default_tracking_uri(self._folder.path.parent)
        try:
            self._outbox = outbox = self._open(uri, step)
            outbox.describe(_parameters(net, config, sources), _tags(net, sources))
            settings = {"model": net.config.model_dump(mode="json"), "train": config.model_dump(mode="json")}
            outbox.upload("config.json", json.dumps(settings, indent=2).encode())
        except Exception as error:  # requests', SQLAlchemy's, boto3's: of whatever the store stands on
            self.failed(error)
            raise MlflowUnavailable(
                f"MLflow's store {unusable(uri, error)}: set MLFLOW_TRACKING_URI to a running server's "
                "address or to sqlite:///FILE, or leave it out to keep runs beside the run's folder"
            ) from error
        if step == 0:
            for place, sample in self._validation.items():
                scores = np.ones(sample.label_map.shape, np.float32)
                truth = Segmentation(sample.label_map, scores, self._vocabulary.names)
                outbox.add_file(f"{place}/truth.png", _png(sample, truth))
        outbox.send()

    def stepped(self, progress: StepReport) -> None:
        """Add a point to each curve, every ``log_every`` steps and at the last."""
        self._photos += progress.photos
        self._seconds += progress.seconds
        due = progress.step % self._log_every == 0 or progress.step == progress.steps
        if self._outbox is None or not due:
            return
        if progress.step > self._logged:
            self._outbox.add_point(progress.step, self._values(progress))
        self._photos = self._seconds = 0.0
        self._outbox.send()

    def stored(self, net: EBSeg, step: int) -> None:
        """Draw the validation photos' labels. Leaves the model and all random numbers as they were."""
        if self._outbox is None or self._vocabulary is None or not self._validation:
            return
        with evaluation_mode(net):
            device = next(net.parameters()).device
            predictor = Predictor(net, version=self._name, device=device, text_cache=self._texts)
            for place, sample in self._validation.items():
                predicted = predictor.predict(sample.image, self._vocabulary)
                self._outbox.add_file(f"{place}/step-{step:06d}.png", _png(sample, predicted))
        self._outbox.send()

    def finished(self, path: Path) -> None:
        """Close the run as finished."""
        self._close("FINISHED", {"model_file": str(path)})

    def failed(self, error: BaseException) -> None:
        """Close the run as failed, or as killed where somebody stopped it."""
        stopped = not isinstance(error, Exception)
        self._close("KILLED" if stopped else "FAILED", {"error": f"{type(error).__name__}: {error}"[:1000]})

    def _open(self, uri: str, step: int) -> "_Outbox":
        """Go on in MLflow's run of this folder, or begin one."""
        client = connect(uri)
        run_id = self._earlier_run(client, going_on=step > 0)
        if run_id is None:
            experiment = experiment_id(client, self._experiment)
            run_id = client.create_run(experiment, run_name=self._name).info.run_id
            self._folder.keep_mlflow_run(run_id)
        else:
            client.update_run(run_id, status="RUNNING")
            if "error" in client.get_run(run_id).data.tags:
                client.delete_tag(run_id, "error")
            self._logged = max((point.step for point in client.get_metric_history(run_id, "loss")), default=0)
        return _Outbox(client, run_id, self._folder.log.name)

    def _earlier_run(self, client: "MlflowClient", *, going_on: bool) -> str | None:
        """Find MLflow's run of this folder: None where there is none, or where training starts anew."""
        from mlflow.exceptions import MlflowException

        run_id = self._folder.mlflow_run()
        if run_id is None:
            return None
        try:
            info = client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            _log.warning(
                "MLflow has no run %s, which %s names: a new one begins", run_id, self._folder.mlflow
            )
            return None
        if info.lifecycle_stage != "active":
            return None
        if not going_on:
            if info.status == "RUNNING":  # it died before its first checkpoint, without a word
                client.set_terminated(run_id, "KILLED")
            return None
        return run_id

    def _values(self, progress: StepReport) -> dict[str, float]:
        return {
            "loss": progress.loss,
            **{f"terms/{name}": value for name, value in progress.main.items()},
            "terms/earlier": progress.earlier,
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.gradient_norm,
            "photos_per_second": self._photos / max(self._seconds, 1e-9),
            "memory_gib": progress.memory / 2**30,
            "broken_files": progress.broken,
        }

    def _close(self, status: str, tags: dict[str, str]) -> None:
        if self._outbox is not None:
            log = self._folder.log
            if log.exists():
                self._outbox.add_file(log.name, log.read_bytes())
            self._outbox.close(status, tags)


class _Outbox:
    """What goes to MLflow's run, sent at once where the store answers and later where it does not."""

    def __init__(self, client: "MlflowClient", run_id: str, log_name: str) -> None:
        self._client, self._run_id, self._log_name = client, run_id, log_name
        self._points: list[Metric] = []
        self._files: deque[tuple[str, bytes]] = deque(maxlen=FILES_KEPT)
        self._next_try = 0.0
        self._warned = False

    def describe(self, parameters: dict[str, str], tags: dict[str, str]) -> None:
        """Write parameters and tags; parameters that a resumed run has changed become tags."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._run_id).data.params
        new = [Param(key, value) for key, value in parameters.items() if key not in known]
        for key, value in parameters.items():
            if known.get(key, value) != value:
                tags[f"changed.{key}"] = value
        for start in range(0, len(new), PARAMS_PER_CALL):
            params = new[start : start + PARAMS_PER_CALL]
            self._client.log_batch(self._run_id, params=params, synchronous=True)
        run_tags = [RunTag(key, value) for key, value in tags.items()]
        self._client.log_batch(self._run_id, tags=run_tags, synchronous=True)

    def add_point(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve; the norm of gradients that overflowed, as fp16's may, has none."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._points += [Metric(key, value, now, step) for key, value in values.items() if np.isfinite(value)]

    def add_file(self, path: str, content: bytes) -> None:
        self._files.append((path, content))

    def send(self) -> None:
        """Send what waits, unless the store failed a moment ago."""
        if time.monotonic() >= self._next_try and self._attempt(self._send_points):
            self._attempt(self._send_files)

    def close(self, status: str, tags: dict[str, str]) -> None:
        """Send what waits and end the run; then let go of the store's connections."""

        def end() -> None:
            for key, value in tags.items():
                self._client.set_tag(self._run_id, key, value, synchronous=True)
            self._client.set_terminated(self._run_id, status)

        for action in (self._send_points, self._send_files, end):
            self._attempt(action)
        if self._points or self._files:
            _log.warning(
                "MLflow lacks the end of this run's curves and pictures; %s has all steps", self._log_name
            )
        disconnect(self._client)

    def upload(self, path: str, content: bytes) -> None:
        """Write a file of the run, such as ``overlays/NAME/truth.png``."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, Path(path).name)
            file.write_bytes(content)
            parent = str(Path(path).parent)
            self._client.log_artifact(self._run_id, str(file), None if parent == "." else parent)

    def _send_points(self) -> None:
        while self._points:
            points = self._points[:POINTS_PER_CALL]
            self._client.log_batch(self._run_id, metrics=points, synchronous=True)
            del self._points[: len(points)]

    def _send_files(self) -> None:
        while self._files:
            self.upload(*self._files[0])
            self._files.popleft()

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # as in MlflowRun.started; no store's failure may end a run of days
            self._next_try = time.monotonic() + RETRY_AFTER
            if not self._warned:
                store = unusable(self._client.tracking_uri, error)
                _log.warning("MLflow does not answer; the run goes on, its curves follow later: %s", store)
                self._warned = True
            return False
        return True


def _parameters(net: EBSeg, config: TrainConfig, sources: Sequence[Source]) -> dict[str, str]:
    parameters = {"model": net.config.name}
    parameters |= {key: str(value) for key, value in config.model_dump().items()}
    for number, source in enumerate(sources, start=1):
        parameters |= {
            f"data.{number}.name": source.name,
            f"data.{number}.photos": str(len(source)),
            f"data.{number}.labels": str(len(source.vocabulary)),
        }
    return parameters


def _tags(net: EBSeg, sources: Sequence[Source]) -> dict[str, str]:
    """Name what made the run, but not who: no user, no host."""
    device = next(net.parameters()).device
    tags = {f"version.{package}": version(package) for package in ("ebseg", "torch", "open_clip_torch")}
    tags |= {f"data.{number}.fingerprint": s.fingerprint() for number, s in enumerate(sources, start=1)}
    return tags | {
        "version.python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_count": str(os.cpu_count()),
    }


def _picture_folders(names: Sequence[str]) -> list[str]:
    """Turn photos' names, which may be paths, into folders below ``overlays``, each a different one."""
    folders: list[str] = []
    for name in names:
        folder = "overlays/" + (re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._") or "photo")
        folders.append(folder if folder not in folders else f"{folder}-{len(folders) + 1}")
    return folders


def _png(sample: Sample, segmentation: Segmentation) -> bytes:
    picture = overlay(sample.image, segmentation)
    picture.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    encoded = BytesIO()
    picture.save(encoded, format="PNG")
    return encoded.getvalue()
