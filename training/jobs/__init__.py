"""The jobs of the learning loop, under the names by which queues know them."""

from training.jobs.jobs import (
    finetune_project,
    judge_candidate,
    label_project,
    label_tasks,
    snapshot_project,
    sweep,
)

__all__ = [
    "finetune_project",
    "judge_candidate",
    "label_project",
    "label_tasks",
    "snapshot_project",
    "sweep",
]
