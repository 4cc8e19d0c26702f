import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ebseg.data.drawn.scenes import BenchmarkScenes
from ebseg.evaluation.benchmark import run_benchmark
from ebseg.evaluation.labellers import ModelLabeller
from ebseg.evaluation.report import METRICS, PANEL, comparison, write_html
from ebseg.model import EBSeg
from ebseg.predictor import Predictor
from ebseg.render import palette
from ebseg.vocabulary import Vocabulary

VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = "<script>alert('x')</script> & \"quoted\" 道路"
PNG = b"\x89PNG\r\n\x1a\n and so on"


class Page(HTMLParser):
    """Checks that every element is closed, and collects text, elements and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(" ".join(data.split()))


def classes(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "seen": index % 3 == 0,
            "iou": None if index % 5 == 4 else index * 100 / len(names),
            "boundary_iou": 12.5,
            "accuracy": 77.7,
            "pixels": 1_234_567,
        }
        for index, name in enumerate(names)
    ]


def evaluation(**changed: object) -> dict[str, Any]:
    names = ("sky", "road", HOSTILE)
    return {
        "model": "ebseg-base",
        "dataset": "ade20k-150",
        "labels": list(names),
        "photos": {"measured": 2000, "asked": 2000, "broken": 0},
        "metrics": {"miou": 30.14, "fwiou": 61.2, "macc": 44.4, "pacc": 70.1, "seen": 40.2,
                    "unseen": 20.3, "harmonic": 26.98, "boundary_iou": 18.8},
        "published": 30.0,
        "difference": 0.14,
        "classes": classes(names),
        "confusion": [{"truth": "road", "predicted": HOSTILE, "pixels": 4321, "share": 45.67},
                      {"truth": "sky", "predicted": None, "pixels": 99, "share": 0.5}],
        "best": [{"name": "a.jpg", "miou": 91.3, "pixels": 5}],
        "worst": [{"name": "z.jpg", "miou": 2.1, "pixels": 5}],
        "broken": [],
        "protocol": {"short_edges": [640], "longest_edge": 2560, "tta": False},
        "config": {"name": "base", "mask": {"queries": 100}},
        "versions": {"torch": "2.6.0"},
        "hardware": {"device": "NVIDIA H100", "cpus": 16},
        "throughput": {"photos_per_second": 4.5, "seconds": 7384.2, "text_seconds": 61.0,
                       "shares": {"model": 0.8, "read": 1.2}},
        **changed,
    }  # fmt: skip


def written(path: Path, *arguments: Any) -> Page:
    write_html(*arguments, path)
    return Page(path.read_text(encoding="utf-8"))


def test_page_shows_all_parts(tmp_path: Path) -> None:
    page = written(tmp_path / "new" / "r.html", evaluation(), [("best: a.jpg", PNG)])
    shown = "\n".join(page.text)
    for part in (
        "ebseg-base on ade20k-150", "2,000 photos, 3 labels", "30.1", "the paper's", "30.0", "+0.1",
        "harmonic mean", "27.0", "1,234,567", "45.7%", "4,321", "no label", "a.jpg", "91.3", "z.jpg",
        "best: a.jpg", "4.50", "2:03:04 h", "0:01:01 h", "80.0%", "120.0%", "longest_edge", "[640]",
        "mask.queries", "2.6.0", "NVIDIA H100",
    ):  # fmt: skip
        assert part in shown, part
    assert "Not comparable" not in shown
    assert "could not be measured" not in shown
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.html"]


def test_names_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    texts = {"model": HOSTILE, "dataset": HOSTILE, "broken": [HOSTILE], "photos": {"broken": HOSTILE}}
    facts = {key: {HOSTILE: HOSTILE} for key in ("config", "versions", "hardware", "protocol")}
    best = [{"name": HOSTILE, "miou": 1.0}]
    hostile = evaluation(**texts, **facts, throughput={"shares": {HOSTILE: 0.5}}, best=best, worst=best)
    write_html([hostile, hostile], [[(HOSTILE, PNG)], []], tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count(HOSTILE) > 20
    assert {"link", "iframe", "object", "embed"}.isdisjoint(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    assert {address[:22] for address in page.addresses} == {"#set-1", "#set-2", "data:image/png;base64,"}


def test_pictures_of_both_kinds_are_inside(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", evaluation(), [("one", PNG), ("two", b"\xff\xd8\xff JPEG")])
    assert page.addresses == [
        "data:image/png;base64,iVBORw0KGgogYW5kIHNvIG9u",
        "data:image/jpeg;base64,/9j/IEpQRUc=",
    ]


def test_all_classes_are_listed_the_best_first(tmp_path: Path) -> None:
    names = Vocabulary.from_dataset("ade20k-847").names
    page = written(tmp_path / "r.html", evaluation(classes=classes(names)), [])
    start = page.text.index("true pixels")
    listed = [text for text in page.text[start : page.text.index("Most confused")] if text in set(names)]
    present = [name for index, name in enumerate(names) if index % 5 != 4]
    absent = [name for index, name in enumerate(names) if index % 5 == 4]
    assert listed == present[::-1] + sorted(absent)
    assert page.tags.count("rect") == len(present)
    assert (tmp_path / "r.html").stat().st_size < 1_000_000


@pytest.mark.parametrize("missing", [*evaluation(), "all"])
@pytest.mark.parametrize("value", ["left out", None])
def test_any_key_may_be_missing(missing: str, value: str | None, tmp_path: Path) -> None:
    content = evaluation()
    for key in list(content) if missing == "all" else [missing]:
        content[key] = None
        if value == "left out":
            del content[key]
    for arguments in ((content, []), ([content, content], [[], []])):
        page = written(tmp_path / "r.html", *arguments)
        shown = "\n".join(page.text)
        assert "None" not in shown
        assert "nan" not in shown.split()


@pytest.mark.parametrize("value", [None, float("nan")])
def test_unknown_numbers_are_dashes(value: float | None, tmp_path: Path) -> None:
    unknown = dict.fromkeys(evaluation()["metrics"], value)
    nameless = [{"name": "sky", "iou": value}, {"name": None}]
    content = evaluation(metrics=unknown, published=value, classes=nameless, throughput=unknown)
    page = written(tmp_path / "r.html", content, [])
    assert "No published number to compare with." in page.text
    assert "nan" not in "\n".join(page.text)
    assert "rect" not in page.tags


def test_what_speaks_against_the_numbers_is_told(tmp_path: Path) -> None:
    photos = {"measured": 1880, "asked": 2000, "broken": 120}
    content = evaluation(photos=photos, difference=None, broken=["a.jpg: damaged", "b.jpg: damaged"])
    shown = "\n".join(written(tmp_path / "r.html", content, []).text)
    assert "Not comparable with the paper's number" in shown
    assert "120 photos could not be measured" in shown
    assert "b.jpg: damaged" in shown


@pytest.mark.parametrize(
    ("photos", "told"),
    [
        ({"measured": 3, "asked": 3, "official": 5000}, "3 of 5,000"),
        ({"measured": 3, "asked": 3, "official": None}, "3"),
        ({"measured": 3, "asked": 4, "official": None}, "3 of 4"),
        ({"measured": 5000, "asked": 5000, "official": 5000}, "5,000"),
    ],
)
def test_photos_are_counted_as_the_terminal_does(photos: dict[str, Any], told: str, tmp_path: Path) -> None:
    part = evaluation(photos=photos)
    page = written(tmp_path / "r.html", [part, part], [[], []])
    assert page.text.count(told) == 2  # the overview's rows
    assert page.text.count(f"{told} photos, 3 labels") == 2


def test_a_real_evaluation_fills_the_page(random_tiny: EBSeg, tmp_path: Path) -> None:
    source = BenchmarkScenes(2)
    measured = run_benchmark(
        ModelLabeller(Predictor(random_tiny, version="random"), source.vocabulary), source
    )
    page = written(tmp_path / "r.html", measured.to_json(), [])
    table = page.text[page.text.index("Metrics") : page.text.index("Classes")]
    for name, meaning in METRICS.values():
        assert float(table[table.index(name) + 1]) <= 100, name
        assert meaning in table
    shown = "\n".join(page.text)
    assert f"2 photos, {len(source.vocabulary)} labels" in shown
    assert set(source.vocabulary.names) <= set(page.text)
    for part in ("scene 1", "Most confused", "longest_edge", "torch", "test_size", "device", "cpu", "read"):
        assert part in shown, part


def test_several_data_sets_begin_with_an_overview(tmp_path: Path) -> None:
    others = evaluation(dataset="voc-20", metrics={"miou": 94.4}, published=94.6, difference=-0.2)
    page = written(tmp_path / "r.html", [evaluation(), others], [[("one", PNG)], [("two", PNG)]])
    assert page.addresses[:2] == ["#set-1", "#set-2"]
    overview = page.text[page.text.index("data set") : page.text.index("2,000 photos, 3 labels")]
    row = overview.index("voc-20")
    assert overview[row : row + 5] == ["voc-20", "2,000", "94.4", "94.6", "-0.2"]
    assert page.text.index("one") < page.text.index("two")


def test_comparison_shows_photo_prediction_and_truth() -> None:
    photo = np.full((600, 800, 3), 200, np.uint8)
    predicted = np.zeros((600, 800), np.int16)
    truth = np.full((600, 800), -1, np.int16)
    truth[:300] = 2
    with Image.open(io.BytesIO(comparison(photo, predicted, truth, ["a", "b", "c"]))) as image:
        assert image.format == "JPEG"
        shown = np.asarray(image).astype(int)
    assert shown.shape[1] > 3 * PANEL
    colours = (200 + palette(3).astype(int)) // 2
    for (y, x), expected in {
        (20, 20): [200] * 3,
        (20, PANEL + 20): colours[0],
        (280, PANEL + 20): colours[0],
        (20, 2 * PANEL + 20): colours[2],
        (280, 2 * PANEL + 20): [200] * 3,
    }.items():
        assert np.abs(shown[y, x] - expected).max() < 8, (y, x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_comparisons_of_any_size(shape: tuple[int, int]) -> None:
    label_map = np.full(shape, -1, np.int64)
    content = comparison(np.zeros((*shape, 3), np.uint8), label_map, label_map, ["a"])
    with Image.open(io.BytesIO(content)) as image:
        assert image.width >= 3
