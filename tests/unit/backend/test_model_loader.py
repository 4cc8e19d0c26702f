"""The service's models compute as EBSEG_PRECISION says."""

import logging

import numpy as np
import pytest

from backend.service import ModelLoader
from ebseg.ask import Ask
from ebseg.errors import ConfigError
from ebseg.vocabulary import Vocabulary
from training.settings import load_settings


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_precision_asked_for_is_used_and_told(random_checkpoint, monkeypatch, caplog, precision):
    monkeypatch.setenv("EBSEG_MODEL", str(random_checkpoint))
    monkeypatch.setenv("EBSEG_PRECISION", precision)
    with caplog.at_level(logging.INFO):
        model = ModelLoader(load_settings())()
    assert caplog.messages == [f"{model.version} encodes photos in {precision}"]
    photo = np.zeros((40, 50, 3), dtype=np.uint8)
    [answer] = model.predict_many([Ask(photo, Vocabulary(["sky", "road"]))])
    assert answer.label_map.shape == (40, 50)


def test_an_unknown_precision_is_refused(monkeypatch):
    monkeypatch.setenv("EBSEG_PRECISION", "int4")
    with pytest.raises(ConfigError, match="EBSEG_PRECISION"):
        load_settings()
