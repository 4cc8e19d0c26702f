import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ebseg.errors import AnnotationError, FetchError, ImageError
from ebseg.label_studio.annotations import paint
from ebseg.label_studio.brush import encode
from ebseg.label_studio.label_config import ImageTag
from ebseg.label_studio.pipeline import Pipeline
from ebseg.label_studio.regions import masks_to_regions, prediction
from ebseg.label_studio.smart_tools import parse_context
from ebseg.label_studio.tasks import (
    TaskError,
    describe,
    language_hint,
    photo_url,
    photo_urls,
    read_label_config,
)
from ebseg.label_studio.version import model_of
from ebseg.vocabulary import Vocabulary
from tests.unit.one_by_one import OneByOne

HEIGHT, WIDTH = 6, 8


def label_config(settings=""):
    return (
        f'<View><Image name="photo" value="$image"/><BrushLabels name="mask" toName="photo" {settings}>'
        '<Label value="sky"/><Label value="road" synonyms="street"/></BrushLabels></View>'
    )


def photo(size=(WIDTH, HEIGHT)):
    content = io.BytesIO()
    Image.new("RGB", size, (10, 20, 30)).save(content, "PNG")
    return content.getvalue()


class Photos:
    """Hands out one photo. ``fetched``: the address and the task of each that was asked for."""

    def __init__(self, content=None):
        self.content, self.fetched = content or photo(), []

    def fetch(self, url, *, task_id):
        self.fetched.append((url, task_id))
        if url == "/gone":
            raise FetchError("/gone: not found (404)")
        return self.content


class Model(OneByOne):
    """Says "sky" left, "road" in two columns right, nothing between. ``asked``: what it was asked."""

    version = "model-1"

    def __init__(self, score=0.5):
        self.score, self.asked = score, []

    def predict(self, image, labels, threshold=None):
        self.asked.append((image.shape, labels.names, threshold))
        label_map = np.full(image.shape[:2], -1, np.int16)
        label_map[:, :4], label_map[:, 6:] = 0, 1
        return SimpleNamespace(label_map=label_map, scores=np.full(image.shape[:2], self.score, np.float32))


def pipeline(settings="", *, max_pixels=100, photos=None, **defaults):
    return Pipeline(
        read_label_config(label_config(settings), **defaults),
        photos or Photos(), max_pixels=max_pixels,
    )  # fmt: skip


def task(image="/a.png", number=7):
    return {"id": number, "data": {"image": image}}


def test_a_task_becomes_what_label_studio_stores():
    photos, model = Photos(), Model()
    made = pipeline(photos=photos).predict(task(), model)
    assert photos.fetched == [("/a.png", 7)]
    assert model.asked == [((HEIGHT, WIDTH, 3), ("sky", "road"), None)]
    assert (made["score"], model_of(made["model_version"])) == (0.5, "model-1")
    assert [region["value"]["brushlabels"] for region in made["result"]] == [["sky"], ["road"]]
    assert {(region["original_width"], region["original_height"]) for region in made["result"]} == {(8, 6)}


def test_the_whole_is_its_steps():
    path, model = pipeline(min_area=0.3), Model()
    [of] = path.photos(task())
    image = path.photo(task(), of)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8 and (image == (10, 20, 30)).all()
    [found] = model.predict_many([path.ask(image, of.question)])
    regions = path.regions(found, of)
    [served] = of.question.controls
    expected = masks_to_regions(found.label_map, found.scores, served.control, min_area=0.3)
    assert regions == expected and len(regions) == 1
    assert path.predict(task(), model) == prediction(regions, path.labelling.version("model-1"))


@pytest.mark.parametrize(
    ("settings", "default", "expected"),
    [("", None, None), ("", 0.2, 0.2), ('model_score_threshold="0.7"', 0.2, 0.7),
     ('model_score_threshold="0"', 0.2, 0.0), ('model_score_threshold="0.7"', None, 0.7)],
)  # fmt: skip
def test_the_threshold_is_the_controls_else_the_default(settings, default, expected):
    model, path = Model(), pipeline(settings, threshold=default)
    path.predict(task(), model)
    assert path.labelling.questions[0].threshold == expected
    assert [threshold for *_, threshold in model.asked] == [expected]


@pytest.mark.parametrize(
    ("settings", "default", "kept"),
    [("", 0.0, 2), ("", 0.26, 1), ("", 0.51, 0), ('model_min_area="0"', 0.9, 2),
     ('model_min_area="0.26"', 0.0, 1)],
)  # fmt: skip
def test_the_least_area_is_the_controls_else_the_default(settings, default, kept):
    assert len(pipeline(settings, min_area=default).predict(task(), Model())["result"]) == kept


@pytest.mark.parametrize(("default", "score", "kept"), [(0.0, 0.1, 2), (0.5, 0.5, 2), (0.5, 0.4, 0)])
def test_the_least_confidence_is_the_default(default, score, kept):
    assert len(pipeline(min_confidence=default).predict(task(), Model(score))["result"]) == kept


def test_a_score_is_of_the_measure_that_the_control_names():
    class Measuring(Model):
        def predict_many(self, asks):
            self.measures = [ask.measures for ask in asks]
            found = self.predict(asks[0].photo, asks[0].vocabulary)
            found.measures = {
                name: np.full(found.scores.shape, 0.25, np.float32) for name in asks[0].measures
            }
            return [found]

    for settings, measures, score in [("", (), 0.5), ('model_score="margin"', ("margin",), 0.25),
                                      ('model_score="rarest-label"', (), 0.5)]:  # fmt: skip
        model = Measuring()
        assert pipeline(settings).predict(task(), model)["score"] == score
        assert model.measures == [measures]
    path, asked = pipeline('model_score="entropy"'), parse_context(click("road", 80))
    [of] = path.photos(task(), asked)
    ask = path.ask(path.photo(task(), of), of.question, asked)
    assert ask.measures == ()  # a smart tool's region has no rank
    assert path.regions(Model().predict_many([ask])[0], of, asked)[0].result["score"] == 0.5


TWO_CONTROLS = (
    '<View><Image name="photo" value="$image"/>'
    '<BrushLabels name="things" toName="photo" model_score_threshold="0.7">'
    '<Label value="road"/></BrushLabels>'
    '<BrushLabels name="stuff" toName="photo" model_min_area="0.3"><Label value="sky"/>'
    '<Label value="road"/></BrushLabels></View>'
)


def of_config(config, photos=None, **defaults):
    return Pipeline(read_label_config(config, **defaults), photos or Photos(), max_pixels=100)


class Everywhere(OneByOne):
    """Says the last label in the left half, the first in a column at the right. ``asked`` as above."""

    version = "model-1"

    def __init__(self):
        self.asked = []

    def predict(self, image, labels, threshold=None):
        self.asked.append((labels.names, threshold))
        label_map = np.full(image.shape[:2], -1, np.int16)
        label_map[:, :4], label_map[:, 7:] = len(labels) - 1, 0
        return SimpleNamespace(label_map=label_map, scores=np.full(image.shape[:2], 0.5, np.float32))


def shown(made):
    """Give the control, the image, and the labels of each region."""
    return [
        (region["from_name"], region["to_name"], *region["value"]["brushlabels"]) for region in made["result"]
    ]


def test_the_controls_of_an_image_are_asked_for_at_once_and_each_writes_its_own_labels():
    model = Everywhere()
    made = of_config(TWO_CONTROLS).predict(task(), model)
    assert model.asked == [(("road", "sky"), (0.7, None))]
    assert shown(made) == [("things", "photo", "road"), ("stuff", "photo", "sky")]
    assert (
        of_config(TWO_CONTROLS.replace('0.3"', '0.6"')).predict(task(), model)["result"]
        == (
            made["result"][:1]  # the least area is the second control's own
        )
    )


MIXED = (
    '<View><Image name="photo" value="$image"/>'
    '<RectangleLabels name="tool" toName="photo" smart="true"><Label value="car"/></RectangleLabels>'
    '<PolygonLabels name="things" toName="photo"><Label value="car"/></PolygonLabels>'
    '<Labels name="stuff" toName="photo"><Label value="sky"/></Labels><Brush name="brush" toName="photo"/>'
    "</View>"
)


def test_stuff_may_be_brush_masks_and_things_polygons():
    model = Everywhere()
    made = of_config(MIXED).predict(task(), model)
    assert [labels for labels, _ in model.asked] == [("car", "sky")]
    found = [(region["from_name"], region["type"]) for region in made["result"]]
    assert found == [("things", "polygonlabels"), ("brush", "brush"), ("stuff", "labels")]
    painted = paint(made["result"], of_config(MIXED).labelling.questions[0], HEIGHT, WIDTH)
    assert painted.label_map.tolist() == [[1, 1, 1, 1, -1, -1, -1, 0]] * HEIGHT


@pytest.mark.parametrize(("label", "types"), [("car", ["polygonlabels"]), ("sky", ["brush", "labels"])])
def test_a_smart_tool_gets_the_kind_that_its_label_is_predicted_as(label, types):
    path, asked = of_config(MIXED), parse_context(click(label, 20))
    [of] = path.photos(task(), asked)
    [found] = Everywhere().predict_many([path.ask(path.photo(task(), of), of.question, asked)])
    assert [region.result["type"] for region in path.regions(found, of, asked)] == types


TWO_IMAGES = (
    '<View><Image name="left" value="$a"/><Image name="right" value="$b"/>'
    '<BrushLabels name="r" toName="right"><Label value="road"/><Label value="sea"/></BrushLabels>'
    '<BrushLabels name="l" toName="left"><Label value="sky"/><Label value="hill"/></BrushLabels></View>'
)


def test_each_image_is_asked_for_its_own_labels():
    model, photos = Everywhere(), Photos()
    made = of_config(TWO_IMAGES, photos).predict({"id": 7, "data": {"a": "/a.png", "b": "/b.png"}}, model)
    assert photos.fetched == [("/a.png", 7), ("/b.png", 7)]
    assert [labels for labels, _ in model.asked] == [("sky", "hill"), ("road", "sea")]
    assert shown(made) == [
        ("l", "left", "sky"), ("l", "left", "hill"), ("r", "right", "road"), ("r", "right", "sea"),
    ]  # fmt: skip


def test_a_photo_that_is_bad_itself_costs_the_tasks_other_photos_nothing(caplog):
    made = of_config(TWO_IMAGES).predict({"id": 7, "data": {"b": "/b.png"}}, Everywhere())
    assert {to_name for _, to_name, _ in shown(made)} == {"right"}
    assert 'task 7: a photo is left out: its data has "b", but' in caplog.text
    with pytest.raises(TaskError, match='takes the photo from "a"'):
        of_config(TWO_IMAGES).predict({"id": 7, "data": {}}, Everywhere())
    with pytest.raises(FetchError, match="404"):
        of_config(TWO_IMAGES).predict({"id": 7, "data": {"a": "/a.png", "b": "/gone"}}, Everywhere())


@pytest.mark.parametrize(
    ("to_name", "label", "image"),
    [(None, "sky", "left"), (None, "sea", "right"), ("right", "sea", "right")],
)
def test_a_smart_tool_points_at_one_image(to_name, label, image):
    path = of_config(TWO_IMAGES)
    context = click(label, 20)
    context["result"][0]["to_name"] = to_name
    [of] = path.photos({"id": 7, "data": {"a": "/a.png", "b": "/b.png"}}, parse_context(context))
    assert of.question.to_name == image and of.url == f"/{'a' if image == 'left' else 'b'}.png"


@pytest.mark.parametrize(
    ("to_name", "label", "known"), [("left", "sea", '"sky", "hill"'), ("text", "sky", "none")]
)
def test_a_smart_tool_for_a_label_that_the_image_lacks_is_told(to_name, label, known):
    context = click(label, 20)
    context["result"][0]["to_name"] = to_name
    with pytest.raises(AnnotationError, match=f'asks for "{label}", but .*there are {known}; give both'):
        of_config(TWO_IMAGES).photos(
            {"id": 7, "data": {"a": "/a.png", "b": "/b.png"}}, parse_context(context)
        )


@pytest.mark.parametrize("name", ["car", "Auto"])
def test_a_smart_tools_label_is_found_by_key_or_value(name):
    config = TWO_CONTROLS.replace('<Label value="sky"/>', '<Label value="Auto" alias="car"/>')
    path, asked = of_config(config), parse_context(click(name, 20))
    [of] = path.photos(task(), asked)
    [found] = Everywhere().predict_many([path.ask(path.photo(task(), of), of.question, asked)])
    [region] = path.regions(found, of, asked)
    assert region.result["from_name"] == "stuff" and region.result["value"]["brushlabels"] == ["car"]


PAGES = (
    '<View><Image name="doc" valueList="$pages" value="$other"/>'
    '<BrushLabels name="mask" toName="doc"><Label value="sky"/><Label value="sea"/></BrushLabels></View>'
)


def with_pages(*pages):
    return {"id": 7, "data": {"pages": list(pages)}}


def test_each_page_is_predicted_and_its_regions_say_which_it_is():
    path, photos, model = of_config(PAGES), Photos(), Everywhere()
    made = of_config(PAGES, photos).predict(with_pages("/a.png", "/b.png", "/c.png"), model)
    assert [url for url, _ in photos.fetched] == ["/a.png", "/b.png", "/c.png"]
    assert [region["item_index"] for region in made["result"]] == [0, 0, 1, 1, 2, 2]
    assert len({region["id"] for region in made["result"]}) == 6
    single = of_config(PAGES.replace(' valueList="$pages"', "")).predict({"data": {"other": "/a.png"}}, model)
    assert all("item_index" not in region for region in single["result"])
    assert made["result"][:2] == [region | {"item_index": 0} for region in single["result"]]
    for page in range(3):
        painted = paint(made["result"], path.labelling.questions[0], HEIGHT, WIDTH, page=page)
        assert painted.label_map.tolist() == [[1, 1, 1, 1, -1, -1, -1, 0]] * HEIGHT
        assert painted.regions == 2
    assert paint(made["result"], path.labelling.questions[0], HEIGHT, WIDTH, page=3).regions == 0


def test_one_address_is_one_page():
    assert photo_urls({"data": {"pages": "/a.png"}}, ImageTag("doc", "pages", pages=True)) == ["/a.png"]


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        (None, 'takes the pages from "pages"'),
        ([], 'its "pages" must be a list of the addresses of photos'),
        (["/a.png", 5], "must be a list"),
        (["/a.png", ""], "must be a list"),
        ({"a": "/a.png"}, "must be a list"),
        (["/a.png"] * 201, 'its "pages" has 201 pages, more than 200; make several tasks of it'),
    ],
)
def test_pages_that_are_none_are_the_tasks_fault(pages, reason):
    with pytest.raises(TaskError, match=reason):
        of_config(PAGES).predict({"id": 7, "data": {"pages": pages}}, Everywhere())


def test_a_smart_tool_points_at_a_page_and_the_answer_is_on_it():
    context = click("sea", 20)
    context["result"][0] |= {"to_name": "doc", "item_index": 1}
    path, asked = of_config(PAGES), parse_context(context)
    [of] = path.photos(with_pages("/a.png", "/b.png"), asked)
    assert (of.url, of.page) == ("/b.png", 1)
    [found] = Everywhere().predict_many([path.ask(path.photo(task(), of), of.question, asked)])
    assert [region.result["item_index"] for region in path.regions(found, of, asked)] == [1]
    with pytest.raises(AnnotationError, match="there are none"):
        path.photos(with_pages("/a.png"), asked)
    [of] = path.photos(with_pages(), asked)
    assert isinstance(of.fault, TaskError)


DYNAMIC = (
    '<View><Image name="photo" value="$image"/>'
    '<BrushLabels name="mask" toName="photo" value="$labels"><Label value="sky"/></BrushLabels></View>'
)


def with_labels(labels):
    return {"id": 7, "data": {"image": "/a.png", "labels": labels}}


@pytest.mark.parametrize(
    ("labels", "asked", "keys"),
    [
        (["road"], [("sky",), ("road",)], ["road", "sky"]),
        ([], [("sky",)], ["sky"]),
        ([{"value": "Auto", "alias": "car", "hotkey": 5}], [("sky",), ("Auto",)], ["car", "sky"]),
        ([{"value": "x", "predicted_values": "car", "synonyms": "taxi"}], [("sky",), ("car", "taxi")],
         ["x", "sky"]),
        ([{"Value": "no"}, "sea"][1:], [("sky",), ("sea",)], ["sea", "sky"]),
    ],
)  # fmt: skip
def test_a_tasks_own_labels_are_asked_for(labels, asked, keys):
    path, photos = of_config(DYNAMIC), of_config(DYNAMIC).photos(with_labels(labels))
    assert [of.question.vocabulary for of in photos] == [Vocabulary(asked)]
    made = path.predict(with_labels(labels), Everywhere())
    assert sorted({key for *_, key in shown(made)}) == sorted(keys)
    assert made["model_version"] == path.labelling.version("model-1")  # the same for all tasks


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, 'its data has "image", "labels", but the label config takes the labels from "labels"'),
        ("road", r'its "labels" must be a list of labels, such as \[{"value": "sky"}\], not str'),
        ({"value": "road"}, "not dict"),
        ([5], 'number 1 of its "labels" is neither a name nor an object such as {"value": "sky"}'),
        (["road", {"alias": "a"}], 'number 2 of its "labels" is neither'),
        (["road", ""], "<Label> number 3 has no value"),
        (["road", "road"], 'the label "road" is given twice'),
        (["sky"], 'the label "sky" is given twice'),
        (["Sky"], 'the labels "sky" and "Sky" both ask the model for "Sky"'),
        (["caf\u00e9", "cafe\u0301"], "repeats"),
        (["road"] * 1001, 'its "labels" has 1001 labels, more than 1000; remove some'),
        ([str(number) for number in range(1000)], "it has 1001 labels, more than 1000"),
        ([{"value": "a", "synonyms": "|".join(map(str, range(3000)))}], "3002 names with all synonyms"),
    ],
)
def test_what_is_wrong_with_a_tasks_labels_is_that_tasks_fault(labels, reason):
    path = of_config(DYNAMIC)
    with pytest.raises(TaskError, match=reason):
        path.predict(with_labels(labels), Everywhere())


def test_a_task_without_labels_in_a_config_without_any_is_at_fault():
    path = of_config(DYNAMIC.replace('<Label value="sky"/>', ""))
    assert not path.labelling.problems
    assert path.predict(with_labels(["sky", "sea"]), Everywhere())["result"]
    with pytest.raises(TaskError, match="it brings no labels, and the label config has none"):
        path.predict(with_labels([]), Everywhere())


def test_the_finest_control_has_a_tasks_label_too():
    second = (
        '<BrushLabels name="second" toName="photo"><Label value="road"/><Label value="sea"/></BrushLabels>'
    )
    path = of_config(DYNAMIC.replace("</View>", f"{second}</View>"))
    [before], [of] = path.photos(with_labels([])), path.photos(with_labels(["road"]))
    assert [[label.key for label in each.control.labels] for each in before.question.controls] == [
        ["sky"], ["road", "sea"],
    ]  # fmt: skip
    assert [[label.key for label in each.control.labels] for each in of.question.controls] == [
        ["sky", "road"], ["sea"],
    ]  # fmt: skip


def test_where_the_labels_are_is_in_the_version_but_not_which():
    versions = {read_label_config(DYNAMIC.replace("$labels", key)).version("m") for key in ("$a", "$b")}
    assert len(versions) == 2


def test_a_smart_tool_may_ask_for_a_tasks_own_label():
    path, asked = of_config(DYNAMIC), parse_context(click("road", 80))
    [of] = path.photos(with_labels(["road"]), asked)
    ask = path.ask(path.photo(with_labels(["road"]), of), of.question, asked)
    assert ask.pointed.label == 1
    with pytest.raises(AnnotationError, match='asks for "road", but .*there are "sky"'):
        path.photos(with_labels([]), asked)


def click(label, x):
    value = {"x": x, "y": 50, "width": 1, "keypointlabels": [label]}
    return {"result": [{"type": "keypointlabels", "value": value}]}


def test_a_smart_tool_gets_its_label_however_small_and_unsure_it_is():
    path = pipeline(min_area=0.9, min_confidence=0.9)
    asked = parse_context(click("road", 80))
    [of] = path.photos(task(), asked)
    ask = path.ask(path.photo(task(), of), of.question, asked)
    assert ask.pointed.label == 1 and ask.pointed.positive == asked.prompts
    [found] = Model().predict_many([ask])
    [region] = path.regions(found, of, asked)
    assert region.result["value"]["brushlabels"] == ["road"] and region.area == 2 * HEIGHT


def test_what_does_not_fit_the_photo_is_told_before_the_model_is_asked():
    path = pipeline()
    value = {"format": "rle", "rle": encode(np.full((2, 2), 255, np.uint8)), "brushlabels": ["sky"]}
    stroke = {"type": "brushlabels", "value": value, "original_width": 2, "original_height": 2}
    asked = parse_context({"result": [stroke]})
    [of] = path.photos(task(), asked)
    with pytest.raises(AnnotationError, match="2 x 2 pixels but the photo is 8 x 6"):
        path.ask(path.photo(task(), of), of.question, asked)


@pytest.mark.parametrize(
    ("bad", "error", "reason"),
    [
        (None, TaskError, 'no "data"'),
        ({"data": {"text": "x"}}, TaskError, 'takes the photo from "image"'),
        (task("/gone"), FetchError, "404"),
    ],
)
def test_a_bad_task_is_an_error_that_says_why(bad, error, reason):
    with pytest.raises(error, match=reason):
        pipeline().predict(bad, Model())


@pytest.mark.parametrize(
    ("data", "url"),
    [
        ({"meta": {"image": "/a.png"}}, "/a.png"),
        ({"meta.image": "/flat.png", "meta": {"image": "/a.png"}}, "/flat.png"),  # as the editor takes it
        ({"meta": {"image.large": "/a.png"}}, None),
        ({"meta": "/a.png"}, None),
        ({"meta": {"image": None}}, None),
        ({}, None),
    ],
)
def test_a_key_with_dots_is_looked_up_as_label_studio_does(data, url):
    if url:
        assert photo_url({"data": data}, "meta.image") == url
        assert describe({"id": 7, "data": data}, url) == f"task 7 ({url})"
    else:
        with pytest.raises(TaskError, match='takes the photo from "meta.image"'):
            photo_url({"data": data}, "meta.image")


@pytest.mark.parametrize(
    ("labels", "hinted"),
    [
        ('<Label value="sky"/><Label value="🚗 car-1"/>', None),
        ('<Label value="道路"/><Label value="sky"/><Label value="Straße"/>', "道路, Straße"),
        ('<Label value="道路" predicted_values="road"/>', None),
        ('<Label value="道路" synonyms="road"/>', "道路"),
    ],
)
def test_labels_that_are_not_english_are_hinted_at(labels, hinted):
    xml = f'<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i">{labels}</BrushLabels></View>'
    hint = language_hint(read_label_config(xml))
    if hinted is None:
        assert hint is None
    else:
        assert f"these labels have other letters: {hinted}; add the English name" in hint
        assert 'predicted_values="road"' in hint


def test_a_bad_photo_is_an_error_that_says_why():
    with pytest.raises(ImageError, match="the photo"):
        pipeline(photos=Photos(b"no photo")).predict(task(), Model())
    with pytest.raises(ImageError, match="megapixels"):
        pipeline(max_pixels=HEIGHT * WIDTH - 1).predict(task(), Model())
    assert pipeline(max_pixels=HEIGHT * WIDTH).predict(task(), Model())["result"]


def test_a_damaged_model_is_an_error():
    with pytest.raises(AnnotationError, match="not finite"):
        pipeline().predict(task(), Model(score=np.nan))


@pytest.mark.parametrize(("number", "expected"), [(3, 3), ("1/../..", None), (None, None)])
def test_only_a_number_is_a_tasks_id(number, expected):
    photos = Photos()
    pipeline(photos=photos).predict(task(number=number), Model())
    assert photos.fetched == [("/a.png", expected)]
