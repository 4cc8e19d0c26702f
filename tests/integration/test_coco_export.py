import json
from pathlib import Path

import numpy as np
import pytest
from label_studio_sdk.converter import Converter

from ebseg.data.coco import load_stuff, read_categories
from ebseg.errors import DataError

LABELS = "".join(f'<Label value="{name}"/>' for name in ("sky", "road"))


def export(folder: Path, tag: str, value: dict[str, object]) -> Path:
    """Have Label Studio's own converter export a task with one region, and one that nobody annotated."""
    config = (
        f'<View><Image name="image" value="$image"/><{tag} name="m" toName="image">{LABELS}</{tag}></View>'
    )
    region = {
        "id": "r", "from_name": "m", "to_name": "image", "type": tag.lower(), "image_rotation": 0,
        "original_width": 40, "original_height": 20, "value": value | {tag.lower(): ["sky"]},
    }  # fmt: skip
    tasks = [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/abcd-a.jpg"},
            "annotations": [{"id": 1, "result": [region]}],
        },
        {"id": 2, "data": {"image": "/data/upload/1/abcd-b.jpg"}, "annotations": []},
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter(config, str(folder), download_resources=False)
    converter.convert_to_coco(str(folder / "tasks.json"), str(folder / "export"), is_dir=False)
    return folder / "export" / "result.json"


def test_label_studios_polygons_are_read(tmp_path: Path) -> None:
    points = [[0, 0], [100, 0], [100, 50], [0, 50]]
    path = export(tmp_path, "PolygonLabels", {"points": points, "closed": True})
    labels = read_categories(path).names
    label_maps = load_stuff(path, len(labels))
    assert list(label_maps) == ["abcd-a"]
    expected = np.full((20, 40), -1)
    expected[:10] = labels.index("sky")
    assert (label_maps["abcd-a"]() == expected).all()


def test_label_studios_boxes_are_refused_in_words(tmp_path: Path) -> None:
    box = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}
    path = export(tmp_path, "RectangleLabels", box)
    with pytest.raises(DataError, match="annotation 0 has no mask, and a box or points say nothing"):
        load_stuff(path, 2)
