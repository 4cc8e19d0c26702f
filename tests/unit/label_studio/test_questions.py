"""What of a label config is served, and what is said of the rest."""

import numpy as np
import pytest

from ebseg.errors import LabelConfigError, VocabularyError
from ebseg.label_studio.tasks import Labelling, read_label_config
from ebseg.vocabulary import Vocabulary

IMAGE = '<Image name="image" value="$image"/>'
FINEST = ["BrushLabels", "BitmaskLabels", "PolygonLabels", "EllipseLabels", "RectangleLabels"]


def view(*tags: str) -> str:
    return "<View>" + "".join(tags) + "</View>"


def control(tag: str, *labels: str, name: str = "", image: str = "image", attributes: str = "") -> str:
    inside = "".join(label if label.startswith("<") else f'<Label value="{label}"/>' for label in labels)
    return f'<{tag} name="{name or tag.lower()}" toName="{image}" {attributes}>{inside}</{tag}>'


def brush(*labels: str, **options: str) -> str:
    return control("BrushLabels", *labels or ("sky",), **options)


def served(labelling: Labelling) -> dict[str, list[str]]:
    """Give for each control that is served, by its name, the keys of its labels."""
    return {
        each.control.name: [label.key for label in each.control.labels]
        for question in labelling.questions
        for each in question.controls
    }


def test_a_project_of_one_control_asks_for_its_labels_in_their_order():
    xml = view(IMAGE, brush("sky", '<Label value="Auto" alias="car" synonyms="motor car"/>', "sea"))
    labelling = read_label_config(xml, threshold=0.2, min_area=0.1)
    [question] = labelling.questions
    assert labelling.problems == ()
    assert question.labels == question.controls[0].control.labels
    assert [label.key for label in question.labels] == ["sky", "car", "sea"]
    assert question.vocabulary == Vocabulary(["sky", ["Auto", "motor car"], "sea"])
    assert (question.to_name, question.threshold, question.controls[0].min_area) == ("image", 0.2, 0.1)
    assert labelling.questions == (question,)


def test_all_controls_of_an_image_are_served_by_one_question():
    labelling = read_label_config(
        view(IMAGE, control("PolygonLabels", "car", "person"), brush("road", "sky"))
    )
    [question] = labelling.questions
    assert served(labelling) == {"polygonlabels": ["car", "person"], "brushlabels": ["road", "sky"]}
    assert question.vocabulary == Vocabulary(["car", "person", "road", "sky"])
    assert labelling.problems == ()


@pytest.mark.parametrize("finer", range(4))
def test_a_label_of_several_controls_is_predicted_by_the_finest_kind(finer):
    first, second = FINEST[finer + 1], FINEST[finer]
    for tags in ((first, second), (second, first)):
        labelling = read_label_config(view(IMAGE, *(control(tag, "car", tag) for tag in tags)))
        assert served(labelling) == {tag.lower(): ["car", tag] if tag == second else [tag] for tag in tags}
        assert labelling.problems == ()


def test_among_controls_of_a_kind_the_first_has_the_label():
    xml = view(IMAGE, brush("car", name="one"), brush("car", "sky", name="two"), brush("sky", name="three"))
    assert served(read_label_config(xml)) == {"one": ["car"], "two": ["sky"]}


def test_a_label_is_the_same_by_its_key_and_asked_for_as_the_finest_control_says():
    tool = control("RectangleLabels", '<Label value="Auto" alias="car" synonyms="lorry"/>', "c")
    labelling = read_label_config(view(IMAGE, tool, brush('<Label value="car" synonyms="taxi"/>')))
    assert served(labelling) == {"rectanglelabels": ["c"], "brushlabels": ["car"]}
    assert labelling.questions[0].vocabulary == Vocabulary(["c", ["car", "taxi"]])


def test_threshold_and_least_area_are_each_controls_own():
    polygons = control("PolygonLabels", "car", "cab", attributes='model_score_threshold="0.7"')
    masks = brush("sky", attributes='model_min_area="0.5"')
    [question] = read_label_config(view(IMAGE, polygons, masks), min_area=0.1).questions
    assert question.threshold == (0.7, 0.7, None)
    assert [each.min_area for each in question.controls] == [0.1, 0.5]
    [question] = read_label_config(view(IMAGE, polygons, masks), threshold=0.7).questions
    assert question.threshold == 0.7


def test_a_label_map_is_split_among_the_controls():
    xml = view(IMAGE, brush("a", "b"), control("PolygonLabels", "c"), control("EllipseLabels", "d"))
    [question] = read_label_config(xml).questions
    label_map = np.array([[-1, 0, 1], [3, 3, -1]], np.int16)
    parts = {each.control.name: part.tolist() for each, part in question.parts(label_map)}
    assert parts == {
        "brushlabels": [[-1, 0, 1], [-1, -1, -1]],
        "ellipselabels": [[-1, -1, -1], [0, 0, -1]],
    }
    assert all(part.dtype == np.int16 for _, part in question.parts(label_map))


def test_a_smart_tool_beside_the_mask_gets_no_predictions():
    tools = '<KeyPointLabels name="k" toName="image" smart="true"><Label value="sky"/></KeyPointLabels>'
    rectangle = control("RectangleLabels", "sky", attributes='smart="true"')
    labelling = read_label_config(view(IMAGE, brush("sky"), tools, rectangle))
    assert served(labelling) == {"brushlabels": ["sky"]} and labelling.problems == ()


@pytest.mark.parametrize(
    ("shapes", "shown"),
    [
        (["Brush"], "brush"), (["Bitmask"], "bitmask"), (["Polygon"], "polygon"), (["Ellipse"], "ellipse"),
        (["Rectangle"], "rectangle"), (["Rectangle", "Vector", "Polygon", "KeyPoint"], "polygon"),
        (["KeyPoint", "Rectangle", "Brush"], "brush"),
    ],
)  # fmt: skip
def test_labels_are_predicted_with_the_finest_tag_that_draws_on_their_image(shapes, shown):
    tags = [f'<{shape} name="{shape.lower()}" toName="image"/>' for shape in shapes]
    labels = control("Labels", "sky", "sea", name="l", attributes='model_min_area="0.2"')
    for layout in ((labels, *tags), (*tags, labels)):
        labelling = read_label_config(view(IMAGE, *layout))
        [question] = labelling.questions
        [found] = question.controls
        assert (found.control.kind, found.control.name, found.control.labels_name) == (shown, shown, "l")
        assert served(labelling) == {shown: ["sky", "sea"]} and labelling.problems == ()
        assert found.min_area == 0.2


def test_every_labels_tag_has_its_image_and_its_labels():
    labelling = read_label_config(
        view(
            IMAGE, '<Image name="other" value="$b"/><Text name="text" value="$t"/>',
            control("Labels", "sky", name="one"), control("Labels", "sky", "sea", name="two"),
            control("Labels", "person", name="names", image="text"),
            control("Labels", "car", name="three", image="other"),
            '<Brush name="b" toName="image"/><Polygon name="p" toName="other"/>',
        )
    )  # fmt: skip
    found = [each.control for question in labelling.questions for each in question.controls]
    assert [(each.labels_name, each.name, [label.key for label in each.labels]) for each in found] == [
        ("one", "b", ["sky"]), ("two", "b", ["sea"]), ("three", "p", ["car"]),
    ]  # fmt: skip
    assert labelling.problems == ()


def test_of_two_images_of_a_name_and_two_spellings_of_an_attribute_the_first_counts():
    first, second = '<Image name="image" value="$a" VALUE="$b"/>', '<Image name="image" value="$c"/>'
    [question] = read_label_config(view(first, second, brush())).questions
    assert question.image.data_key == "a"


def test_labels_that_the_model_reads_as_one_are_refused():
    with pytest.raises(VocabularyError, match="repeats"):
        read_label_config(view(IMAGE, brush("caf\u00e9", "cafe\u0301")))


NOT_SERVED = [
    (view(), "has no control; add <BrushLabels>"),
    (view(IMAGE), "has no control; add <BrushLabels>"),
    (
        view(IMAGE, '<KeyPointLabels name="r" toName="image"/><Choices name="p" toName="image"/>'),
        "has <Choices>, <KeyPointLabels>, which hold no labelled masks; add <BrushLabels>",
    ),
    (
        view(IMAGE, control("VectorLabels", "sky")),
        'VectorLabels "vectorlabels": no predictions are made for <Vector>; use <BrushLabels>',
    ),
    (
        view(IMAGE, '<Brush name="b" toName="image"/>', control("Labels", name="l")),
        'Labels "l": it has no <Label>',
    ),
    (view(IMAGE, control("Labels", "sky")), 'Labels "labels": no tag draws its regions; add one, such as <B'),
    (
        view(IMAGE, control("Labels", "sky"), '<Vector name="v" toName="image"/>'),
        'Labels "labels": no predictions are made for <Vector>; use <BrushLabels>',
    ),
    (
        view(IMAGE, control("Labels", "sky"), '<KeyPoint name="k" toName="image"/>'),
        "has <KeyPoint>, <Labels>, which hold no labelled masks",
    ),
    (
        view(IMAGE, '<Brush name="b" toName="image"/>'),
        'Brush "b": it has no labels; add <Labels name="labels" toName="image">',
    ),
    (
        view('<Text name="t" value="$t"/>', control("Labels", "person", image="t")),
        "has <Labels>, which hold no labelled masks",
    ),
    (view('<Text name="t" value="$t"/><Choices name="c" toName="t"/>'), "<Choices>.*add <BrushLabels>"),
    (
        view(brush(name="mask")),
        r'BrushLabels "mask": toName="image" names no <Image> \(found: none\); add <Image name',
    ),
    (view('<Image name="photo" value="$a"/>', brush()), r'\(found: "photo"\)'),
    (view(IMAGE, "<BrushLabels/>"), 'toName="" names no <Image>'),
    (view('<Image name="image"/>', brush()), r'<Image> "image" needs value="\$key"'),
    (view('<Image name="image" value="$a" valueList="pages"/>', brush()), r'or valueList="\$key"'),
    (view('<Image name="image" value="https://e.org/a.jpg"/>', brush()), r'needs value="\$key"'),
    (view('<Image name="image" value="$images[{{idx}}]"/>', brush()), r'needs value="\$key"'),
    (
        view(IMAGE, '<BrushLabels name="mask" toName="image" value="labels"/>'),
        "its value names no key of the task's data; write value=",
    ),
    (view(IMAGE, '<BrushLabels name="mask" toName="image"/>'), 'BrushLabels "mask": it has no <Label>'),
    (view(IMAGE, brush(" ")), "<Label> number 1 has no value"),
    (view(IMAGE, brush("<Label/>")), "<Label> number 1 has no value"),
    (
        view(IMAGE, brush("<Label/>", name="a"), brush(name="b", image="x")),
        'BrushLabels "b": toName="x".*; BrushLabels "a": <Label> number 1 has no value',
    ),
]


@pytest.mark.parametrize(("xml", "message"), NOT_SERVED)
def test_a_config_of_which_nothing_can_be_served_is_an_error(xml, message):
    with pytest.raises(LabelConfigError, match=message):
        read_label_config(xml)


LEFT_OUT = [
    (brush("sky", " "), "<Label> number 2 has no value; name it or remove it"),
    (brush("sky", "sea", "sky"), 'the label "sky" is given twice; remove or rename one (alias counts)'),
    (brush("sky", '<Label value="b" alias="sky"/>'), 'the label "sky" is given twice'),
    (brush("sky", "Sky"), 'the labels "sky" and "Sky" both ask the model for "Sky"; rename one'),
    (
        brush('<Label value="sky" synonyms="x"/>', '<Label value="b" synonyms="X"/>'),
        'the labels "sky" and "b" both ask the model for "X"',
    ),
    (brush("sky", "a" * 501), "of 501 characters, more than 500; the model reads some 300: shorten it"),
    (
        brush("sky") + control("PolygonLabels", '<Label value="sky" alias="s"/>', name="p"),
        'PolygonLabels "p": the labels "sky" and "sky" both ask the model for "sky"',
    ),
    (brush("sky") + brush(name="b", image="x"), 'BrushLabels "b": toName="x" names no <Image>'),
    (
        brush("sky") + control("VectorLabels", "sea", name="v"),
        'VectorLabels "v": no predictions are made for <Vector>; use <BrushLabels>',
    ),
    (brush("sky") + '<PolygonLabels name="p" toName="image"/>', 'PolygonLabels "p": it has no <Label>'),
    (brush("sky") + control("Labels", "sea", name="l"), 'Labels "l": no tag draws its regions'),
    (brush("sky") + '<Polygon name="p" toName="image"/>', 'Polygon "p": it has no labels; add <Labels '),
    (
        brush("sky") + control("PolygonLabels", *(f"label {number}" for number in range(1000)), name="p"),
        "it has 1000 labels, more than 1000 with those of the image's other controls; use several projects",
    ),
    (
        brush("sky")
        + control("PolygonLabels", f'<Label value="a" synonyms="{"|".join(map(str, range(3000)))}"/>'),
        "names with all synonyms, more than 3000 with those of the image's other controls; remove some",
    ),
]


@pytest.mark.parametrize(("controls", "message"), LEFT_OUT, ids=[message for _, message in LEFT_OUT])
def test_what_cannot_be_served_is_said_and_the_rest_is_served(controls, message):
    labelling = read_label_config(view(IMAGE, controls))
    assert "sky" in served(labelling)["brushlabels"]
    [problem] = labelling.problems
    assert message in problem


def test_a_few_faults_are_told_and_the_others_counted():
    labelling = read_label_config(view(IMAGE, brush("sky", *[" "] * 10)))
    assert len(labelling.problems) == 4 and labelling.problems[-1] == "and 7 more"


@pytest.mark.parametrize("value", ["", "half", "-0.1", "1.5", "nan", "inf"])
def test_a_wrong_setting_is_said_and_the_default_holds(value):
    xml = view(IMAGE, brush("sky", name="m", attributes=f'model_min_area="{value}"'))
    labelling = read_label_config(xml, min_area=0.2)
    [problem] = labelling.problems
    assert f'BrushLabels "m": model_min_area="{value}" must be a number from 0 to 1' in problem
    assert labelling.questions[0].controls[0].min_area == 0.2
    assert labelling.version("m") == read_label_config(view(IMAGE, brush(name="m")), min_area=0.2).version(
        "m"
    )


MASKS = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="Airplane" background="rgba(255, 0, 0, 0.7)"/>
    <Label value="Car" background="rgba(0, 0, 255, 0.7)"/>
  </BrushLabels>
</View>"""
POLYGONS = """<View>

  <Header value="Select label and click the image to start"/>
  <Image name="image" value="$image" zoom="true"/>

  <PolygonLabels name="label" toName="image"
                 strokeWidth="3" pointSize="small"
                 opacity="0.9">
    <Label value="Airplane" background="red"/>
    <Label value="Car" background="blue"/>
  </PolygonLabels>

</View>"""


@pytest.mark.parametrize(("xml", "name"), [(MASKS, "tag"), (POLYGONS, "label")], ids=["masks", "polygons"])
def test_label_studios_templates_of_semantic_segmentation_are_served_as_they_are(xml, name):
    """Its 1.23: "Semantic Segmentation with Masks" and "Semantic Segmentation with Polygons"."""
    labelling = read_label_config(xml)
    assert served(labelling) == {name: ["Airplane", "Car"]} and labelling.problems == ()
    assert labelling.questions[0].vocabulary == Vocabulary(["Airplane", "Car"])


KNOWN = "model_min_area, model_polygon_tolerance, model_regions, model_score, model_score_threshold"
MISSPELT = [
    (
        IMAGE + brush(name="m", attributes='model_min_aera="0.1"'),
        f'BrushLabels "m": model_min_aera is no setting; there are {KNOWN}',
    ),
    (
        IMAGE + brush(name="m", attributes='Model_Min_Area="0.1"'),
        f'BrushLabels "m": Model_Min_Area is no setting; there are {KNOWN}',
    ),
    (
        IMAGE + brush('<Label value="sky" model_min_area="0.1"/>', name="m"),
        'BrushLabels "m": the label "sky" has model_min_area, which is a setting of controls only',
    ),
    (
        IMAGE + brush('<Label value="sky" model_score_threshold="2"/>', name="m"),
        'BrushLabels "m": the label "sky": model_score_threshold="2" must be a number from 0 to 1',
    ),
    (
        IMAGE + brush('<Label value="sky" model_area="0.1"/>', name="m"),
        f'the label "sky" has model_area, which is no setting; controls have {KNOWN}',
    ),
    (
        '<Image name="image" value="$image" model_regions="part"/>' + brush(),
        'Image "image" has model_regions, which is a setting of controls only',
    ),
    (
        IMAGE + '<Brush name="b" toName="image" model_x="1"/>' + control("Labels", "sky", name="l"),
        f'Labels "l": model_x is no setting; there are {KNOWN}',
    ),
]


@pytest.mark.parametrize(("tags", "message"), MISSPELT, ids=[message for _, message in MISSPELT])
def test_a_setting_that_is_none_is_named_and_the_rest_is_served(tags, message):
    labelling = read_label_config(view(tags))
    [problem] = labelling.problems
    assert message in problem
    assert served(labelling)


def test_settings_of_tags_that_are_not_served_are_not_ours():
    tools = control("KeyPointLabels", "sky", attributes='model_x="1"')
    other = '<Image name="other" value="$b" model_y="2"/>'
    assert read_label_config(view(IMAGE, other, brush(), tools)).problems == ()
