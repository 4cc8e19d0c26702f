import pytest

from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.style import Style, style
from ebseg.label_studio.tasks import read_label_config


def control(**settings):
    return Control("polygonlabels", "c", "image", (Label("sky"),), attributes=settings, tag="PolygonLabels")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, Style()), ({"model_polygon_tolerance": "0"}, Style(tolerance=0)),
     ({"model_polygon_tolerance": "2.5"}, Style(tolerance=2.5)),
     ({"model_regions": "label"}, Style()), ({"model_regions": "part"}, Style(parts=True))],
)  # fmt: skip
def test_a_control_says_how_its_regions_are_made(settings, expected):
    assert style(control(**settings)) == (expected, [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"model_polygon_tolerance": value},
            f'model_polygon_tolerance="{value}" must be a number from 0 to 100',
        )
        for value in ("-1", "fine", "101", "nan", "")
    ]
    + [
        ({"model_regions": value}, f'model_regions="{value}" must be "label" or "part"')
        for value in ("", "Part", "instances", "0")
    ],
)
def test_a_wrong_setting_is_told_and_the_default_holds(settings, problem):
    assert style(control(**settings)) == (Style(), [f'PolygonLabels "c": {problem}'])
    [(name, value)] = settings.items()
    config = (
        '<View><Image name="image" value="$image"/>'
        f'<PolygonLabels name="c" toName="image" {name}="{value}"><Label value="sky"/></PolygonLabels></View>'
    )
    assert read_label_config(config).problems == (f'PolygonLabels "c": {problem}',)
