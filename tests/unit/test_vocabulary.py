import hashlib
import json

import pytest

from ebseg.errors import VocabularyError
from ebseg.vocabulary import DATASETS, MAX_LABELS, TEMPLATES, Vocabulary

# Which classes of each benchmark occur in COCO-Stuff, most significant bit first, as published with the
# benchmarks' class lists (SAN, EBSeg).
SEEN = {
    "coco-stuff-171": (171, 171, "7" + 42 * "f"),
    "voc-20": (20, 20, "fffff"),
    "pascal-context-59": (59, 51, "57ffefffbfb9ffe"),
    "ade20k-150": (150, 67, "3fffff6e3881e9131f22341a080008a3c46086"),
    "pascal-context-459": (
        459,
        94,
        "20022341688ec0104c828000a0c0500000009003242800140001000b0c00089839844008238008001a2220140682820240"
        "04059988920084028",
    ),
    "ade20k-847": (
        847,
        115,
        "7fffff6d2d0ad15891245a5301440800440a11520240102082200400001186040800010000000000410880400200206808"
        "000003080006210000008000002400000000000000004000000000000820010000010000004004000000000000000000800004"
        "000001001000",
    ),
}


def test_templates_are_the_fourteen_of_vild_in_order() -> None:
    assert len(TEMPLATES) == 14
    digest = hashlib.sha256("\n".join(TEMPLATES).encode()).hexdigest()
    assert digest.startswith("20c81c13267c6b93")


@pytest.mark.parametrize("name", DATASETS)
def test_benchmark_classes_seen_by_a_coco_stuff_model(name: str) -> None:
    classes, seen, bits = SEEN[name]
    flags = Vocabulary.from_dataset(name).seen_in(Vocabulary.from_dataset("coco-stuff-171"))
    assert len(flags) == classes
    assert sum(flags) == seen
    assert int("".join("01"[flag] for flag in flags), 2) == int(bits, 16)


def test_benchmark_prompts_are_whole_strings() -> None:
    vocabulary = Vocabulary.from_dataset("ade20k-150")
    assert vocabulary.dataset == "ade20k-150"
    assert vocabulary.names[:7] == ("wall", "building", "sky", "floor", "tree", "ceiling", "road, route")
    assert vocabulary.prompts[6] == ("road, route",)
    assert Vocabulary.from_dataset("coco-stuff-171").names[80] == "banner"
    assert Vocabulary.from_dataset("pascal-context-459").names[-1] == "wool"


def test_unknown_benchmark_lists_the_known_ones() -> None:
    with pytest.raises(VocabularyError, match="'cityscapes'; known: coco-stuff-171, ade20k-150"):
        Vocabulary.from_dataset("cityscapes")


def test_typed_labels_keep_their_order_and_synonyms() -> None:
    vocabulary = Vocabulary([" sky ", ["car", "automobile"], "building, edifice", "道路", "🐶", "r" * 5000])
    assert vocabulary.names == ("sky", "car", "building, edifice", "道路", "🐶", "r" * 5000)
    assert vocabulary.prompts[1] == ("car", "automobile")
    assert vocabulary.dataset is None
    assert len(vocabulary) == 6


def test_vocabularies_are_equal_and_hashable_by_content() -> None:
    assert {Vocabulary(["sky", "road"]): 1}[Vocabulary(["sky ", " road"])] == 1
    assert Vocabulary(["sky", "road"]) != Vocabulary(["road", "sky"])
    assert Vocabulary(["car", "bus"]) != Vocabulary([["car", "bus"]])
    voc = Vocabulary.from_dataset("voc-20")
    assert voc != Vocabulary(voc.names)


@pytest.mark.parametrize("count", [1, MAX_LABELS])
def test_sizes_allowed(count: int) -> None:
    assert len(Vocabulary([f"label {index}" for index in range(count)])) == count


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "0 labels given; a vocabulary has 1 to 1000"),
        ([f"label {index}" for index in range(1001)], "1001 labels given"),
        ("sky, road", "a list of names, not one string: 'sky, road'"),
        (["sky", 3], "label 2 is not a name or a list of names: 3"),
        (["sky", ["road", None]], "label 2 is not a name or a list of names"),
        (["sky", ""], "label 2 has an empty name"),
        (["\t \n", "sky"], "label 1 has an empty name"),
        (["sky", "\u200b"], "label 2 has an empty name"),
        (["sky", []], "label 2 has no name"),
        (["sky", ["car", " "]], "label 2 has an empty name"),
        (["car", "sky", "car"], "label 3 'car' repeats 'car' of label 1"),
        (["Car", "sky", "  car"], "label 3 'car' repeats 'Car' of label 1"),
        (["traffic light", "traffic  light"], "label 2 'traffic  light' repeats 'traffic light' of label 1"),
        (["caf\u00e9", "cafe\u0301"], "label 2 .* repeats .* of label 1"),
        ([["car", "bus"], ["truck", "Bus"]], "label 2 'Bus' repeats 'bus' of label 1"),
        ([["car", "car"]], "label 1 'car' repeats 'car' of the same label"),
        (["sky \udcff"], "label 1 .* is not valid Unicode text"),
    ],
)
def test_faulty_labels_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(labels)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(VocabularyError) as caught:
        Vocabulary(["sky", "", "SKY", "road", "road"])
    assert str(caught.value) == (
        "label 2 has an empty name; label 3 'SKY' repeats 'sky' of label 1; "
        "label 5 'road' repeats 'road' of label 4"
    )


@pytest.mark.parametrize(
    ("typed", "trained", "seen"),
    [
        ("car", "car", True),
        ("Cars", "car", True),
        ("CAR", "cars", True),
        ("cart", "car", False),
        ("scar", "car", False),
        ("sports car", "car", False),
        ("buses", "bus", True),
        ("bus", "buses", True),
        ("grass", "gras", False),
        ("gras", "grass", False),
        ("grasses", "grass", True),
        ("glasses", "glass", True),
        ("glas", "glass", False),
        ("princes", "princess", False),
        ("caress", "cars", False),
        ("Benches", "bench", True),
        ("boxes", "box", True),
        ("dishes", "dish", True),
        ("Skies", "sky", True),
        ("skis", "sky", False),
        ("ski", "skis", True),
        ("toys", "toy", True),
        ("knives", "knife", True),
        ("leaf", "leaves", True),
        ("roofs", "roof", True),
        ("shelves", "shelf", True),
        ("potatoes", "potato", True),
        ("photos", "photo", True),
        ("people", "person", True),
        ("Children", "child", True),
        ("Women", "woman", True),
        ("policemen", "policeman", True),
        ("mouse", "mice", True),
        ("sheep", "sheep", True),
        ("Traffic Lights", "traffic light", True),
        ("traffic-light", "traffic light", True),
        ("traffic_lights", "traffic light", True),
        ("traffics light", "traffic light", False),
        ("Straße", "straße", True),
        ("道路", "道路", True),
        ("道", "道路", False),
    ],
)
def test_typed_labels_match_ignoring_case_and_simple_plurals(typed: str, trained: str, seen: bool) -> None:
    assert Vocabulary([typed]).seen_in(Vocabulary([trained])) == (seen,)


def test_typed_labels_match_synonyms_and_names_of_the_training_set() -> None:
    labels = ["Building", "Pavements", "Pedestrian", "sofas", "Building-Other", "water other", "kitty"]
    seen = Vocabulary(labels).seen_in(Vocabulary.from_dataset("coco-stuff-171"))
    assert seen == (True, True, False, True, True, True, True)


def test_a_label_is_seen_when_any_of_its_synonyms_is() -> None:
    vocabulary = Vocabulary([["automobile", "Cars"], ["lorry", "wagon"]])
    assert vocabulary.seen_in(Vocabulary([["car", "motorcar"], "sky"])) == (True, False)


def test_benchmark_labels_match_to_the_letter() -> None:
    voc = Vocabulary.from_dataset("voc-20")
    assert sum(voc.seen_in(Vocabulary(["Bicycle", "birds", "diningtables"]))) == 2


@pytest.mark.parametrize(
    "vocabulary",
    [Vocabulary(["sky", ["car", "automobile"], "道路"]), *map(Vocabulary.from_dataset, DATASETS)],
    ids=lambda vocabulary: vocabulary.dataset or "typed",
)
def test_json_gives_the_same_vocabulary_back(vocabulary: Vocabulary) -> None:
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_json_of_typed_labels_is_plain() -> None:
    assert json.loads(Vocabulary(["sky", ["car", "automobile"]]).to_json()) == {
        "dataset": None,
        "labels": [["sky"], ["car", "automobile"]],
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"dataset": null}',
        '{"dataset": "voc-20", "labels": [[]]}',
        '{"dataset": null, "labels": 3}',
    ],
)
def test_damaged_json_is_refused(content: str) -> None:
    with pytest.raises(VocabularyError, match="saved vocabulary cannot be read"):
        Vocabulary.from_json(content)


def test_a_union_knows_every_label_once():
    coco = Vocabulary.from_dataset("coco-stuff-171")
    own = Vocabulary(["sky", ["kerb", "curb"], "my robot"])
    both = Vocabulary.union([coco, own])
    assert len(both) == len(coco) + 3
    assert Vocabulary(["my robots", "curb", "giraffe", "unicorn"]).seen_in(both) == (True, True, True, False)
    ade = Vocabulary.from_dataset("ade20k-150")
    assert sum(ade.seen_in(both)) == sum(ade.seen_in(coco))
    assert Vocabulary.union([both, own]) == both == Vocabulary.from_json(both.to_json())
    assert Vocabulary.union([own]) == own


def test_a_union_may_be_larger_than_a_vocabulary_that_is_asked_for():
    names = ("coco-stuff-171", "ade20k-847", "pascal-context-459")
    joined = Vocabulary.union([Vocabulary.from_dataset(name) for name in names])
    assert len(joined) > MAX_LABELS
    assert Vocabulary.from_json(joined.to_json()) == joined


def test_a_benchmarks_labels_beside_typed_ones_are_compared_as_these_are():
    joined = Vocabulary.union([Vocabulary.from_dataset("voc-20"), Vocabulary(["Car", "kerb"])])
    typed = joined.as_typed()
    assert typed.names == (*Vocabulary.from_dataset("voc-20").names, "kerb")
    project = Vocabulary(["Car", "Bicycles"])
    seen = [name for name, seen in zip(typed.names, typed.seen_in(project), strict=True) if seen]
    assert seen == ["bicycle", "car"]
    assert len(Vocabulary.union([Vocabulary([f"label {i}"]) for i in range(1200)]).as_typed()) == 1000
