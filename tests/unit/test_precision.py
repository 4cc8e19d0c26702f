"""Photos in fewer bits: near float32, chosen by what a CPU does fast, shared by models on a backbone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ebseg
from ebseg import precision
from ebseg.config import InferencePrecision
from ebseg.errors import ConfigError
from ebseg.model import EBSeg
from ebseg.precision import Bf16Weights, Int8Weights, Packed, choose_precision
from ebseg.predictor import Predictor

PHOTO = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
CPU = torch.device("cpu")
LABELS = ["sky", "road", "car"]


def predictor(net: EBSeg, chosen: InferencePrecision) -> Predictor:
    return Predictor(net, version="random", device="cpu", precision=chosen)


@pytest.mark.parametrize(
    ("chosen", "apart"), [(InferencePrecision.BF16, 0.05), (InferencePrecision.INT8, 0.1)]
)
def test_fewer_bits_are_near_float32_and_not_equal(random_tiny, chosen, apart):
    whole = predictor(random_tiny, InferencePrecision.FLOAT32).encode(PHOTO).encoded
    found = predictor(random_tiny, chosen).encode(PHOTO).encoded
    for name in ("masks", "a", "b", "c", "dense"):
        expected, close = getattr(whole, name), getattr(found, name)
        assert close.dtype == torch.float32 and not torch.equal(close, expected), name
        assert (close - expected).norm() < apart * expected.norm(), name
    answer = predictor(random_tiny, chosen).predict(PHOTO, LABELS, threshold=0.0)
    assert answer.label_map.shape == PHOTO.shape[:2]


def test_float32_is_what_a_model_is_loaded_with(random_checkpoint):
    assert ebseg.load(random_checkpoint).precision is InferencePrecision.FLOAT32
    assert ebseg.load(random_checkpoint, precision="int8").precision is InferencePrecision.INT8
    with pytest.raises(ConfigError, match="no precision named 'int4'; known: auto, float32, bf16, int8"):
        ebseg.load(random_checkpoint, precision="int4")


@pytest.mark.parametrize(
    ("speed", "expected"), [(2.0, InferencePrecision.BF16), (1.4, InferencePrecision.FLOAT32)]
)
def test_auto_is_what_this_cpu_multiplies_faster(monkeypatch, speed, expected):
    monkeypatch.setattr(precision, "bf16_speed", lambda: speed)
    assert choose_precision(InferencePrecision.AUTO, CPU) is expected
    assert choose_precision(InferencePrecision.AUTO, torch.device("meta")) is InferencePrecision.FLOAT32
    assert choose_precision(InferencePrecision.BF16, CPU) is InferencePrecision.BF16


def test_the_speed_is_measured_once():
    assert precision.bf16_speed() > 0
    assert precision.bf16_speed() == precision.bf16_speed()


def test_int8_is_for_cpus():
    with pytest.raises(ConfigError, match="precision 'int8' is for CPUs, not for 'meta'"):
        choose_precision(InferencePrecision.INT8, torch.device("meta"))


bf16_packs = pytest.mark.skipif(not Bf16Weights.are_known(CPU), reason="this CPU packs no bfloat16")


@pytest.mark.parametrize(
    ("kind", "apart"), [(Int8Weights, 0.03), pytest.param(Bf16Weights, 0.01, marks=bf16_packs)]
)
@torch.inference_mode()
def test_only_the_given_weights_are_multiplied_in_fewer_bits(kind, apart):
    torch.manual_seed(0)
    one, other = torch.nn.Linear(64, 48), torch.nn.Linear(64, 48, bias=False)
    x = torch.randn(2, 5, 64)
    with Packed(kind([one.weight, other.weight])):
        found, without_bias = one(x), other(x)
        assert torch.equal(F.linear(x, one.weight + 0), x @ one.weight.T)  # another tensor: as ever
    for close, layer in ((found, one), (without_bias, other)):
        assert 0 < (close - layer(x)).norm() < apart * layer(x).norm()
    with Packed(kind([one.weight])):
        assert torch.equal(other(x), x @ other.weight.T)
    with Packed(kind([one.weight]), kind([other.weight])):
        assert torch.equal(other(x), without_bias)


def test_models_on_one_backbone_share_its_weights_in_fewer_bits(random_tiny):
    own = random_tiny.with_own_head(random_tiny.config, None)
    assert own.backbone.int8 is random_tiny.backbone.int8
    assert own.backbone.bf16 is random_tiny.backbone.bf16


@bf16_packs
@pytest.mark.parametrize(
    "changed", ["pixel_decoder.layers.0.linear1.weight", "mask_decoder.mask_mlp.layers.0.weight"]
)
def test_each_model_multiplies_its_own_head_in_bf16(random_tiny, changed):
    own = random_tiny.with_own_head(random_tiny.config, None)
    before = predictor(own, InferencePrecision.BF16).encode(PHOTO).encoded
    with torch.no_grad():
        own.get_parameter(changed).mul_(2)
    shared, found = (
        predictor(net, InferencePrecision.BF16).encode(PHOTO).encoded for net in (random_tiny, own)
    )
    assert torch.equal(shared.masks, before.masks) and not torch.equal(shared.masks, found.masks)


def test_a_cpu_that_packs_no_bf16_casts_weights_anew(monkeypatch, random_tiny):
    packed = predictor(random_tiny, InferencePrecision.BF16).encode(PHOTO).encoded
    monkeypatch.setattr(Bf16Weights, "are_known", lambda device: False)
    cast = predictor(random_tiny, InferencePrecision.BF16).encode(PHOTO).encoded
    assert (packed.masks - cast.masks).norm() < 0.02 * cast.masks.norm()


def test_operations_that_this_pytorch_lacks_are_not_used(monkeypatch):
    monkeypatch.setattr(precision, "_BF16_OPERATIONS", ("_linear_pointwise", "of_another_release"))
    assert not Bf16Weights.are_known(CPU)


def test_weights_without_range_are_multiplied():
    """A row of zeros has no scale of its own."""
    layer = torch.nn.Linear(16, 8)
    torch.nn.init.zeros_(layer.weight)
    with torch.inference_mode(), Packed(Int8Weights([layer.weight])):
        torch.testing.assert_close(layer(torch.randn(3, 16)), layer.bias.expand(3, 8))
