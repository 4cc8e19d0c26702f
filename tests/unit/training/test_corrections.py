import numpy as np
import pytest

from ebseg.label_studio.label_config import Control, Label
from ebseg.label_studio.regions import masks_to_regions
from training.annotations.corrections import (
    Correction,
    Live,
    compare,
    corrected_prediction,
    correction,
    in_words,
    summarise,
)
from training.annotations.entry import Entry
from training.annotations.label_studio import NotInLabelStudio

CONTROL = Control("brushlabels", "mask", "image", (Label("sky"), Label("car")))
NONE = -1


def maps(*rows):
    return [np.array(row, dtype=np.int16).reshape(1, -1) for row in rows]


@pytest.mark.parametrize(
    ("predicted", "corrected", "iou", "changed"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1.0, 0.0),
        ([0, 0, 1, 1], [0, 1, 1, 1], (1 / 2 + 2 / 3) / 2, 0.25),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0.0, 1.0),
        ([0, 0, 1, 1], [0, 0, 0, 0], 2 / 4, 0.5),  # a label that nobody left does not count
        ([0, 0, NONE, NONE], [0, 0, 1, 1], (1 + 0) / 2, 0.5),
        ([0, 0, 0, 0], [0, 0, NONE, NONE], 2 / 4, 0.5),  # what was erased was wrong
        ([NONE] * 4, [NONE] * 4, 1.0, 0.0),
        ([0, NONE, NONE, NONE], [NONE] * 4, 0.0, 0.25),
    ],
)
def test_what_a_person_made_of_a_prediction(predicted, corrected, iou, changed):
    found = compare("v1", *maps(predicted, corrected))
    assert found.version == "v1"
    assert found.iou == pytest.approx(iou, abs=1e-12)
    assert found.changed == pytest.approx(changed, abs=1e-12)
    assert found.untouched == (predicted == corrected)


def test_one_pixel_of_a_large_photo_is_a_touch():
    corrected = np.zeros((3000, 4000), np.int16)
    predicted = corrected.copy()
    predicted[17, 5] = 1
    found = compare("v1", predicted, corrected)
    assert not found.untouched and 0 < found.changed < 1e-6 and 0.999 < found.iou < 1


class Predictions:
    def __init__(self, **found) -> None:
        self._found = found

    def prediction(self, number: int):
        if not self._found:
            raise NotInLabelStudio("gone")
        return self._found


def test_a_prediction_is_compared_by_its_regions():
    predicted, corrected = maps([0, 0, 1, 1], [0, 1, 1, 1])
    regions = masks_to_regions(predicted, np.ones(predicted.shape, np.float32), CONTROL)
    stored = Predictions(result=[each.result for each in regions], model_version="v1")
    found = correction(corrected_prediction(stored, 5), CONTROL, corrected)
    assert found == compare("v1", predicted, corrected)


def test_a_prediction_that_is_gone_damaged_or_anonymous_says_nothing(caplog):
    (corrected,) = maps([0, 0, 1, 1])
    assert (
        corrected_prediction(Predictions(), 5) is None and corrected_prediction(Predictions(), None) is None
    )
    for none in (None, {"id": 5, "result": [], "model_version": None}):
        assert correction(none, CONTROL, corrected) is None
    bad = {"id": "x", "to_name": "image", "value": {"rle": [1], "brushlabels": ["sky"]}}
    stored = Predictions(result=[bad], model_version="v1")
    assert correction(corrected_prediction(stored, 5), CONTROL, corrected) is None
    assert "prediction 5 cannot be compared" in caplog.text


def entry(found):
    return Entry(1, 1, "", "p", "m", False, {}, (), found, "", "")


def test_corrections_are_summed_up_by_version():
    corrections = [
        Correction("v2", 1.0, 0.0, True),
        Correction("v1", 0.5, 0.25, False),
        None,
        Correction("v2", 0.5, 0.5, False),
        Correction("v2", 0.0, 1.0, False),
        Correction("v2", 0.5, 0.5, False),
    ]
    live = summarise(map(entry, corrections))
    assert live == {
        "v1": Live(1, 0.5, 0.25, 0.0, text_iou=0.5), "v2": Live(4, 0.5, 0.5, 0.25, text_iou=0.5)
    }  # fmt: skip
    assert live["v2"].numbers() == {
        "corrections": 4, "mean_iou": 0.5, "changed": 0.5, "untouched_share": 0.25,
        "memory_corrections": 0, "text_iou": 0.5,
    }  # fmt: skip
    assert summarise([]) == {}


def test_predictions_for_other_labels_are_the_same_models():
    """Versions name the label config too; what people corrected tells of the model."""
    corrections = [Correction("v1+aaaaaa", 1.0, 0.0, True), Correction("v1+bbbbbb", 0.0, 1.0, False)]
    corrections += [Correction("v1", 0.5, 0.5, False), Correction("v1+bbbbbbb", 0.5, 0.5, False)]
    live = summarise(map(entry, corrections))
    assert live == {
        "v1": Live(3, 0.5, 0.5, 1 / 3, text_iou=0.5), "v1+bbbbbbb": Live(1, 0.5, 0.5, 0.0, text_iou=0.5)
    }  # fmt: skip


def test_predictions_with_a_memory_are_told_from_those_by_the_text_alone():
    corrections = [
        Correction("v1+aaaaaa", 0.25, 0.0, False),
        Correction("v1+m012345+aaaaaa", 0.75, 0.0, False),
    ]
    corrections += [Correction("v1+m012345+aaaaaa", 1.0, 0.0, True)]
    live = summarise(map(entry, corrections))["v1"]
    assert (live.text_iou, live.memory_corrections, live.memory_iou) == (0.25, 2, 0.875)
    assert in_words(live.numbers()).endswith(
        "2 of them with the memory of corrections, mean IoU 87.5% with it, 25.0% by the text alone"
    )
    # The registry keeps a number that there is none of any more.
    assert "by the text" not in in_words({**live.numbers(), "memory_corrections": 3})
    assert "memory" not in in_words({**live.numbers(), "memory_corrections": 0})
