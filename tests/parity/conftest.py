"""The authors' numbers, and models with the weights that they were computed with."""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ebseg.model
from ebseg.checkpoint import load_official
from ebseg.config import BASE, LARGE
from ebseg.mask_decoder import AttentionBias
from ebseg.model import EBSeg

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 1234


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """Full-size models want more than the one thread that the small ones of other tests have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def inputs() -> ModuleType:
    return _module("inputs")


@pytest.fixture(scope="session")
def golden_json() -> Callable[[str], Any]:
    return lambda name: json.loads((GOLDEN / name).read_text())


@pytest.fixture(scope="session")
def golden_arrays() -> Callable[[str], dict[str, np.ndarray]]:
    return lambda name: dict(np.load(GOLDEN / f"{name}.npz", allow_pickle=False))


def official_state(keys: str) -> dict[str, torch.Tensor]:
    """A state dict of the authors' names and shapes, filled by the recipe."""
    shapes = json.loads((GOLDEN / keys).read_text())["keys"]
    return _module("weights").fill({name: torch.zeros(shape) for name, shape in shapes.items()}, SEED)


@pytest.fixture(scope="session")
def base_state() -> dict[str, torch.Tensor]:
    return official_state("keys_base.json")


@pytest.fixture(scope="session")
def base_net(base_state: dict[str, torch.Tensor]) -> EBSeg:
    net = EBSeg(BASE)
    load_official(net, base_state)
    return net


@pytest.fixture(scope="session")
def large_net() -> EBSeg:
    net = EBSeg(LARGE)
    load_official(net, official_state("keys_large.json"))
    return net


def unpooled(bias: AttentionBias, kernels: torch.Tensor, pixels: torch.Tensor, _grid: Any) -> torch.Tensor:
    """Attention biases (B, H, Q, h, w), which the authors make before they pool them."""
    folded, constant = bias._folded(kernels)
    return torch.einsum("bnqd,bdhw->bnqhw", folded, pixels) + constant[..., None]


def at_strides(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Resize the first map, of stride 16, to stride 4, as the authors do before they project it."""
    return [F.interpolate(maps[0], scale_factor=4, mode="bilinear", align_corners=False), *maps[1:]]


class Recorder:
    """Looks into a model while it runs; ``stages`` fills with the first photo's."""

    def __init__(self, net: EBSeg, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stages: dict[str, torch.Tensor] = {}
        self.depths = net.config.clip.fusion_layers
        hooks = {
            net.text: lambda _m, _a, output: self.keep(text_weight=output),
            net.clip: self.on_clip,
            net.sam: self.on_sam,
            net.fusion: lambda _m, _a, output: self.keep_maps("fused_res", at_strides(output), first=2),
            net.pixel_decoder: self.on_pixels,
            net.mask_decoder: self.on_masks,
            net.mask_decoder.attention_bias: lambda m, a, _o: self.keep(attn_bias=unpooled(m, *a)[0]),
        }
        self.handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
        recognise, balance = net.clip.recognise, ebseg.model.balance

        def recorded_recognise(features: Any, bias: torch.Tensor) -> Any:
            embeddings, dense = recognise(features, bias)
            self.keep(clip_sos_last=embeddings[0], clip_final_feature=dense[0])
            return embeddings, dense

        def recorded_balance(*arguments: Any) -> torch.Tensor:
            balanced = balance(*arguments)
            self.keep(mask_cls_log=balanced[0])
            return balanced

        monkeypatch.setattr(net.clip, "recognise", recorded_recognise)
        monkeypatch.setattr(ebseg.model, "balance", recorded_balance)

    def keep(self, **found: torch.Tensor) -> None:
        self.stages.update({name: value.detach() for name, value in found.items()})

    def keep_maps(self, name: str, maps: Any, first: int) -> None:
        self.keep(**{f"{name}{number}": x[0] for number, x in enumerate(maps, first)})

    def on_clip(self, _module: Any, arguments: Any, output: Any) -> None:
        self.keep(clip_input=arguments[0][0], clip_cls=output.tokens[0, 0], last_surgery=output.surgery[0])
        self.keep(**{f"clip{d}": x[0] for d, x in zip(self.depths, output.fusion, strict=True)})

    def on_sam(self, _module: Any, arguments: Any, output: Any) -> None:
        self.keep(sam_input=arguments[0][0])
        self.keep_maps("sam_res", at_strides(output), first=2)

    def on_pixels(self, _module: Any, _arguments: Any, output: Any) -> None:
        self.keep(mask_features=output[0][0])
        self.keep_maps("multi_scale", output[1], first=0)

    def on_masks(self, _module: Any, _arguments: Any, output: Any) -> None:
        self.keep(pred_masks=output.masks[0], mask_embeds_last=output.embeddings[0])


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[EBSeg], dict[str, torch.Tensor]]]:
    recorders = []

    def attach(net: EBSeg) -> dict[str, torch.Tensor]:
        recorders.append(Recorder(net, monkeypatch))
        return recorders[-1].stages

    yield attach
    for recorder in recorders:
        for handle in recorder.handles:
            handle.remove()
