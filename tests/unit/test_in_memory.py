import numpy as np
import pytest

from ebseg.errors import VocabularyError
from ebseg.evaluation.in_memory import evaluate, summarise
from ebseg.predictor import Predictor
from ebseg.vocabulary import Vocabulary


def test_means_are_over_present_labels():
    result = summarise(np.array([1.0, 0.5, np.nan, 0.2]), [True, False, True, False], photos=7)
    assert result.miou == pytest.approx(100 * 1.7 / 3)
    assert result.seen == pytest.approx(100)
    assert result.unseen == pytest.approx(35)
    assert result.harmonic == pytest.approx(2 * 100 * 35 / 135)
    assert result.photos == 7


def test_a_model_is_measured_without_a_threshold(random_tiny):
    predictor = Predictor(random_tiny, version="random", device="cpu", threshold=1.0)
    photo = np.zeros((64, 64, 3), dtype=np.uint8)
    truth = predictor.predict(photo, ["sky", "water"], threshold=0.0).label_map
    result = evaluate(predictor, [(photo, truth)], Vocabulary(["sky", "water"]))
    assert result.miou == 100.0


def test_other_names_of_the_same_labels_are_measured_apart(random_tiny):
    predictor = Predictor(random_tiny, version="random", device="cpu")
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    asked, renamed = Vocabulary(["sky", "water", "road"]), Vocabulary(["heavens", "lake", "street"])
    truth = predictor.predict(photo, renamed, threshold=0.0).label_map
    result = evaluate(predictor, [(photo, truth)], asked, renamed=renamed)
    assert result.new_names == 100.0
    alone = evaluate(predictor, [(photo, truth)], asked)
    assert alone.new_names is None
    assert (alone.miou, alone.photos) == (result.miou, result.photos) == (result.miou, 1)
    with pytest.raises(VocabularyError, match="3 labels cannot be renamed with 2 names"):
        evaluate(predictor, [(photo, truth)], asked, renamed=Vocabulary(["heavens", "lake"]))
