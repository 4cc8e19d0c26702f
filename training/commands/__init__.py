"""The commands that the learning loop adds to ``ebseg``, and the table by which it finds them."""

from ebseg.commands import Command

COMMANDS = {
    "export": Command(
        "training.commands.export:app", "Write a project's annotated photos in a format that trainers read."
    ),
    "finetune": Command(
        "training.commands.finetune:app",
        "Fine-tune a model on labelled photos, without losing what it could do before.",
    ),
    "import": Command(
        "training.commands.import_masks:app",
        "Make predictions of another system's masks, for tasks that are there.",
    ),
    "jobs": Command("training.commands.jobs:app", "Look at the learning loop's jobs."),
    "label": Command(
        "training.commands.label:app",
        "Have workers predict every unlabelled task of a project with the champion.",
    ),
    "models": Command("training.commands.models:app", "Look at the model's versions; go back."),
    "scheduler": Command(
        "training.commands.worker:scheduler_app",
        "Keep the schedule without working: start what is due, and plan the next look at all projects.",
    ),
    "simulate": Command(
        "training.commands.simulate:app",
        "Replay the labelling of a project with a simulated annotator: which order teaches most.",
    ),
    "worker": Command(
        "training.commands.worker:worker_app",
        "Do the learning loop's jobs: read annotations, fine-tune, judge, push predictions.",
    ),
}
