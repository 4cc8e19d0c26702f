"""A worker's process loads a model once, and another one beside it."""

import os
from pathlib import Path

import pytest
import torch

from ebseg.checkpoint import save_head
from ebseg.config import InferencePrecision
from ebseg.errors import CheckpointError
from training import kept_model


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_model, "_kept", {})


def test_a_model_is_loaded_once_and_others_share_a_backbone(random_checkpoint: Path, tmp_path: Path) -> None:
    base = kept_model.load(random_checkpoint, "cpu", InferencePrecision.FLOAT32)
    assert kept_model.load(random_checkpoint, "cpu", InferencePrecision.FLOAT32) is base
    fast = kept_model.load(random_checkpoint, "cpu", InferencePrecision.INT8)
    assert fast.precision is InferencePrecision.INT8 and fast.net.backbone is base.net.backbone
    base = kept_model.load(random_checkpoint, "cpu", InferencePrecision.FLOAT32)
    head = tmp_path / "head.safetensors"
    save_head(base.net, head, backbone="ebseg-huge, which nobody needs to find")
    own = kept_model.load(head, "cpu", InferencePrecision.FLOAT32)
    assert own is not base and own.net.backbone is base.net.backbone
    assert torch.equal(own.net.text.background, base.net.text.background)
    assert kept_model.load(head, "cpu", InferencePrecision.FLOAT32) is own
    os.utime(head, ns=(1, 1))
    assert kept_model.load(head, "cpu", InferencePrecision.FLOAT32) is not own
    head.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="fetch it again"):
        kept_model.load(head, "cpu", InferencePrecision.FLOAT32)
