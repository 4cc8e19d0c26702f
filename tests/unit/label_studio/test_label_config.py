import pytest

from ebseg.errors import LabelConfigError
from ebseg.label_studio.label_config import Control, ImageTag, Label, parse

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
    control = config.controls[0]
    assert config.images == (ImageTag(name="img", data_key="photo"),)
    assert (control.kind, control.name, control.to_name) == ("brushlabels", "tag", "img")
    assert [label.key for label in control.labels] == ["sky", "car", "Straße"]
    assert [label.value for label in control.labels] == ["sky", "Auto", "Straße"]
    assert [label.prompts for label in control.labels] == [
        ["sky"],
        ["car", "automobile"],
        ["Straße", "road", "street"],
    ]
    assert control.labels[0].attributes == {"value": "sky", "background": "#00f"}
    assert control.attributes["choice"] == "single"
    assert control.labels_key is None
    assert hash(config) == hash(config)  # usable as a key of caches


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
    [control] = parse(view(IMAGE, brush(label))).controls
    assert [label.prompts for label in control.labels] == [prompts]


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
    assert [[label.key for label in control.labels] for control in config.controls] == [["sky"]]
    assert config.images == (ImageTag("image", "image"),)


def test_a_label_belongs_to_the_innermost_control():
    inner = brush('<Label value="road"/>', 'name="inner" toName="image"')
    config = parse(view(IMAGE, brush(f'<Label value="sky"/>{inner}<View><Label value="sea"/></View>')))
    assert [(each.name, [label.key for label in each.labels]) for each in config.controls] == [
        ("mask", ["sky", "sea"]),
        ("inner", ["road"]),
    ]


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
    control = parse(view(IMAGE, brush(attributes=f'name="mask" toName="image" {attribute}'))).controls[0]
    assert control.setting("model_min_area") == expected
    assert control.setting("model_score_threshold") is None


@pytest.mark.parametrize("value", ["", "half", "-0.1", "1.5", "nan", "inf"])
def test_wrong_settings_are_named(value):
    xml = view(IMAGE, brush(attributes=f'name="mask" toName="image" model_min_area="{value}"'))
    with pytest.raises(
        LabelConfigError, match=f'"mask": model_min_area="{value}" must be a number from 0 to 1'
    ):
        parse(xml).controls[0].setting("model_min_area")


def test_a_label_is_found_by_key_then_by_value():
    control = Control("brushlabels", "m", "i", (Label("a", alias="b"), Label("b", alias="c"), Label("d")))
    found = [control.label(name) for name in ("b", "c", "a", "d", "e")]
    assert [label and label.value for label in found] == ["a", "b", "a", "d", None]
