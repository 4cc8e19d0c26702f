import pytest

from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.style import SCORES, Style, style
from ebseg.label_studio.tasks import read_label_config


def control(*labels, **settings):
    return Control(
        "polygonlabels", "c", "image", labels or (Label("sky"),), attributes=settings, tag="PolygonLabels"
    )


def sure(value, name, alias=None):
    return Label(name, alias, attributes={"model_score_threshold": value})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, Style()), ({"model_polygon_tolerance": "0"}, Style(tolerance=0)),
     ({"model_polygon_tolerance": "2.5"}, Style(tolerance=2.5)),
     ({"model_regions": "label"}, Style()), ({"model_regions": "part"}, Style(parts=True)),
     ({"model_score": "margin"}, Style(score="margin")), ({"model_score": "confidence"}, Style())],
)  # fmt: skip
def test_a_control_says_how_its_regions_are_made(settings, expected):
    assert style(control(**settings)) == (expected, [])


def test_what_the_model_must_tell_is_in_the_style():
    told = {name: style(control(model_score=name))[0].measure for name in SCORES}
    assert told == {"confidence": None, "margin": "margin", "entropy": "entropy", "rarest-label": None}


def test_a_label_says_how_sure_its_regions_must_be():
    labels = sure("0.5", "tree", "t"), Label("sky"), sure("1", "car"), sure("0", "sea")
    assert style(control(*labels)) == (Style(confidences=(("car", 1.0), ("sea", 0.0), ("t", 0.5))), [])
    made, problems = style(control(sure("half", "tree"), sure("0.25", "sky")))
    assert made == Style(confidences=(("sky", 0.25),))
    assert problems == [
        'PolygonLabels "c": the label "tree": model_score_threshold="half" must be a number from 0 to 1'
    ]


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
        (
            {"model_score": "least"},
            'model_score="least" must be "confidence" or "margin" or "entropy" or "rarest-label"',
        )
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
