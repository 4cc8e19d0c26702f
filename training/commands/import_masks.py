"""``ebseg import``: another system's masks into Label Studio."""

from pathlib import Path
from typing import Annotated

import typer

from ebseg.commands import INTERRUPTED
from ebseg.data.mask_sets import SourceName, open_masks
from training.annotations.importing import Imported, import_masks
from training.annotations.label_studio import LabelStudioClient
from training.annotations.reach import require_label_studio
from training.commands.exchange import Project, photos, progress_bar, tell, tell_unknown
from training.settings import load_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("import", epilog="Example: ebseg import 12 masks.json --format coco")
def import_project(
    project: Project,
    source: Annotated[Path, typer.Argument(exists=True, help="COCO file, or folder as it is exported.")],
    kind: Annotated[SourceName, typer.Option("--format", help="What is read (docs/export.md).")],
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Annotate tasks that have no annotation, instead.")
    ] = False,
) -> None:
    """Make predictions of another system's masks, for tasks that are there.

    Photos are matched by the names of their files, with or without the digits that Label Studio puts before
    uploads; labels by key, value or alias, whatever their case, or by predicted_values and synonyms. The
    predictions' version is named by the content, so that the same import stores nothing twice. Photos that
    are left out are named, and the exit status is 1.
    """
    settings = load_settings()
    require_label_studio(settings)
    try:
        with progress_bar() as bar:
            task = bar.add_task("importing", total=None)
            done = import_masks(
                LabelStudioClient(settings),
                photos(settings),
                project,
                settings,
                open_masks(source, kind),
                annotations=annotations,
                progress=lambda number, total: bar.update(task, completed=number, total=total),
            )
    except KeyboardInterrupt:
        typer.echo("ebseg: stopped; what was stored stays, and the same command goes on from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(_summary(done, project, annotations))
    tell_unknown(done.unknown)
    tell(done.left_out, "photo")


def _summary(done: Imported, project: int, annotations: bool) -> str:
    what = "annotations" if annotations else f"predictions of the version {done.version}"
    parts = [f"project {project}: {len(done.stored)} {what} stored"]
    if done.there:
        parts.append(f"{len(done.there)} tasks {'were annotated' if annotations else 'had it'}")
    if done.empty:
        parts.append(f"{len(done.empty)} photos without a mask of the project's labels")
    return ", ".join(parts)
