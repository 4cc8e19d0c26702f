"""From what a job asks for to a fine-tuning: opens its annotations, its general data and its watchers."""

from ebseg.config import checked
from ebseg.data.samples import Source
from ebseg.runs.tracking import MlflowRun
from ebseg.runs.watch import ProgressBar, Watcher
from training.annotations.manifest import load
from training.annotations.parts import training_and_validation
from training.annotations.snapshot import SnapshotSource
from training.finetuning.finetune import FinetuneConfig, General, Snapshot, finetune
from training.finetuning.folder import FinetuneFolder
from training.finetuning.general_data import general_data
from training.finetuning.own_answers import general_answers
from training.finetuning.progress_file import ProgressFile
from training.finetuning.run_mirror import RunMirror
from training.finetuning.spec import RunSpec
from training.storage import Storage

PICTURES = 4
"""Validation photos whose predictions MLflow gets pictures of."""


def finetune_as_told(spec: RunSpec, progress: ProgressFile | None = None) -> None:
    """Fine-tune. ``progress``: the main process's, which alone is watched and writes files."""
    config = checked(FinetuneConfig, spec.config)
    storage = Storage(spec.storage, spec.cache)
    manifest = load(storage, spec.project, spec.fingerprint)
    # What is held out judges the result: nothing of it may be seen here.
    train, validation = training_and_validation(SnapshotSource(storage, manifest, "train"), fold=spec.fold)
    snapshot, folder = Snapshot(train, validation), FinetuneFolder(spec.out)

    def own() -> General | None:
        return general_answers(spec.teacher, snapshot, config, storage, folder) if spec.teacher else None

    finetune(
        spec.base,
        snapshot,
        config,
        spec.out,
        general=general_data(spec.general, spec.first_model, spec.data_root, own, seed=config.seed),
        watchers=[] if progress is None else [progress, *_watchers(spec, storage, validation)],
        workers=spec.workers,
        backbone=spec.backbone,
    )


def _watchers(spec: RunSpec, storage: Storage, validation: Source) -> list[Watcher]:
    folder = FinetuneFolder(spec.out)
    watchers: list[Watcher] = [ProgressBar()]
    if not storage.is_local if spec.mirror is None else spec.mirror:
        mirror = RunMirror(storage, folder.mirror, folder.training)
        mirror.restore()
        watchers.append(mirror)
    if spec.mlflow is not None:
        pictures = [validation[index] for index in range(min(PICTURES, len(validation)))]
        watchers.append(
            MlflowRun(
                folder.training.path,
                name=spec.mlflow.run_name,
                experiment=spec.mlflow.experiment,
                tracking_uri=spec.mlflow.tracking_uri,
                validation=pictures,
                vocabulary=validation.vocabulary,
            )
        )
    return watchers
