import re

import pytest
import torch
from safetensors.torch import save_file

from ebseg.checkpoint import load_checkpoint
from ebseg.config import TINY
from ebseg.encoders import load_encoders
from ebseg.errors import CheckpointError, ConfigError
from ebseg.loading import checkpoint_path
from ebseg.model import EBSeg

ENCODERS = ("clip.tower.", "text.tower.", "sam.encoder.", "text.logit_scale")
IN_FILES = {"clip.tower.": "clip_image.", "text.tower.": "clip_text.", "sam.encoder.": "sam."}


def fresh(seed: int = 1) -> EBSeg:
    torch.manual_seed(seed)
    return EBSeg(TINY)


def tensors(net: EBSeg) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def encoders_of(net: EBSeg) -> dict[str, torch.Tensor]:
    """A file of encoders, as training.tiny.pretrain writes it."""
    found = {"clip_logit_scale": net.text.logit_scale.detach().clone()}
    for ours, theirs in IN_FILES.items():
        found |= {n.replace(ours, theirs): t for n, t in tensors(net).items() if n.startswith(ours)}
    return found


def assert_only_encoders_changed(net, before, donor):
    """The encoders are the donor's; decoders, fusion and background are as they were."""
    for name, tensor in tensors(net).items():
        expected = donor[name] if name.startswith(ENCODERS) else before[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("source", [None, "ebseg-tiny", "a file"])
def test_a_models_encoders_are_taken_and_nothing_else(source):
    packaged = checkpoint_path("ebseg-tiny")
    net = fresh()
    before = tensors(net)
    load_encoders(net, str(packaged) if source == "a file" else source)
    assert_only_encoders_changed(net, before, tensors(load_checkpoint(packaged)[0]))
    assert net.training_vocabulary is None  # the decoders have seen nothing yet


def test_a_file_of_encoders(tmp_path):
    donor, net = fresh(2), fresh()
    with torch.no_grad():
        donor.text.logit_scale.fill_(3.0)
    save_file(encoders_of(donor), tmp_path / "encoders.safetensors")
    before = tensors(net)
    load_encoders(net, str(tmp_path / "encoders.safetensors"))
    assert_only_encoders_changed(net, before, tensors(donor))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("clip_text.ln_final.bias"),
            "1 tensors do not fit, clip_text.ln_final.bias is",
        ),
        (lambda state: state.pop("clip_logit_scale"), "clip_logit_scale is missing"),
        (lambda state: state.update(more=torch.zeros(1)), "more is left over"),
        (
            lambda state: state.update({"sam.pos_embed": torch.zeros(1, 4, 4, 96)}),
            r"sam.pos_embed is \(1, 4, 4, 96\) and should be \(1, 32, 32, 96\)",
        ),
        (
            lambda state: [state.pop(name) for name in list(state) if name.startswith("sam.")],
            r"sam.pos_embed is missing; [^;]*; [^;]* \.\.\.\. Give encoders of this variant$",
        ),
    ],
)
def test_encoders_that_do_not_fit_are_refused_whole(tmp_path, change, message):
    path = tmp_path / "encoders.safetensors"
    state = encoders_of(fresh(2))
    change(state)
    save_file(state, path)
    net = fresh()
    before = tensors(net)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))} cannot be used for EBSeg 'tiny': .*"):
        load_encoders(net, str(path))
    with pytest.raises(CheckpointError, match=message):
        load_encoders(net, str(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(net).items())


@pytest.mark.parametrize("name", ["encoders.safetensors", "encoders.pth"])
def test_a_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    whole = checkpoint_path("ebseg-tiny").read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_encoders(fresh(), str(path))


def test_other_tensors_are_no_encoders(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} is not a checkpoint"):
        load_encoders(fresh(), str(path))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ConfigError, match="no model named 'vit-b', and no such file; known: ebseg-tiny"):
        load_encoders(fresh(), "vit-b")
