import pytest

from ebseg.config import TINY
from ebseg.timing import time_training_step
from ebseg.vocabulary import Vocabulary


@pytest.mark.parametrize("bf16", [False, True])
def test_a_training_step_is_measured_in_a_process_of_its_own(bf16):
    vocabulary = Vocabulary(["sky", "road", *(f"thing {n}" for n in range(8))])
    cost = time_training_step(TINY, vocabulary, 1, side=64, bf16=bf16)
    assert cost.ratio == cost.step / cost.encoder > 1
    assert 0.1 < cost.peak_gib < 4
