import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ebseg.checkpoint import load_checkpoint, save_checkpoint, to_official
from ebseg.config import TINY
from ebseg.errors import CheckpointError
from ebseg.model import EBSeg
from ebseg.vocabulary import Vocabulary


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = EBSeg(TINY)
    net.training_vocabulary = Vocabulary(["sky", ["road", "street"]])
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_saved_is_loaded(net, tmp_path, dtype):
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(net, path, dtype=dtype, metadata={"version": "v1"})
    loaded, metadata = load_checkpoint(path)
    assert metadata["version"] == "v1"
    assert loaded.config == net.config
    assert loaded.training_vocabulary == net.training_vocabulary
    assert not loaded.training
    for (name, ours), theirs in zip(net.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours.to(dtype).float(), theirs), name
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in loaded.parameters()]
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_a_model_without_training_vocabulary_is_not_saved(net, tmp_path):
    net.training_vocabulary = None
    with pytest.raises(CheckpointError, match="training vocabulary"):
        save_checkpoint(net, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def _rewrite(path, state=None, **header):
    save_checkpoint_header = {"ebseg_format": "1", "config": TINY.model_dump_json()}
    save_checkpoint_header["training_vocabulary"] = Vocabulary(["sky"]).to_json()
    metadata = {k: v for k, v in (save_checkpoint_header | header).items() if v is not None}
    save_file(state if state is not None else load_file(path), path, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "There is no checkpoint"),
        (lambda path: path.write_bytes(b""), "cannot be read as safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "cannot be read as safetensors"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "not a checkpoint of this package"),
        (lambda path: _rewrite(path, ebseg_format="99"), "format 99"),
        (lambda path: _rewrite(path, config="{}"), "damaged config"),
        (lambda path: _rewrite(path, config=None), "damaged config"),
        (lambda path: _rewrite(path, training_vocabulary="{"), "vocabulary"),
        (lambda path: _rewrite(path, training_vocabulary=None), "vocabulary"),
        (lambda path: _rewrite(path, state={"x": torch.zeros(1)}), "missing: .* 1 left over: x"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(net, tmp_path, damage, complaint):
    path = tmp_path / "model.safetensors"
    save_checkpoint(net, path)
    damage(path)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(path)


class _Exploit:
    def __reduce__(self):
        return (os.mkdir, ("exploited",))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": {"backbone.pos_embed": torch.zeros(1)}}, "neither EBSeg-B nor EBSeg-L"),
        ({"model": {"clip_visual_extractor.class_embedding": torch.zeros(768)}}, "missing"),
        ({"state": {}}, 'no state under "model"'),
        ([1, 2], 'no state under "model"'),
        ({"model": {"x": 1}}, 'no state under "model"'),
        ({"model": {}, "beside": _Exploit()}, "more than tensors and numbers"),
    ],
)
def test_a_pickle_that_is_no_released_checkpoint_is_refused(tmp_path, monkeypatch, content, complaint):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(path)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"model": np.zeros(3)})])
def test_a_file_that_is_no_checkpoint_at_all_is_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.pth"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(net, tmp_path, value):
    path = tmp_path / "model.safetensors"
    with torch.no_grad():
        net.mask_decoder.norm.weight[3] = value
    save_checkpoint(net, path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: mask_decoder.norm.weight has values that"):
        load_checkpoint(path)


def test_weights_of_the_authors_that_are_not_finite_are_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr("ebseg.checkpoint._official_variant", lambda _state, _path: TINY)
    path = tmp_path / "model.pth"
    state = to_official(net)
    assert not state["ov_classifier.attn_mask"].isfinite().all()  # it is no weight
    torch.save({"model": state}, path)
    load_checkpoint(path)
    state["sem_seg_head.predictor.decoder_norm.weight"][3] = float("nan")
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"model.pth: sem_seg_head.predictor.decoder_norm.weight has"):
        load_checkpoint(path)


def test_equal_models_make_equal_files(net, tmp_path):
    """A version name is the file's digest."""
    metadata = {f"key {number}": f'"{number}"\n\x01\x7f é 中 😀 \\' for number in range(20)}
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path in paths:
        save_checkpoint(net, path, metadata=metadata)
    assert len({path.read_bytes() for path in paths}) == 1
    assert load_checkpoint(paths[0])[1].items() >= metadata.items()
    with safe_open(paths[0], framework="pt") as file:
        assert metadata.items() <= file.metadata().items()
    reloaded = load_file(paths[0])
    assert all(torch.equal(tensor, reloaded[name]) for name, tensor in net.named_parameters())


def test_the_header_is_plain_json(net, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(net, path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert json.loads(header["config"])["name"] == "tiny"
    assert json.loads(header["training_vocabulary"])


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.5),
        np.float32(1),
        np.int64(3),
        np.bool_(True),
        np.str_("a"),
        np.arange(3),
        np.ones((2, 2), "f4"),
    ],
    ids=lambda value: f"{type(value).__name__} {value.dtype}",
)
def test_numbers_beside_the_model_are_no_obstacle(tmp_path, beside):
    """The state itself is of another model, so reading it gets as far as that."""
    path = tmp_path / "model.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "beside": [beside, {"nested": beside}]}, path)
    with pytest.raises(CheckpointError, match="neither EBSeg-B nor EBSeg-L"):
        load_checkpoint(path)
