import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import ebseg
import ebseg.config
from ebseg.config import BASE, TINY, ClipConfig, ModelConfig

MODELS = [
    model
    for model in vars(ebseg.config).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
]
FIELDS = [(model, field) for model in MODELS for field in model.model_fields]
SOURCES = [path.read_text() for path in Path(ebseg.__file__).parent.rglob("*.py") if path.name != "config.py"]


@pytest.mark.parametrize(("model", "field"), FIELDS, ids=[f"{m.__name__}.{f}" for m, f in FIELDS])
def test_every_field_is_read(model, field):
    assert any(re.search(rf"\.{field}\b", source) for source in SOURCES)


def test_configs_cannot_be_changed_and_know_all_their_fields():
    with pytest.raises(ValidationError):
        TINY.name = "other"
    with pytest.raises(ValidationError):
        ModelConfig(**TINY.model_dump(), surprise=1)


def test_a_config_survives_its_checkpoint():
    assert ModelConfig.model_validate_json(BASE.model_dump_json()) == BASE


@pytest.mark.parametrize(
    "change",
    [{"surgery_start": 0}, {"surgery_start": 9}, {"recognition_start": 12}, {"fusion_layers": (3, 6, 10)}],
)
def test_cuts_of_the_image_tower_are_in_order(change):
    with pytest.raises(ValidationError):
        ClipConfig(**(BASE.clip.model_dump() | change))
