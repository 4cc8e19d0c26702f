from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from ebseg import scores
from ebseg.certainty import certainty
from ebseg.errors import ConfigError, ImageError, VocabularyError
from ebseg.model import EBSeg
from ebseg.predictor import (
    Ask,
    Predictor,
    Segmentation,
    best_labels,
    evaluation_mode,
    resize_shortest_edge,
)
from ebseg.scores import Contest
from ebseg.text_cache import TextCache
from ebseg.vocabulary import Vocabulary

Photo = npt.NDArray[np.uint8]

LABELS = ["sky", "road", ["car", "automobile"]]


@pytest.fixture
def predictor(random_tiny: EBSeg) -> Predictor:
    return Predictor(random_tiny, version="random", device="cpu", threshold=0.0)


@pytest.fixture(scope="module")
def photo() -> Photo:
    return np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size", "max_size", "expected"),
    [
        (480, 640, 640, 2560, (640, 853)),
        (640, 480, 640, 2560, (853, 640)),
        (512, 512, 640, 2560, (640, 640)),
        (375, 500, 640, 2560, (640, 853)),
        (360, 480, 256, 1024, (256, 341)),
        (100, 1000, 640, 2560, (256, 2560)),
        (1000, 100, 640, 2560, (2560, 256)),
        (1, 5000, 256, 1024, (1, 1024)),
        (1, 1, 256, 1024, (256, 256)),
        (3000, 4000, 640, 2560, (640, 853)),
    ],
)
def test_sizes_are_those_of_resize_shortest_edge(
    height: int, width: int, size: int, max_size: int, expected: tuple[int, int]
) -> None:
    resized = resize_shortest_edge(np.zeros((height, width, 3), np.uint8), size, max_size)
    assert resized.shape == (*expected, 3)
    assert resized.dtype == np.uint8


def test_prediction_is_the_best_of_the_models_own_scores(
    predictor: Predictor, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = resize_shortest_edge(photo, predictor.config.test_size, predictor.config.test_max_size)
    image = torch.from_numpy(resized).permute(2, 0, 1).float()
    expected = predictor.net.segment(image, Vocabulary(LABELS), size=(61, 90))
    monkeypatch.setattr(scores, "STRIP_VALUES", 90 * 7 * (2 * 32 + 3))  # strips of 7 rows
    segmentation = predictor.predict(photo, LABELS)
    share = (expected.amax(dim=0) / expected.sum(dim=0)).numpy()
    assert segmentation.labels == ("sky", "road", "car")
    assert segmentation.label_map.dtype == np.int16
    assert segmentation.scores.dtype == np.float32
    assert expected.sum(dim=0).min() > 1  # so that the shares are of the sum, not of one
    np.testing.assert_allclose(segmentation.scores, share, rtol=1e-5)
    best_two = expected.topk(2, dim=0).values
    clear = (best_two[0] - best_two[1] > 1e-5).numpy()
    assert clear.mean() > 0.9
    assert (segmentation.label_map == expected.argmax(dim=0).numpy())[clear].all()


def test_many_answers_are_those_of_asking_one_by_one(predictor: Predictor, photo: Photo) -> None:
    other = photo[:40, :70].copy()
    questions = [
        (photo, ["sky", "road"], 0.0),
        (other, LABELS, None),
        (photo, LABELS, 0.4),
        (other, ["sky"], 0.9),
    ]
    found = predictor.predict_many([Ask(p, Vocabulary(labels), share) for p, labels, share in questions])
    for segmentation, (image, labels, threshold) in zip(found, questions, strict=True):
        expected = predictor.predict(image, labels, threshold)
        assert segmentation.labels == expected.labels
        assert (segmentation.label_map == expected.label_map).all()
        assert (segmentation.scores == expected.scores).all()
    assert predictor.predict_many([]) == []


def test_a_photo_that_several_ask_about_is_encoded_once(
    predictor: Predictor, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = predictor.net.encode
    monkeypatch.setattr(predictor.net, "encode", lambda images: encoded.append(len(images)) or encode(images))
    other = photo.copy()
    asks = [
        Ask(image, Vocabulary([name])) for image, name in ((photo, "sky"), (other, "sky"), (photo, "road"))
    ]
    assert [answer.labels for answer in predictor.predict_many(asks)] == [("sky",), ("sky",), ("road",)]
    assert encoded == [1, 1]


def test_an_encoded_photo_answers_for_any_labels(predictor: Predictor, photo: Photo) -> None:
    encoded = predictor.encode(photo)
    assert encoded.size == photo.shape[:2]
    assert encoded.nbytes == encoded.encoded.nbytes > encoded.encoded.masks.nbytes
    for labels, threshold in ((LABELS, None), (["sky"], 0.5)):
        found, expected = (
            predictor.decide(encoded, Vocabulary(labels), threshold),
            predictor.predict(photo, labels, threshold),
        )
        assert (found.label_map == expected.label_map).all() and (found.scores == expected.scores).all()


def test_the_text_tower_is_named_once_for_all_predictors_of_a_model(
    random_tiny: EBSeg, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    Predictor(random_tiny, version="first").predict(photo, LABELS)
    monkeypatch.setattr("ebseg.digest.hashlib", None)
    Predictor(random_tiny, version="second").predict(photo, LABELS)


def test_looking_at_a_model_amid_its_training_leaves_it_as_it_was(random_tiny: EBSeg) -> None:
    random_tiny.train()
    random_tiny.text.eval()
    modes = [module.training for module in random_tiny.modules()]
    numbers = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), evaluation_mode(random_tiny):
        assert not any(module.training for module in random_tiny.modules())
        torch.rand(3)
        raise KeyboardInterrupt
    assert [module.training for module in random_tiny.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)


def test_all_forms_of_a_photo_give_one_result(predictor: Predictor, photo: Photo, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = predictor.predict(photo, LABELS)
    for image in (path, str(path), Image.fromarray(photo), Image.open(path)):
        segmentation = predictor.predict(image, Vocabulary(LABELS))
        assert (segmentation.label_map == expected.label_map).all()
        assert (segmentation.scores == expected.scores).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (33, 27)])
def test_odd_sizes(predictor: Predictor, shape: tuple[int, int]) -> None:
    segmentation = predictor.predict(np.full((*shape, 3), 200, np.uint8), ["sky"])
    assert segmentation.label_map.shape == segmentation.scores.shape == shape
    assert ((segmentation.scores >= 0) & (segmentation.scores <= 1)).all()


def test_pixels_under_the_threshold_stay_unlabelled(random_tiny: EBSeg, photo: Photo) -> None:
    everything = Predictor(random_tiny, version="random", threshold=0.0).predict(photo, LABELS)
    threshold = float(np.median(everything.scores))
    predictor = Predictor(random_tiny, version="random", threshold=threshold)
    for segmentation in (predictor.predict(photo, LABELS), predictor.predict(photo, LABELS, threshold)):
        assert (segmentation.scores == everything.scores).all()
        unsure = segmentation.scores < threshold
        assert 0.4 < unsure.mean() < 0.6
        assert (segmentation.label_map[unsure] == -1).all()
        assert (segmentation.label_map[~unsure] == everything.label_map[~unsure]).all()
    assert (everything.label_map >= 0).all()
    assert (predictor.predict(photo, LABELS, threshold=1.0).label_map == -1).all()


@pytest.mark.parametrize(
    ("scores_of_labels", "label", "share"),
    [
        ([3.0, 1.0], 0, 0.75),
        ([0.5, 1.5], 1, 0.75),
        ([0.2, 0.5], 1, 0.5),  # 0.3 is left to none of the labels
        ([4.0], 0, 1.0),
        ([0.6], 0, 0.6),
        ([0.2, 0.1], -1, 0.2),
        ([1.0, 1.0, 1.0, 1.0], -1, 0.25),
        ([0.0, 0.0], -1, 0.0),
    ],
)
def test_choice_of_a_label(scores_of_labels: list[float], label: int, share: float) -> None:
    contest = Contest.of_all(torch.tensor(scores_of_labels)[:, None, None])
    label_map, shares = best_labels(contest, threshold=0.4)
    assert label_map.item() == label
    assert shares.item() == pytest.approx(share)


def test_the_threshold_of_the_best_label_counts() -> None:
    scores = torch.tensor([[3.0, 1.0], [1.0, 3.0]])[:, None]  # (K, rows, W): shares of 0.75
    label_map, _ = best_labels(Contest.of_all(scores), threshold=torch.tensor([0.7, 0.8]))
    assert label_map.tolist() == [[0, -1]]


def test_each_label_may_have_a_threshold_of_its_own(predictor: Predictor, photo: Photo) -> None:
    everything = predictor.predict(photo, LABELS, threshold=0.0)
    middle = float(np.median(everything.scores))
    [split] = predictor.predict_many([Ask(photo, Vocabulary(LABELS), (middle,) * len(LABELS))])
    np.testing.assert_array_equal(split.label_map, predictor.predict(photo, LABELS, middle).label_map)
    winner = everything.table()[0].index
    for own, others in ((None, 1.0), (0.0, 1.0), (1.0, 0.0)):
        thresholds = tuple(own if place == winner else others for place in range(len(LABELS)))
        [found] = predictor.predict_many([Ask(photo, Vocabulary(LABELS), thresholds)])
        least = np.array([predictor.threshold if one is None else one for one in thresholds], np.float32)
        unsure = everything.scores < least[everything.label_map]
        np.testing.assert_array_equal(found.label_map, np.where(unsure, -1, everything.label_map))
    with pytest.raises(ConfigError, match=f"1 thresholds were given for {len(LABELS)} labels"):
        predictor.predict_many([Ask(photo, Vocabulary(LABELS), (0.5,))])


def test_what_else_is_asked_of_each_pixel_is_told(
    predictor: Predictor, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = resize_shortest_edge(photo, predictor.config.test_size, predictor.config.test_max_size)
    image = torch.from_numpy(resized).permute(2, 0, 1).float()
    with torch.inference_mode():
        whole = predictor.net.segment(image, Vocabulary(LABELS), size=(61, 90))
    monkeypatch.setattr(scores, "STRIP_VALUES", 90 * 7 * (2 * 32 + 3))  # strips of 7 rows
    plain = predictor.predict(photo, LABELS)
    assert plain.measures == {}
    [found] = predictor.predict_many([Ask(photo, Vocabulary(LABELS), measures=("entropy", "margin"))])
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert list(found.measures) == ["entropy", "margin"]
    for measure, values in found.measures.items():
        assert values.dtype == np.float32
        expected = certainty(Contest.of_all(whole), measure)
        np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)


def test_labels_beyond_the_range_of_a_byte(predictor: Predictor, photo: Photo) -> None:
    labels = [f"label {index}" for index in range(300)]
    winner = labels[predictor.predict(photo, labels).table()[0].index]
    labels.remove(winner)
    assert predictor.predict(photo, [*labels, winner]).label_map.max() == 299


def test_one_more_label_is_encoded_alone(
    random_tiny: EBSeg, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode_names = random_tiny.text.encode_names

    def counting(names: list[str]) -> torch.Tensor:
        encoded.extend(names)
        return encode_names(names)

    monkeypatch.setattr(random_tiny.text, "encode_names", counting)
    first = Predictor(random_tiny, version="random", text_cache=TextCache(tmp_path))
    expected = first.predict(photo, LABELS)
    assert encoded == ["sky", "road", "car", "automobile"]
    first.predict(photo, [*LABELS, "tree"])
    again = Predictor(random_tiny, version="random", text_cache=TextCache(tmp_path))
    assert (again.predict(photo, LABELS).scores == expected.scores).all()
    assert encoded == ["sky", "road", "car", "automobile", "tree"]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
    ids=["grey", "rgba", "float", "empty"],
)
def test_arrays_that_are_no_photo_are_refused(predictor: Predictor, image: Photo) -> None:
    with pytest.raises(ImageError, match=r"array \(height, width, 3\) of uint8 RGB, not"):
        predictor.predict(image, LABELS)


def test_faulty_requests_are_refused(predictor: Predictor, photo: Photo) -> None:
    with pytest.raises(VocabularyError, match="label 2 'Sky' repeats"):
        predictor.predict(photo, ["sky", "Sky"])
    with pytest.raises(ConfigError, match=r"threshold 1\.5 is not between 0 and 1"):
        predictor.predict(photo, ["sky"], threshold=1.5)
    with pytest.raises(ImageError, match=r"nothing\.jpg"):
        predictor.predict("nothing.jpg", ["sky"])
    asks = [Ask(photo, Vocabulary(["sky"])), Ask(photo, Vocabulary(["sky"]), threshold=-0.1)]
    with pytest.raises(ConfigError, match=r"threshold -0\.1 is not between 0 and 1"):
        predictor.predict_many(asks)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unknown_device_is_refused(random_tiny: EBSeg, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        Predictor(random_tiny, version="random", device=device)


def test_table_lists_all_labels_by_area() -> None:
    label_map = np.array([[0, 2, 2, -1], [2, 0, -1, -1]], np.int16)
    scores_ = np.array([[0.5, 0.6, 0.8, 0.1], [1.0, 0.7, 0.1, 0.1]], np.float32)
    segmentation = Segmentation(label_map, scores_, ("sky", "road", "car"))
    rows = segmentation.table()
    assert [(row.index, row.label, row.area) for row in rows] == [
        (2, "car", 3 / 8),
        (0, "sky", 2 / 8),
        (1, "road", 0.0),
    ]
    assert [row.confidence for row in rows] == [pytest.approx(0.8), pytest.approx(0.6), None]
    assert segmentation.unlabelled == 3 / 8
