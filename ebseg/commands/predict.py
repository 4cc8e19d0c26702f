"""``ebseg predict``: label photos and write what was found."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import ebseg
from ebseg.data.coco_writers import CocoWriter, PanopticWriter, StuffWriter
from ebseg.errors import ConfigError, DataError, ImageError, VocabularyError
from ebseg.file_names import one_form
from ebseg.images import DEFAULT_MAX_PIXELS, OTHER_SUFFIXES, PHOTO_SUFFIXES, passed_over, read_image
from ebseg.label_lists import read_argument
from ebseg.render import indexed_png, overlay
from ebseg.vocabulary import Vocabulary

if TYPE_CHECKING:  # it brings PyTorch, which is slow to import
    from ebseg.predictor import Predictor

COCO_FOLDER = "coco"
"""Where COCO files go below the folder of results."""

ABSENT_LABELS_SHOWN = 20


@dataclass(frozen=True)
class _Job:
    """One photo and where its results go: ``label_map`` (.png), ``overlay`` and ``table`` (.json).

    ``file_name`` is what COCO files call it: where its results lie below their folder, with its own ending.
    """

    photo: Path
    stem: Path
    file_name: str

    @property
    def label_map(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}.png")

    @property
    def overlay(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}_overlay.jpg")

    @property
    def table(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}.json")


app = typer.Typer(rich_markup_mode=None)


@app.command(epilog='Example: ebseg predict street/ --labels "sky,road,car|automobile"')
def predict(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO", help="Photos, or folders that are searched for photos."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="What to find: 'sky,road,car|automobile' (| joins synonyms), or @FILE with a label a line, "
            "or a JSON list."
        ),
    ],
    model: Annotated[str, typer.Option(help="Model name or checkpoint file.")] = "ebseg-tiny",
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the results.")] = Path("ebseg-out"),
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Leave pixels unlabelled whose best label has a smaller share of the scores."
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels (width x height) that a photo may have.")
    ] = DEFAULT_MAX_PIXELS,
    coco: Annotated[
        bool, typer.Option("--coco", help="Write COCO stuff and COCO panoptic files too, below OUT/coco.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Label every pixel of photos with words of your choice.

    Writes for each photo NAME.png (label indices, 255 unlabelled; 16 bits and 65535 beyond 255 labels),
    NAME_overlay.jpg and NAME.json (each label's area and confidence) into the folder given by --out, a
    searched folder's subfolders kept. Photos of one name get NAME-2 and so on. A photo that cannot be read
    is reported and the others are done; the exit status is 1 then.

    With --coco, coco/stuff.json has all label maps as masks (RLE), coco/panoptic.json with coco/panoptic/
    has them as PNGs whose pixels are R + 256 G + 65536 B; a category's id is its label's index + 1.
    """
    with _bad_usage("--labels", VocabularyError, DataError):
        vocabulary = read_argument(labels)
    jobs = plan_outputs(photos, out)
    writers = _coco_writers(vocabulary, jobs, out / COCO_FOLDER) if coco else []
    with _bad_usage("--model", ConfigError):
        predictor = ebseg.load(model)
    records = list(_run(partial(_label, predictor, vocabulary, threshold, max_pixels, writers), jobs))
    for writer in writers:
        writer.close()
    if as_json:
        typer.echo(json.dumps(records, indent=2))
    else:
        for record in records:
            _print_table(record)
    failed = sum("error" in record for record in records)
    if failed:
        typer.echo(f"ebseg: {failed} of {len(records)} photos could not be labelled", err=True)
        raise typer.Exit(1)


def plan_outputs(arguments: Sequence[Path], out: Path) -> list[_Job]:
    """Find the photos of files and folders and give each a place of its own below ``out``.

    Raises BadParameter for a folder without photos, and where results would fall among a folder's photos or
    upon a photo.
    """
    found = [pair for argument in arguments for pair in _photos(argument, out)]
    jobs = []
    taken: set[str] = set()
    for photo, name in found:
        unique, number = name, 2
        while _as_some_compare(unique) in taken:
            unique, number = name.with_name(f"{name.name}-{number}"), number + 1
        taken.add(_as_some_compare(unique))
        jobs.append(_Job(photo, out / unique, f"{unique.as_posix()}{photo.suffix}"))
    sources = {photo.resolve() for photo, _ in found}
    for job in jobs:
        for written in (job.label_map, job.overlay, job.table):
            if written.resolve() in sources:
                raise typer.BadParameter(f"{written} would overwrite a photo; choose another folder by --out")
    return jobs


def _as_some_compare(path: Path) -> str:
    """Give a path as file systems compare it that ignore case and Unicode's forms."""
    return one_form(path.as_posix()).lower()


def _photos(argument: Path, out: Path) -> list[tuple[Path, Path]]:
    """List the photos of one argument, each with a name relative to the folder of results."""
    if not argument.is_dir():
        return [(argument, Path(argument.stem))]
    if argument.resolve() == out.resolve():
        raise typer.BadParameter(
            f"the results would fall among the photos of {argument}; choose another --out"
        )
    own = out.resolve() if argument.resolve() in out.resolve().parents else None
    files = [
        path
        for path in sorted(argument.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(argument).parts)
        and (own is None or own not in path.resolve().parents)  # results of an earlier run
    ]
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    others = [str(path.relative_to(argument)) for path in files if path.suffix.lower() in OTHER_SUFFIXES]
    if not photos:
        message = f"no photos in folder {argument} (looked for {', '.join(sorted(PHOTO_SUFFIXES))})"
        raise typer.BadParameter(f"{message}. {passed_over(argument, others)}" if others else message)
    if others:
        typer.echo(f"ebseg: {passed_over(argument, others)}", err=True)
    return [(path, path.relative_to(argument).with_suffix("")) for path in photos]


@contextmanager
def _bad_usage(option: str, *errors: type[Exception]) -> Iterator[None]:
    """Report errors as bad usage of an option."""
    try:
        yield
    except errors as caught:
        raise typer.BadParameter(str(caught), param_hint=option) from caught


def _coco_writers(vocabulary: Vocabulary, jobs: Sequence[_Job], folder: Path) -> list[CocoWriter]:
    """Open the COCO files. Raises BadParameter where a photo's own results would fall among them."""
    for job in jobs:
        if folder in job.stem.parents:
            raise typer.BadParameter(
                f"{job.label_map} would fall among the COCO files; give the photos' subfolder {folder.name} "
                "by itself",
                param_hint="--coco",
            )
    names = vocabulary.names
    return [StuffWriter(folder / "stuff.json", names), PanopticWriter(folder / "panoptic.json", names)]


def _run(label: Callable[[_Job], dict[str, Any]], jobs: Sequence[_Job]) -> Iterator[dict[str, Any]]:
    """Label the photos one by one, with a progress bar on standard error; yield a record of each."""
    console = Console(stderr=True)
    columns = (TextColumn("Labelling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not console.is_terminal
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=quiet
    ) as progress:
        for job in progress.track(jobs):
            try:
                yield label(job)
            except ImageError as error:
                progress.console.print(f"ebseg: {error}", markup=False, highlight=False, soft_wrap=True)
                yield {"photo": str(job.photo), "error": str(error)}


def _label(
    predictor: "Predictor",
    vocabulary: Vocabulary,
    threshold: float | None,
    max_pixels: int,
    writers: Sequence[CocoWriter],
    job: _Job,
) -> dict[str, Any]:
    """Label one photo, write its three files and its part of COCO's, give what NAME.json holds."""
    photo = read_image(job.photo, max_pixels=max_pixels, limited_by="--max-pixels")
    segmentation = predictor.predict(photo, vocabulary, threshold)
    job.stem.parent.mkdir(parents=True, exist_ok=True)
    indexed_png(segmentation, job.label_map)
    overlay(photo, segmentation).save(job.overlay, quality=90)
    for writer in writers:
        writer.add(job.file_name, segmentation.label_map)
    record = {
        "photo": str(job.photo),
        "model": predictor.version,
        "threshold": predictor.threshold if threshold is None else threshold,
        "width": photo.shape[1],
        "height": photo.shape[0],
        "labels": [asdict(row) for row in segmentation.table()],
        "unlabelled": segmentation.unlabelled,
        "label_map": str(job.label_map),
        "overlay": str(job.overlay),
    }
    job.table.write_text(json.dumps(record, indent=2) + "\n")
    return record


def _print_table(record: dict[str, Any]) -> None:
    """Print one photo's labels, the largest area first, and those that were not found."""
    if "error" in record:
        return
    console = Console()
    table = Table()
    table.add_column("label")
    table.add_column("area", justify="right")
    table.add_column("confidence", justify="right")
    absent = []
    for row in record["labels"]:
        if row["confidence"] is None:
            absent.append(row["label"])
        else:
            table.add_row(Text(row["label"]), f"{row['area']:.1%}", f"{row['confidence']:.2f}")
    table.add_row(Text("unlabelled", style="dim"), f"{record['unlabelled']:.1%}", "")
    console.print(Text(record["photo"]))
    console.print(table)
    if absent:
        rest = f" and {len(absent) - ABSENT_LABELS_SHOWN} more" if len(absent) > ABSENT_LABELS_SHOWN else ""
        console.print(Text(f"not found: {', '.join(absent[:ABSENT_LABELS_SHOWN])}{rest}"))
