"""``ebseg export``: a project's labelled photos out of Label Studio, as other trainers read them."""

from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import INTERRUPTED
from ebseg.data.layouts import LayoutName
from ebseg.errors import ConfigError
from ebseg.files import require_free
from training.annotations.exporting import Written, export
from training.annotations.label_studio import LabelStudioClient
from training.annotations.labelled_photos import LabelledPhotos, annotated, predicted
from training.annotations.reach import require_label_studio
from training.commands.exchange import Project, photos, progress_bar, tell, tell_unknown
from training.settings import Settings, load_settings
from training.storage import Storage

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("export", epilog="Example: ebseg export 12 --out street --format coco")
def export_project(
    project: Project,
    out: Annotated[Path, typer.Option(help="Folder to make; it must not be there, or be empty.")],
    layout: Annotated[LayoutName, typer.Option("--format", help="What is written (docs/export.md).")],
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Those of the version that the project shows, instead.")
    ] = False,
    reviewed_only: Annotated[
        bool, typer.Option("--reviewed-only", help="Only annotations marked as ground truth (the star).")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Link to the photos in the loop's storage; copies nothing.")
    ] = False,
) -> None:
    """Write a project's annotated photos in a format that trainers read.

    Annotations are read as the learning loop reads them, into its storage (EBSEG_HOME, EBSEG_STORAGE): of
    several the one marked as ground truth, else the newest. Held-out tasks are the part "val", as in the
    loop, the others "train". Tasks that cannot be read are named, and the exit status is 1.
    """
    if predictions and reviewed_only:
        raise ConfigError("--reviewed-only is for annotations: leave it or --predictions out")
    require_free(out)
    settings = load_settings()
    require_label_studio(settings)
    try:
        with progress_bar() as bar:
            bar.add_task("reading the project", total=None)
            labelled = _open(settings, project, predictions, reviewed_only)
            task = bar.add_task("writing", total=len(labelled))
            written = export(labelled, out, layout, link=link, progress=lambda: bar.advance(task))
    except KeyboardInterrupt:
        typer.echo(f"ebseg: stopped; nothing is in {out}, and the same command begins anew", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(_summary(written, out, layout))
    tell_unknown(labelled.unknown)
    tell(labelled.left_out, "task")


def _open(settings: Settings, project: int, predictions: bool, reviewed_only: bool) -> LabelledPhotos:
    studio = LabelStudioClient(settings)
    storage = Storage(settings.storage_url, settings.home / "cache")
    if predictions:
        return predicted(studio, photos(settings), storage, project, settings)
    return annotated(studio, photos(settings), storage, project, settings, reviewed_only=reviewed_only)


def _summary(written: Written, out: Path, layout: LayoutName) -> str:
    train, val = written.photos["train"], written.photos["val"]
    text = f"{out}: {train + val} photos as {layout}, {train} to train on and {val} held out (val)"
    if not written.turned:
        return text
    return f"{text}; {written.turned} are turned by their EXIF orientation, which their masks go by"
