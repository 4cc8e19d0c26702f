from itertools import chain

import numpy as np
import open_clip
import pytest

from ebseg.data.drawn.phrases import HELD_OUT, OTHER_NAMES, PHRASES, SEEN_PHRASES, renamed
from ebseg.data.drawn.scenes import (
    benchmark_scenes,
    benchmark_vocabulary,
    renamed_vocabulary,
    training_vocabulary,
    validation_scenes,
)
from ebseg.vocabulary import TEMPLATES


def test_every_word_has_one_other_name():
    words = set(chain.from_iterable(phrase.split() for phrase in PHRASES))
    assert set(OTHER_NAMES) == words
    assert len(set(OTHER_NAMES.values())) == len(words)
    assert renamed("red ball") == "crimson sphere"
    with pytest.raises(KeyError):
        renamed("red sphere")


def test_other_names_share_no_token_with_what_the_towers_were_trained_on():
    tokenizer = open_clip.SimpleTokenizer()
    words = [f"{word} {kind}" for word in OTHER_NAMES for kind in ("object", "surface")]
    old = {
        token
        for text in (*PHRASES, *words)
        for template in TEMPLATES
        for token in tokenizer.encode(template.format(text))
    }
    for name in OTHER_NAMES.values():
        assert old.isdisjoint(tokenizer.encode(name)), name


def test_no_other_name_counts_as_seen():
    vocabulary = renamed_vocabulary()
    assert vocabulary.names == tuple(renamed(name) for name in benchmark_vocabulary().names)
    assert not any(vocabulary.seen_in(training_vocabulary()))
    assert sum(benchmark_vocabulary().seen_in(training_vocabulary())) == len(SEEN_PHRASES)
    assert len(PHRASES) - len(SEEN_PHRASES) == len(HELD_OUT)


def test_validation_scenes_are_not_the_benchmarks():
    scenes, validation = (list(draw(4)) for draw in (benchmark_scenes, validation_scenes))
    for image, labels in validation:
        assert not any(np.array_equal(image, other) for other, _ in scenes)
        assert labels.max() >= len(SEEN_PHRASES)  # unseen combinations are mixed in
    again = list(validation_scenes(4))
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(validation, again, strict=True))
