"""Inference equals the authors', stage by stage, within 30 times the noise of their own code."""

import re

import numpy as np
import pytest
import torch

from ebseg.predictor import Predictor, resize_shortest_edge
from ebseg.vocabulary import Vocabulary
from tests.parity.conftest import unpooled

CASES = [
    ("base", "a", "ade20k"),
    ("base", "a", "pcontext"),
    ("base", "b", "ade20k"),
    ("base", "b", "pcontext"),
    ("large", "a", "pcontext"),
    ("large", "b", "pcontext"),
]
VOCABULARIES = {"ade20k": "ade20k-150", "pcontext": "pascal-context-59"}
OUTPUT = {"a": (640, 640), "b": (480, 640)}
TRAINING_ONLY = {"mask_embeds_first"}
ELSEWHERE = {"argmax_s4", "top2_margin_s4", "sem_seg_shape"}
BASE_DEPTHS = (3, 6, 9)


@pytest.fixture(scope="module")
def embed():
    """Embed a vocabulary's names, once for each model and vocabulary: half a minute for 150 names."""
    known = {}

    def embed(net, vocabulary):
        key = id(net), tuple(map(tuple, vocabulary.prompts))
        if key not in known:
            known[key] = net.text.encode_labels(vocabulary)
        return known[key]

    return embed


@pytest.mark.parametrize(("variant", "photo", "data"), CASES)
def test_every_stage(variant, photo, data, request, inputs, golden_arrays, golden_json, record, embed):
    net = request.getfixturevalue(f"{variant}_net")
    golden = golden_arrays(f"golden_{variant[0]}_s1234_{photo}_{data}_sem_seg_val")
    floors = golden_json("noise_floor_b.json")[photo]
    vocabulary = Vocabulary.from_dataset(VOCABULARIES[data])
    stages = record(net)

    if photo == "a":
        image = inputs.image(640, 640, 0)
    else:
        resized = resize_shortest_edge(inputs.image_u8(480, 640, 1), 640, 2560)
        image = torch.from_numpy(resized).permute(2, 0, 1).float()
    encoded = net.encode([image])
    masks = encoded.resizable()
    classes = net.classify(encoded, vocabulary, text=embed(net, vocabulary))[0]
    stages["sem_seg"] = net.combine(masks, classes, OUTPUT[photo])
    size = OUTPUT[photo]
    stages["mask_full"] = masks.resized(0, size[0], size)

    compared = set(golden) - TRAINING_ONLY - ELSEWHERE
    wrong = []
    for name in sorted(compared):
        error = np.abs(_pick(stages, name) - _last(name, golden[name])).max()
        floor, span = floors[_base_name(name, net.config.clip.fusion_layers)]
        tolerance = 30 * max(floor, 1e-7 * span)
        if not error <= tolerance:
            wrong.append(f"{name}: off by {error:.2e}, tolerance {tolerance:.2e}")
    assert not wrong
    assert len(compared) >= 40

    assert tuple(golden["sem_seg_shape"]) == tuple(stages["sem_seg"].shape)
    sure = golden["top2_margin_s4"] > 1e-3
    chosen = stages["sem_seg"].argmax(dim=0)[::4, ::4].numpy()
    assert sure.sum() > 1000
    assert (chosen == golden["argmax_s4"])[sure].all()
    best, second = stages["sem_seg"].topk(2, dim=0).values[:, ::4, ::4].numpy()
    floor, span = floors["top2_margin_s4"]
    assert np.abs(best - second - golden["top2_margin_s4"]).max() <= 30 * max(floor, 1e-7 * span)


def test_predict_gives_the_authors_labels(base_net, inputs, golden_arrays):
    golden = golden_arrays("golden_b_s1234_b_pcontext_sem_seg_val")
    predictor = Predictor(base_net, version="golden", device="cpu")
    vocabulary = Vocabulary.from_dataset("pascal-context-59")

    found = predictor.predict(inputs.image_u8(480, 640, 1), vocabulary, threshold=0.0)

    sure = golden["top2_margin_s4"] > 1e-3
    assert (found.label_map[::4, ::4] == golden["argmax_s4"])[sure].all()


@torch.no_grad()
def test_predictions_before_the_last_one(base_net, inputs, golden_arrays, golden_json, record):
    """What only training needs: all ten predictions, from the same features."""
    golden = golden_arrays("golden_b_s1234_a_pcontext_sem_seg_val")
    floors = golden_json("noise_floor_b.json")["a"]
    biases = []
    hook = base_net.mask_decoder.attention_bias.register_forward_hook(
        lambda m, a, _o: biases.append(_mean_and_deviation(unpooled(m, *a)))
    )
    clip_images, sam_images = base_net.preprocess([inputs.image(640, 640, 0)])
    features = base_net.clip(clip_images, surgery=False)
    maps = base_net.fusion(base_net.sam(sam_images), features.fusion)
    predictions = base_net.mask_decoder.predict_all(*base_net.pixel_decoder(maps), features.grid)
    hook.remove()

    def check(name, found):
        floor, span = floors[name]
        assert np.abs(found - golden[name]).max() <= 30 * max(floor, 1e-7 * span), name

    check("mask_embeds_first", predictions[0].embeddings[0].numpy())
    check("pred_masks_ms", np.array([_mean_and_deviation(x.masks) for x in predictions]))
    check("attn_bias_ms", np.array(biases))


def _mean_and_deviation(x: torch.Tensor) -> list[float]:
    return [x.double().mean().item(), x.double().std(correction=0).item()]


def _pick(stages: dict[str, torch.Tensor], name: str) -> np.ndarray:
    """The part of a stage that a golden array holds, by the array's name."""
    if name.endswith("_ms"):
        return np.array(_mean_and_deviation(stages[name.removesuffix("_ms")]))
    if name == "pred_masks_pos_frac":
        return (stages["pred_masks"] > 0).float().mean(dim=(1, 2)).numpy()
    if name == "last_surgery_l7_c16":
        return stages["last_surgery"][::7, ::16].numpy()
    match = re.fullmatch(r"(.+?)(?:_h(\d+))?(?:_[cq](\d+))?(?:_s(\d+))?", name)
    heads, channels, pixels = (int(stride or 1) for stride in match.groups()[1:])
    x = stages[match[1]]
    if x.dim() == 4:
        x = x[::heads]
    if match[4]:
        x = x[..., ::channels, ::pixels, ::pixels]
    return x.numpy()


def _last(name: str, golden: np.ndarray) -> np.ndarray:
    """Inference makes the last prediction only; some arrays have a row for each of the ten."""
    return golden[-1] if name in {"pred_masks_ms", "attn_bias_ms"} else golden


def _base_name(name: str, depths: tuple[int, int, int]) -> str:
    """LARGE has BASE's tolerances, stage by stage; its features are taken at other depths."""
    match = re.fullmatch(r"clip(\d+)_(ms|c16_s2)", name)
    return f"clip{BASE_DEPTHS[depths.index(int(match[1]))]}_{match[2]}" if match else name
