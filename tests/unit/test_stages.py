from contextlib import contextmanager

import numpy as np
import torch

from ebseg.predictor import Predictor
from ebseg.stages import Stage, observed, stage
from ebseg.vocabulary import Vocabulary

PHOTO = np.zeros((64, 80, 3), np.uint8)


def test_a_prediction_runs_through_every_stage(random_tiny):
    predictor, ended = Predictor(random_tiny, version="1", device="cpu"), []

    @contextmanager
    def observer(name):
        yield
        ended.append(name)

    with observed(observer):
        predictor.predict(PHOTO, ["sky", "road"])
    assert list(dict.fromkeys(ended)) == list(Stage)
    predictor.predict(PHOTO, ["sky", "road"])
    assert len(ended) == len(Stage) + 1  # two steps are preprocessing; nobody observes the second prediction


def test_texts_that_classify_encodes_itself_are_their_stage(random_tiny):
    encoded, names = random_tiny.encode([torch.zeros(3, 64, 64)]), []

    @contextmanager
    def observer(name):
        names.append(name)
        yield

    with observed(observer):
        random_tiny.classify(encoded, Vocabulary(["sky"]))
    assert names == [Stage.BALANCING, Stage.TEXT]


def test_a_users_own_profile_names_the_stages():
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        stage(Stage.SAM),
    ):
        torch.ones(2).sum()
    assert "ebseg.SAM" in {event.key for event in profile.key_averages()}
