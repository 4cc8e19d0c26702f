"""Input that claims or repeats more than it is: what it is, and that reading it costs next to nothing.

Run as a program by test_hostile.py, in a process whose memory and CPU time are limited.
"""

import resource
from collections.abc import Callable

from ebseg.errors import AnnotationError, EBSegError, LabelConfigError
from ebseg.label_studio import brush
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.smart_tools import parse_context
from ebseg.label_studio.tasks import read_label_config

CONTROL = Control("brushlabels", "mask", "image", (Label("sky"), Label("sea")))
MEMORY_MB, CPU_S = 300, 30
"""For each input, which took gigabytes or minutes, and for all of them."""

IMAGE = '<Image name="image" value="$image"/>'


def config(labels: str, control: str = 'name="m" toName="image"') -> str:
    return f"<View>{IMAGE}<BrushLabels {control}>{labels}</BrushLabels></View>"


def huge_rle(pixels: int, value: int = 255) -> list[int]:
    """Runs that fill a picture of so many pixels, as short as they can be."""
    runs, rest = divmod(pixels * 4, 1 << 16)
    header = f"{pixels * 4:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in brush.LENGTH_SIZES)
    bits = header + f"111{65535:016b}{value:08b}" * runs + (f"111{rest - 1:016b}{value:08b}" if rest else "")
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def stroke(rle: object, width: object, height: object) -> dict:
    value = {"format": "rle", "rle": rle, "brushlabels": ["sky"]}
    return {
        "type": "brushlabels", "to_name": "image", "value": value,
        "original_width": width, "original_height": height,
    }  # fmt: skip


def shape(kind: str, **value: object) -> dict:
    return {"type": kind, "to_name": "image", "value": value | {kind: ["sky"]}}


def ask(*regions: dict) -> None:
    request = parse_context({"result": list(regions)})
    assert request is not None
    for prompt in request.prompts:
        prompt.draw(60, 80)


def annotate(*regions: dict) -> None:
    paint(list(regions), CONTROL, 60, 80)


HUGE = huge_rle(32768 * 32767)

INPUTS: dict[str, tuple[Callable[[], object], type[EBSegError] | None, str]] = {
    # Label configs
    "5,000 controls in each other": (
        lambda: read_label_config(
            f"<View>{IMAGE}" + '<BrushLabels name="m" toName="image"><Label value="a"/>' * 5000
            + "</BrushLabels>" * 5000 + "</View>"
        ), None, "",
    ),
    "5,000 controls without an image": (
        lambda: read_label_config(
            "<View>" + "".join(f'<BrushLabels name="{n:090}" toName="x"/>' for n in range(5000)) + "</View>"
        ),
        LabelConfigError, "names no <Image>.* and 4997 more",
    ),
    "5,000 images and as many controls": (
        lambda: read_label_config(
            "<View>" + "".join(f'<Image name="{n:060}" value="$a"/>' for n in range(5000))
            + '<BrushLabels name="m" toName="x"/>' * 5000 + "</View>"
        ), LabelConfigError, "names no <Image>",
    ),
    "300,000 attributes": (
        lambda: read_label_config(config("", " ".join(f'a{n}=""' for n in range(300_000)))),
        LabelConfigError, "characters, more than 1000000",
    ),
    "all the attributes that fit": (
        lambda: read_label_config(config("", " ".join(f'a{n}=""' for n in range(95_000)))),
        LabelConfigError, "names no <Image>",
    ),
    "60,000 tags": (
        lambda: read_label_config(config("<View/>" * 60_000)), LabelConfigError, "more than 20000 tags",
    ),
    "15,000 labels": (
        lambda: read_label_config(config("".join(f'<Label value="{n}"/>' for n in range(15_000)))),
        LabelConfigError, "15000 labels, more than 1000",
    ),
    "100,000 synonyms": (
        lambda: read_label_config(
            config(f'<Label value="a" synonyms="{"|".join(map(str, range(100_000)))}"/>')
        ),
        LabelConfigError, "100001 names with all synonyms, more than 3000; remove some",
    ),
    "a name of 900,000 letters": (
        lambda: read_label_config(config(f'<Label value="{"ab" * 450_000}"/>')),
        LabelConfigError, "of 900000 characters, more than 500; .*shorten it",
    ),
    # Smart tools
    "a stroke of 32768 x 32767": (
        lambda: ask(stroke(HUGE, 32768, 32767)), AnnotationError, "32768 x 32767 pixels but the photo is 80",
    ),
    "a hundred of them": (
        lambda: ask(*[stroke(HUGE, 32768, 32767)] * 100), AnnotationError, "the photo is 80 x 60",
    ),
    "a size that no picture has": (
        lambda: ask(stroke(HUGE, 10**30, 1)), AnnotationError, "cannot be read.*not a photo's size",
    ),
    "a size as text": (lambda: ask(stroke(HUGE, "1e9", "1e9")), AnnotationError, "another size"),
    "a stroke that is a number": (
        lambda: ask(stroke(10**10, 80, 60)), AnnotationError, "list of integers from 0 to 255",
    ),
    "a click of an endless radius": (
        lambda: ask(shape("keypointlabels", x=1, y=1, width=1e308)), AnnotationError, "1e[+]308 percent is",
    ),
    "a click far away": (
        lambda: ask(shape("keypointlabels", x=-1e300, y=1, width=1)), AnnotationError, "is not a place",
    ),
    "a box of endless sides": (
        lambda: ask({
            **shape("rectanglelabels", x=1e6, y=1e6, width=1e6, height=1e6, rotation=1e300),
            "original_width": 2**31 - 1, "original_height": 1,
        }), None, "",
    ),
    "a box turned by no angle": (
        lambda: ask({
            **shape("rectanglelabels", x=0, y=0, width=1, height=1, rotation=float("inf")),
            "original_width": 80, "original_height": 60,
        }), AnnotationError, "inf degrees is not an angle",
    ),
    "100,000 clicks": (
        lambda: ask(*[shape("keypointlabels", x=1, y=1, width=1)] * 100_000),
        AnnotationError, "sends 100000 regions, more than 100",
    ),
    "100,000 labels that are asked for": (
        lambda: ask(shape("keypointlabels", x=1, y=1) | {
            "value": {"x": 1, "y": 1, "keypointlabels": [str(n) for n in range(100_000)]}
        }), AnnotationError, "one label",
    ),
    # Annotations
    "an annotation of 32768 x 32767": (
        lambda: annotate(stroke(HUGE, 32768, 32767)), AnnotationError, "32768 x 32767 pixels, but the photo",
    ),
    "a mask of 32768 x 32767 of unknown size": (
        lambda: annotate(stroke(HUGE, None, None)), AnnotationError, "another size",
    ),
    "a mask that is a number": (lambda: annotate(stroke(10**10, 80, 60)), AnnotationError, "of integers"),
    "a million corners": (
        lambda: annotate(shape("polygonlabels", points=[[0, 0], [100, 100]] * 500_000)),
        AnnotationError, "1000000 points, more than 100000",
    ),
    "a corner far away": (
        lambda: annotate(shape("polygonlabels", points=[[0, 0], [1e300, 0], [0, 100]])),
        AnnotationError, "1e[+]300 percent is not a place",
    ),
    "an ellipse of no size": (
        lambda: annotate(shape("ellipselabels", x=50, y=50, radiusX=1e-320, radiusY=1e-320)), None, "",
    ),
    "a vector of 100,000 curves": (
        lambda: annotate(shape("vectorlabels", closed=True, vertices=[{"x": 1, "y": 1}] * 100_000)),
        AnnotationError, "100000 points, more than 1562",
    ),
    "200,000 regions": (
        lambda: annotate(*[shape("polygonlabels", points=[])] * 200_000),
        AnnotationError, "200000 results, more than 10000",
    ),
    "a region of a million labels": (
        lambda: annotate(shape("rectanglelabels", x=0, y=0, width=1, height=1) | {
            "value": {"x": 0, "y": 0, "width": 1, "height": 1, "rectanglelabels": ["none"] * 1_000_000}
        }), None, "",
    ),
}  # fmt: skip


def limit_memory(megabytes: int) -> None:
    """Let this process take so much more than it has."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 1_000_000, resource.RLIM_INFINITY))


def main() -> None:
    import re

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    limit_memory(MEMORY_MB)
    for name, (read, error, message) in INPUTS.items():
        print(name, flush=True)
        try:
            read()
        except EBSegError as caught:
            assert error is type(caught) and re.search(message, str(caught), re.S), repr(caught)
            assert len(str(caught)) < 2000
        else:
            assert error is None, "it was not refused"
    print("done")


if __name__ == "__main__":
    main()
