import pytest

from ebseg.errors import LabelConfigError
from ebseg.label_studio.label_config import Control, ImageTag, Label, parse
from ebseg.vocabulary import Vocabulary

IMAGE = '<Image name="image" value="$image"/>'


def brush(labels: str = '<Label value="sky"/>', attributes: str = 'name="mask" toName="image"') -> str:
    return f"<BrushLabels {attributes}>{labels}</BrushLabels>"


def view(*tags: str) -> str:
    return "<View>" + "".join(tags) + "</View>"


def test_a_usual_config():
    config = parse(
        """<View>
          <!-- what people paste from the templates -->
          <Header value="Label the street"/>
          <Image name="img" value="$photo" zoom="true"/>
          <BrushLabels name="tag" toName="img" model_score_threshold="0.4" choice="single">
            <Label value="sky" background="#00f"/>
            <Label value="Auto" alias="car" predicted_values="car, automobile"/>
            <Label value="Straße" synonyms="road| street "/>
          </BrushLabels>
          <Choices name="weather" toName="img"><Choice value="sun"/></Choices>
        </View>"""
    )
    control = config.mask_control()
    assert config.images == (ImageTag(name="img", data_key="photo"),)
    assert config.image == config.images[0]
    assert (control.kind, control.name, control.to_name) == ("brushlabels", "tag", "img")
    assert [label.key for label in control.labels] == ["sky", "car", "Straße"]
    assert [label.value for label in control.labels] == ["sky", "Auto", "Straße"]
    assert config.prompts(control) == [["sky"], ["car", "automobile"], ["Straße", "road", "street"]]
    assert control.labels[0].attributes == {"value": "sky", "background": "#00f"}
    assert control.attributes["choice"] == "single"
    assert not control.dynamic
    assert hash(config) == hash(config)  # usable as a key of caches
    Vocabulary(config.prompts(control))


@pytest.mark.parametrize(
    ("label", "prompts"),
    [
        ('<Label value="car"/>', ["car"]),
        ('<Label value="  car "/>', ["car"]),
        ('<Label value="building, edifice"/>', ["building, edifice"]),
        ('<Label value="car" alias="c"/>', ["car"]),
        ('<Label value="car" synonyms="auto|Car|AUTO|automobile"/>', ["car", "auto", "automobile"]),
        ('<Label value="class 3" predicted_values="car,,truck"/>', ["car", "truck"]),
        ('<Label value="class 3" predicted_values="car" synonyms="auto"/>', ["car", "auto"]),
        ('<Label value="car" predicted_values="" synonyms="|"/>', ["car"]),
        ('<Label value="a &lt;b&gt; &amp; 🚗"/>', ["a <b> & 🚗"]),
    ],
)
def test_prompts_of_a_label(label, prompts):
    config = parse(view(IMAGE, brush(label)))
    assert config.prompts(config.mask_control()) == [prompts]


@pytest.mark.parametrize(
    "xml",
    [
        view(brush(), IMAGE),
        view(f"<View><View>{IMAGE}</View></View>", f"<Style>.a {{}}</Style><View>{brush()}</View>"),
        view(IMAGE, brush('<View><Label value="sky"/></View>')),
        view(IMAGE, brush()).replace("BrushLabels", "brushlabels").replace("toName", "TONAME"),
        '<?xml version="1.0" encoding="utf-8"?>' + view(IMAGE, brush()),
    ],
    ids=["control first", "nested", "labels in a view", "lower case", "declaration"],
)
def test_layouts_that_label_studio_accepts(xml):
    config = parse(xml)
    assert [label.key for label in config.mask_control().labels] == ["sky"]
    assert config.image.data_key == "image"


def test_the_first_control_that_can_be_served_is_chosen():
    dynamic = '<BrushLabels name="dynamic" toName="image" value="$labels"/>'
    second = brush('<Label value="road"/>', 'name="second" toName="other"')
    third = brush('<Label value="sea"/>', 'name="third" toName="image"')
    config = parse(view(IMAGE, '<Image name="other" value="$other"/>', dynamic, second, third))
    assert config.mask_control().name == "second"
    assert config.image == ImageTag("other", "other")
    assert config.controls[0].dynamic


def test_a_label_belongs_to_the_innermost_control():
    inner = brush('<Label value="road"/>', 'name="inner" toName="image"')
    config = parse(view(IMAGE, brush(f'<Label value="sky"/>{inner}<View><Label value="sea"/></View>')))
    assert [(each.name, [label.key for label in each.labels]) for each in config.controls] == [
        ("mask", ["sky", "sea"]),
        ("inner", ["road"]),
    ]


def test_of_two_images_of_a_name_and_two_spellings_of_an_attribute_the_first_counts():
    first, second = '<Image name="image" value="$a" VALUE="$b"/>', '<Image name="image" value="$c"/>'
    assert parse(view(first, second, brush())).image == ImageTag("image", "a")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (view(), "has no control; add <BrushLabels>"),
        (view(IMAGE), "has no control; add <BrushLabels>"),
        (
            view(IMAGE, '<RectangleLabels name="r" toName="image"/><PolygonLabels name="p" toName="image"/>'),
            "has <PolygonLabels>, <RectangleLabels>, which hold no labelled masks; add <BrushLabels>",
        ),
        (
            view(IMAGE, '<Brush name="b" toName="image"/><Labels name="l" toName="image"/>'),
            "has <Brush>, <Labels>, which hold no labelled masks; add <BrushLabels>",
        ),
        (view('<Text name="t" value="$t"/><Choices name="c" toName="t"/>'), "<Choices>.*add <BrushLabels>"),
        (
            view(brush()),
            r'BrushLabels "mask": toName="image" names no <Image> \(found: none\); add <Image name',
        ),
        (view('<Image name="photo" value="$a"/>', brush()), r'\(found: "photo"\)'),
        (view(IMAGE, "<BrushLabels/>"), 'toName="" names no <Image>'),
        (view('<Image name="image"/>', brush()), r'<Image> "image" needs value="\$key"'),
        (view('<Image name="image" valueList="$images"/>', brush()), r'needs value="\$key"'),
        (view('<Image name="image" value="https://e.org/a.jpg"/>', brush()), r'needs value="\$key"'),
        (view('<Image name="image" value="$images[{{idx}}]"/>', brush()), r'needs value="\$key"'),
        (
            view(IMAGE, '<BrushLabels name="mask" toName="image" value="$labels"/>'),
            "labels are in each task's data .*not supported; write them",
        ),
        (view(IMAGE, brush("")), 'BrushLabels "mask": it has no <Label>'),
        (view(IMAGE, brush('<Label value="sky"/><Label value=" "/>')), "<Label> number 2 has no value"),
        (view(IMAGE, brush("<Label/>")), "<Label> number 1 has no value"),
        (view(IMAGE, brush('<Label value="a"/><Label value="b"/><Label value="a"/>')), '"a" is given twice'),
        (view(IMAGE, brush('<Label value="a"/><Label value="b" alias="a"/>')), '"a" is given twice'),
        (
            view(IMAGE, brush('<Label value="Car"/><Label value="car"/>')),
            '"Car" and "car" both ask the model for "car"',
        ),
        (
            view(IMAGE, brush('<Label value="a" synonyms="x"/><Label value="b" synonyms="X"/>')),
            '"a" and "b" both ask the model for "X"',
        ),
    ],
)
def test_what_cannot_be_served_is_said(xml, message):
    config = parse(xml)
    with pytest.raises(LabelConfigError, match=message):
        config.mask_control()
    with pytest.raises(LabelConfigError, match=message):
        _ = config.image


def test_every_control_has_its_reason():
    xml = view(IMAGE, brush("", 'name="a" toName="image"'), brush(attributes='name="b" toName="x"'))
    with pytest.raises(LabelConfigError, match='"a": it has no <Label>.*; BrushLabels "b": toName="x"'):
        parse(xml).mask_control()


BOMB = '<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><View>&b;</View>'
FILE = '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View><Header value="x"/>&a;</View>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not well-formed XML"),
        ("<View>", "not well-formed XML"),
        ("<View></Vie>", "not well-formed XML.*line 1"),
        ("plain text", "not well-formed XML"),
        ("<View>&undefined;</View>", "not well-formed XML"),
        ("<View>\0</View>", "not well-formed XML"),
        (BOMB, "refused.*remove DOCTYPE and entities"),
        (FILE, "refused.*remove DOCTYPE and entities"),
        ("<!DOCTYPE View><View/>", "refused.*remove DOCTYPE and entities"),
        (None, "refused"),
        ("<View a='\ud800'/>", "not Unicode text"),
    ],
)
def test_malformed_and_dangerous_xml(xml, message):
    with pytest.raises(LabelConfigError, match=message):
        parse(xml)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("", None), ('model_min_area="0.01"', 0.01), ('model_min_area="0"', 0.0), ('model_min_area=" 1 "', 1.0)],
)
def test_settings_of_a_control(attribute, expected):
    control = parse(view(IMAGE, brush(attributes=f'name="mask" toName="image" {attribute}'))).mask_control()
    assert control.setting("model_min_area") == expected
    assert control.setting("model_score_threshold") is None


@pytest.mark.parametrize("value", ["", "half", "-0.1", "1.5", "nan", "inf"])
def test_wrong_settings_are_named(value):
    control = parse(view(IMAGE, brush(attributes=f'name="mask" toName="image" model_min_area="{value}"')))
    with pytest.raises(
        LabelConfigError, match=f'"mask": model_min_area="{value}" must be a number from 0 to 1'
    ):
        control.mask_control().setting("model_min_area")


def test_a_label_is_found_by_key_then_by_value():
    control = Control("brushlabels", "m", "i", (Label("a", alias="b"), Label("b", alias="c"), Label("d")))
    found = [control.label(name) for name in ("b", "c", "a", "d", "e")]
    assert [label and label.value for label in found] == ["a", "b", "a", "d", None]
