"""``ebseg import-coco``: turn COCO files into label maps for training and evaluation."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from ebseg.data.coco import load_panoptic, load_stuff, read_categories
from ebseg.files import whole
from ebseg.label_lists import write_file
from ebseg.render import indexed_png
from ebseg.segmentation import Segmentation

app = typer.Typer(rich_markup_mode=None)


@app.command("import-coco", epilog="Example: ebseg import-coco predictions.json --out label-maps")
def import_coco(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="COCO JSON: stuff, instances or panoptic.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the label maps.")],
    panoptic: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The JSON is a panoptic one, and its PNGs are in this folder."),
    ] = None,
) -> None:
    """Turn a COCO file (masks or polygons, or a panoptic one) into label maps.

    Writes NAME.png for each photo (label indices, 255 unlabelled; 16 bits and 65535 beyond 255 labels), its
    subfolder kept, and labels.json, the list of labels, into the folder given by --out. Where masks overlap,
    the later one wins. A photo's address, or a path from elsewhere, becomes its plain name.
    """
    vocabulary = read_categories(file)
    labels = vocabulary.names
    label_maps = load_panoptic(file, panoptic, len(labels)) if panoptic else load_stuff(file, len(labels))
    out.mkdir(parents=True, exist_ok=True)
    for name, read in track(label_maps.items(), description="importing", total=len(label_maps)):
        label_map = read()
        with whole(out / f"{name}.png") as unfinished:
            indexed_png(Segmentation(label_map, np.ones(label_map.shape, np.float32), labels), unfinished)
    write_file(out / "labels.json", vocabulary)
    typer.echo(f"{out}: {len(label_maps)} label maps, {len(labels)} labels")
