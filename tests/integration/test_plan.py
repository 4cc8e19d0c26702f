import pytest
import torch

from ebseg import clip, pixel_decoder
from ebseg import plan as planning
from ebseg.config import RECIPES, TrainConfig
from ebseg.errors import ConfigError
from ebseg.plan import activation_bytes, plan_training
from ebseg.sam import STRIDES
from ebseg.train import parameter_groups
from ebseg.vocabulary import Vocabulary

CONFIG = TrainConfig(steps=30, batch=8, accumulation=2, crop=64)
LABELS = Vocabulary(["sky", "road", "car"])
SHAPE = (2, 64)
"""Photos at once, and their edge, as CONFIG has them for two processes: PyTorch knows it from then on."""


class Photos:
    name = "streets"
    vocabulary = LABELS

    def __len__(self):
        return 120

    def fingerprint(self):
        return "abc"


def kept_bytes(net, photos, crop):
    """Measure what a real step keeps, its losses included."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    label_map = torch.arange(crop).clamp(max=2).expand(photos, crop, crop).contiguous()
    text = torch.zeros(len(LABELS), net.config.clip.embed_dim)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = net.losses(
            torch.zeros(photos, 3, crop, crop), label_map, LABELS, text=text, config=RECIPES["tiny"].losses
        )
    for parameter in net.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    assert losses
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_plan_tells_data_steps_batches_and_parameters(random_tiny):
    text = plan_training(random_tiny, CONFIG, [Photos()], processes=2, device="cpu")
    decayed, kept = parameter_groups(random_tiny, CONFIG.weight_decay)
    trained = sum(p.numel() for p in random_tiny.parameters() if p.requires_grad)
    for line in (
        "streets: 120 photos, 3 labels",
        "30 steps of 8 photos: 2.0 passes over 120 photos",
        "8 photos = 2 processes x 2 batches x 2 photos of 64 x 64 pixels",
        "precision float32 on cpu",
        f"decayed: {len(decayed['params'])} tensors, ",
        f"kept: {len(kept['params'])} tensors, ",
        f"trained {trained:,}, frozen ",
        "buffers for averaging gradients",
        "activations of 2 photos, an estimate",
    ):
        assert line in text


@pytest.mark.parametrize("precision, told", [("auto", "fp16"), ("bf16", "bf16")])
def test_a_plan_for_a_gpu_needs_none(random_tiny, precision, told):
    config = CONFIG.model_copy(update={"precision": precision})
    plan = plan_training(random_tiny, config, [Photos()], processes=2, device="cuda")
    assert f"precision {told} on cuda" in plan


def test_a_batch_that_cannot_be_dealt_is_refused(random_tiny):
    with pytest.raises(ConfigError, match="cannot be dealt evenly to 3 processes"):
        plan_training(random_tiny, CONFIG, [Photos()], processes=3, device="cpu")


def test_a_parameter_in_two_groups_or_none_is_noticed(random_tiny, monkeypatch):
    decayed, kept = parameter_groups(random_tiny, 0.05)
    for groups in ([decayed], [decayed, kept, kept]):
        monkeypatch.setattr(planning, "parameter_groups", lambda *_, groups=groups: groups)
        with pytest.raises(AssertionError, match="in no group or in several"):
            plan_training(random_tiny, CONFIG, [Photos()], device="cpu")


@pytest.mark.parametrize("photos, crop", [(1, 96), (2, 192)])
def test_activations_are_those_of_a_real_step_but_for_the_losses(random_tiny, photos, crop):
    estimated = activation_bytes(random_tiny, LABELS, photos, crop, "float32")
    measured = kept_bytes(random_tiny, photos, crop)
    assert 0.95 * measured < estimated <= measured


def test_half_precision_keeps_less(random_tiny):
    """Of a photo that is large beside the weights, of which half precision keeps copies."""
    whole, half = (activation_bytes(random_tiny, LABELS, 1, 192, p) for p in ("float32", "bf16"))
    assert 0.5 * whole < half < whole


def test_an_estimate_leaves_the_model_as_it_was(random_tiny):
    random_tiny.train()
    before = torch.get_rng_state()
    activation_bytes(random_tiny, LABELS, *SHAPE, "float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert random_tiny.training and not random_tiny.text.background.is_inference()
    assert all(type(parameter) is torch.nn.Parameter for parameter in random_tiny.parameters())


def test_what_is_quickly_made_is_not_kept(random_tiny, monkeypatch):
    """Of each layer of the pixel decoder neither the hidden maps of its MLP nor what leads to its samples."""
    crop, config = 192, random_tiny.config.decoder
    kept = kept_bytes(random_tiny, 1, crop)
    for module in (pixel_decoder, clip):
        monkeypatch.setattr(module, "made_again", lambda make, *inputs: make(*inputs))
    tokens = sum((crop // stride) ** 2 for stride in STRIDES)
    spared = config.pixel_layers * tokens * (config.pixel_ffn + config.width) * torch.float32.itemsize
    assert kept < kept_bytes(random_tiny, 1, crop) - spared
