from pathlib import Path

import pytest

from ebseg.data.drawn.scenes import VALIDATION_SEED, SceneSource
from ebseg.errors import ConfigError
from training.finetuning.finetune import General
from training.finetuning.general_data import general_data, general_name


@pytest.mark.parametrize(
    ("name", "model", "found"),
    [
        (None, "ebseg-tiny", "drawn-scenes"),
        (None, "runs/street/model.safetensors", "own-answers"),
        ("own-answers", "ebseg-tiny", "own-answers"),
        ("voc-20", "ebseg-tiny", "voc-20"),
        ("drawn-scenes", "runs/street/model.safetensors", "drawn-scenes"),
    ],
)
def test_the_packaged_model_keeps_what_it_was_drawn(name, model, found):
    assert general_name(name, model) == found


def test_scenes_to_rehearse_with_are_not_those_that_are_measured(tmp_path):
    general = general_data(None, "ebseg-tiny", tmp_path, lambda: None, seed=3)
    assert (general.train.seed, general.held_out.seed) == (4, VALIDATION_SEED)


def test_the_model_of_another_answers_for_itself(tmp_path):
    own = General(None, SceneSource(1, 2))
    assert general_data(None, "model.safetensors", tmp_path, lambda: own) is own


def test_unknown_data_is_an_error():
    with pytest.raises(ConfigError, match="moon"):
        general_data("moon", "ebseg-tiny", Path("datasets"), lambda: None)
