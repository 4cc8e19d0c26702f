from ebseg.config import TINY
from ebseg.timing import time_training_step
from ebseg.vocabulary import Vocabulary


def test_a_training_step_is_measured_in_a_process_of_its_own():
    cost = time_training_step(
        TINY, Vocabulary(["sky", "road"] + [f"thing {n}" for n in range(8)]), 1, side=64
    )
    assert cost.ratio == cost.step / cost.encoder > 1
    assert 0.1 < cost.peak_gib < 4
