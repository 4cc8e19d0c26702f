"""Label configs are read once, whoever brings them, unless they are very long."""

import pytest

from ebseg.errors import EBSegError
from training.annotations.labelling import read_labelling
from training.settings import Settings

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image"><Label value="road"/></BrushLabels></View>"""


def test_a_label_config_is_read_once_by_the_same_settings():
    settings = Settings()
    read = read_labelling(CONFIG, settings)
    assert read_labelling(str(CONFIG), Settings()) is read
    other = read_labelling(CONFIG, settings.model_copy(update={"min_area": 0.25}))
    [[served]] = [question.controls for question in other.questions]
    assert served.min_area == 0.25 and other is not read


def test_a_long_one_is_not_kept():
    long = CONFIG + " " * (1 << 16)
    assert read_labelling(long, Settings()) is not read_labelling(long, Settings())


def test_a_faulty_one_is_refused_each_time():
    for _ in range(2):
        with pytest.raises(EBSegError, match="has no"):
            read_labelling("<View/>", Settings())
