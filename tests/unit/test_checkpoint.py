import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ebseg.checkpoint import load_checkpoint, load_head, read_header, save_checkpoint, save_head
from ebseg.config import BalanceConfig
from ebseg.errors import CheckpointError
from ebseg.model import EBSeg
from ebseg.official import to_official
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW


@pytest.fixture
def net():
    torch.manual_seed(0)
    return EBSeg(SHALLOW, training_vocabulary=Vocabulary(["sky", ["road", "street"]]))


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
    net.trained_on(None)
    with pytest.raises(CheckpointError, match="training vocabulary"):
        save_checkpoint(net, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def _rewrite(path, state=None, **header):
    save_checkpoint_header = {"ebseg_format": "1", "config": SHALLOW.model_dump_json()}
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


def test_a_model_that_is_filled_from_a_file_has_all_buffers(random_tiny, random_checkpoint):
    net, _ = load_checkpoint(random_checkpoint)
    found, wanted = dict(net.named_buffers()), dict(random_tiny.named_buffers())
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


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
    monkeypatch.setattr("ebseg.checkpoint.official_variant", lambda _state, _path: SHALLOW)
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


def _other_head(net, seed=5):
    """Stand for a fine-tuned model: the same backbone under another head."""
    other = net.with_own_head(net.config, Vocabulary(["kerb"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.head.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture
def base(net, tmp_path):
    path = tmp_path / "base.safetensors"
    save_checkpoint(net, path)
    return path


@pytest.fixture
def head(net, base, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(_other_head(net), path, backbone=str(base), metadata={"version": "street-7"})
    return path


def test_a_head_finds_its_backbone(net, head):
    loaded, metadata = load_checkpoint(head)
    assert metadata == {"version": "street-7"} and not loaded.training
    assert loaded.training_vocabulary == Vocabulary(["kerb"]) and loaded.config == net.config
    expected = dict(_other_head(net).named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert parameter.requires_grad == expected[name].requires_grad
    assert read_header(head) == (net.config, metadata)


def test_a_head_is_small(net, base, head):
    trained = sum(parameter.numel() for parameter in net.head.values())
    assert head.stat().st_size - 4 * trained < 2**17  # names and shapes
    assert head.stat().st_size < base.stat().st_size / 4


def test_heads_share_the_backbone_beside_them(net, base, head):
    served, _ = load_checkpoint(base)
    before = {name: parameter.clone() for name, parameter in served.named_parameters()}
    first, metadata = load_head(head, backbone=served)
    second, _ = load_head(head, backbone=first)
    assert metadata == {"version": "street-7"}
    models = (served, first, second)
    for name in served.backbone.tensors:
        assert len({net.get_parameter(name).data_ptr() for net in models}) == 1, name
    for name in served.head:
        assert len({net.get_parameter(name).data_ptr() for net in models}) == 3, name
    assert first.backbone is second.backbone is served.backbone  # one digest for all
    assert all(torch.equal(parameter, before[name]) for name, parameter in served.named_parameters())

    image, labels = torch.rand(3, 64, 96) * 255, Vocabulary(["kerb", "sky"])
    alone, _ = load_checkpoint(head)
    scores = [model.segment(image, labels, (64, 96)) for model in (served, first, alone)]
    assert torch.equal(scores[1], scores[2]) and not torch.equal(scores[0], scores[1])
    first.train()
    assert not served.training


def test_a_head_may_have_exponents_and_a_test_size_of_its_own(net, base, tmp_path):
    exponents = BalanceConfig(alpha=0.1, beta=0.1, gamma=0.1)
    config = net.config.model_copy(update={"balance": exponents, "test_size": 64})
    save_head(
        net.with_own_head(config, net.training_vocabulary), tmp_path / "h.safetensors", backbone=str(base)
    )
    assert load_checkpoint(tmp_path / "h.safetensors")[0].config == config
    assert load_checkpoint(base)[0].config == net.config


def test_a_head_on_the_wrong_backbone_is_refused(net, base, head):
    wanted = net.backbone.digest
    with torch.no_grad():
        net.sam.encoder.patch_embed.proj.weight.add_(1e-3)
    found = net.backbone.digest
    with pytest.raises(
        CheckpointError, match=f"head for the backbone {wanted} of .*base.* the backbone {found}"
    ):
        load_head(head, backbone=net)
    save_checkpoint(net, base)
    with pytest.raises(CheckpointError, match=f"{wanted} of {base}, but {base} has the backbone {found}"):
        load_checkpoint(head)


def _rewrite_head(path, state=None, **header):
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **header}
    state = {**load_file(path), **(state or {})}
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None},
        path,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"holds": "shoes"}, "holds shoes, neither a model nor a head"),
        ({"holds": None}, "holds nothing, neither"),
        ({"holds": "model"}, "missing: clip.tower.class_embedding"),
        ({"backbone": None}, "head for the backbone  of .*base.* has the backbone "),
        ({"backbone_name": "ebseg-huge"}, "backbone of ebseg-huge, which cannot be had: no model named"),
        ({"backbone_name": None}, "cannot be had: no model named ''"),
        ({"state": {"text.background": None}}, "1 missing: text.background"),
        ({"state": {"clip.tower.proj": torch.zeros(1)}}, "1 left over: clip.tower.proj"),
        ({"state": {"text.background": torch.zeros(2)}}, "1 misshapen: text.background"),
        (
            {"state": {"text.background": torch.full((1, 128), float("nan"))}},
            "text.background has values that",
        ),
        (
            {
                "config": SHALLOW.model_copy(
                    update={"clip": SHALLOW.clip.model_copy(update={"image_heads": 8})}
                )
            },
            "has other layers",
        ),
    ],
)
def test_a_damaged_head_is_refused_with_a_reason(head, damage, complaint):
    damage = {key: getattr(value, "model_dump_json", lambda v=value: v)() for key, value in damage.items()}
    _rewrite_head(head, **damage)
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(head)


def test_a_head_is_no_backbone_and_a_whole_model_is_no_head(net, base, head, tmp_path):
    save_head(net, tmp_path / "second.safetensors", backbone=str(head))
    with pytest.raises(
        CheckpointError, match=r"for the backbone of .*head.safetensors, which is a head itself"
    ):
        load_checkpoint(tmp_path / "second.safetensors")
    with pytest.raises(CheckpointError, match="holds a whole model, not a head"):
        load_head(base, backbone=net)


def test_equal_heads_make_equal_files(net, base, head):
    content = head.read_bytes()
    save_head(_other_head(net), head, backbone=str(base), metadata={"version": "street-7"})
    assert head.read_bytes() == content


def test_format_1_is_read_without_the_loss_that_its_config_holds(net, base):
    """A fine-tuned file of format 1 said "ignored", and whoever trained on from it ignored pixels unasked."""
    losses = {"points": 2048, "unlabelled": "ignored"}
    _rewrite(base, config=json.dumps({**json.loads(SHALLOW.model_dump_json()), "losses": losses}))
    loaded, metadata = load_checkpoint(base)
    assert loaded.config == SHALLOW and metadata == {}
    assert read_header(base) == (SHALLOW, {})
    assert all(torch.equal(p, loaded.get_parameter(name)) for name, p in net.named_parameters())
    _rewrite(
        base, ebseg_format="2", holds="model", config=json.dumps({**SHALLOW.model_dump(), "losses": losses})
    )
    with pytest.raises(CheckpointError, match="damaged config"):
        load_checkpoint(base)
