import numpy as np
import pytest

from ebseg.data.drawn.phrases import COLOURS, HELD_OUT, MATERIALS, SHAPES, SURFACE_MATERIALS, SURFACES
from ebseg.data.drawn.synthetic import PHRASES, SEEN_PHRASES, UNSEEN_PHRASES, draw_scene

SEEN_IDS = set(range(len(SEEN_PHRASES)))


def test_phrases_are_seen_then_unseen_and_a_fifth_is_held_out():
    assert PHRASES == SEEN_PHRASES + UNSEEN_PHRASES
    assert len(set(PHRASES)) == len(PHRASES)
    assert set(UNSEEN_PHRASES) == set(HELD_OUT)
    assert 0.15 < len(UNSEEN_PHRASES) / len(PHRASES) < 0.25


@pytest.mark.parametrize("word", COLOURS + SHAPES + MATERIALS + SURFACE_MATERIALS + SURFACES)
def test_every_word_keeps_at_least_three_seen_partners(word):
    assert sum(word in phrase.split() for phrase in SEEN_PHRASES) >= (1 if word in SURFACE_MATERIALS else 3)


@pytest.mark.parametrize("unseen", [False, True])
def test_same_arguments_give_the_same_scene(unseen):
    first, second = (draw_scene(3, 11, unseen=unseen) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label_map, second.label_map)


def test_seed_and_index_both_change_the_scene():
    scenes = [draw_scene(*key).image for key in ((0, 1), (1, 0), (0, 2))]
    assert not np.array_equal(scenes[0], scenes[1])
    assert not np.array_equal(scenes[0], scenes[2])


@pytest.mark.parametrize("size", [(256, 256), (96, 200), (200, 96), (33, 32)])
def test_shapes_types_and_ranges(size):
    scene = draw_scene(0, 4, size=size, unseen=True)
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.label_map.shape == size and scene.label_map.dtype == np.int16
    assert scene.label_map.min() >= 0 and scene.label_map.max() < len(PHRASES)


def test_too_small_a_size_is_named():
    with pytest.raises(ValueError, match="31"):
        draw_scene(0, 0, size=(31, 64))


def test_held_out_phrases_never_appear_in_seen_scenes_and_all_phrases_do_appear():
    seen: set[int] = set()
    unseen: set[int] = set()
    for index in range(250):
        seen |= set(np.unique(draw_scene(7, index, size=(64, 64)).label_map).tolist())
        labels = set(np.unique(draw_scene(7, index, size=(64, 64), unseen=True).label_map).tolist())
        assert labels - SEEN_IDS, "a scene with unseen phrases shows none"
        unseen |= labels - SEEN_IDS
    assert seen == SEEN_IDS
    assert unseen == set(range(len(SEEN_PHRASES), len(PHRASES)))


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(1, index) for index in range(40)]


def test_every_label_shows_enough_and_stuff_covers_most(scenes):
    things = 0.0
    for scene in scenes:
        labels, areas = np.unique(scene.label_map, return_counts=True)
        assert areas.min() >= 100
        coverage = {PHRASES[label]: area / 256**2 for label, area in zip(labels, areas, strict=True)}
        of_things = [area for phrase, area in coverage.items() if phrase.split()[-1] in SHAPES]
        assert of_things, "a scene without things"
        things += sum(of_things) / 40
    assert 0.1 < things < 0.45


def test_picture_agrees_with_labels(scenes):
    """Sky is bluish and grass is greenish under every light."""
    for scene in scenes:
        for phrase, channel, other in (("sky", 2, 0), ("grass", 1, 2)):
            pixels = scene.image[scene.label_map == PHRASES.index(phrase)]
            if len(pixels):
                assert pixels[:, channel].mean() > pixels[:, other].mean()
