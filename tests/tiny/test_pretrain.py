import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ebseg.clip import build_image_tower, build_text_tower
from ebseg.config import TINY
from ebseg.data.drawn.phrases import PHRASES, SEEN_PHRASES
from ebseg.errors import TrainingError
from ebseg.sam import build_image_encoder
from training.tiny.pretrain import Schedule, run, train
from training.tiny.pretrain_clip import ClipPhase, ClipStage
from training.tiny.pretrain_sam import SamPhase, SamStage
from training.tiny.pretrain_scenes import cached_scenes, find_regions, half_size_scenes, random_crops

CLIP = TINY.clip.model_copy(
    update={"image_width": 32, "embed_dim": 32, "text_width": 32, "text_layers": 1, "vocab_size": 49408}
)
SAM = TINY.sam.model_copy(update={"width": 32, "depth": 4, "global_blocks": (0, 1, 2, 3)})
QUICK = Schedule(
    warm_up=2, log_every=1, measure_every=1000, measure_scenes=1, final_scenes=1, checkpoint_seconds=0
)


@pytest.fixture(scope="module")
def scenes():
    return half_size_scenes(0, 12)


def clip_stage(scenes, steps=6):
    torch.manual_seed(0)
    crops = {"batch": 8, "side": 64, "zoom": (0.7, 1.3), "noun_weight": 1.0}
    first = ClipPhase(steps=2, spare_held_out=False, **crops)
    second = ClipPhase(steps=steps - 2, spare_held_out=True, **crops)
    return ClipStage(CLIP, scenes, ((first,), (second,)))


def sam_stage(steps=6):
    torch.manual_seed(0)
    return SamStage(SAM, 0, (SamPhase(steps=steps, scenes=1, side=128),))


def test_cached_scenes_are_drawn_once_and_only_seen(tmp_path, scenes):
    first, again = (cached_scenes(tmp_path, 0, 12, workers=0) for _ in range(2))
    assert torch.equal(first.images, scenes.images) and torch.equal(again.labels, scenes.labels)
    assert first.images.shape == (12, 3, 128, 128) and first.images.dtype == torch.uint8
    assert first.labels.max() < len(SEEN_PHRASES)
    assert half_size_scenes(0, 3, unseen=True).labels.max() >= len(SEEN_PHRASES)


def test_crops_show_the_labels_of_their_pixels(scenes):
    images, labels = random_crops(scenes, np.random.default_rng(1), batch=20, side=64, zoom=(0.7, 1.3))
    assert images.shape == (20, 3, 64, 64) and labels.shape == (20, 64, 64)
    sky = labels == PHRASES.index("sky")
    assert images[:, 2][sky].mean() > images[:, 0][sky].mean()
    grass = labels == PHRASES.index("grass")
    assert images[:, 1][grass].mean() > images[:, 2][grass].mean()


def test_regions_of_a_map_done_by_hand():
    labels = torch.zeros(1, 4, 8, dtype=torch.int64)
    labels[0, :, 4:] = 2  # the second patch
    labels[0, 0, 0] = 1  # one pixel of the first
    regions = find_regions(labels, patch=4, phrases=3, most=3, threshold=0.5)
    assert regions.labels.tolist() == [[2, 0, 1]]
    assert regions.areas.tolist() == [[1.0, 15 / 16, 1 / 16]]
    assert regions.masks.tolist() == [[[False, True], [True, False], [True, False]]]


@pytest.mark.parametrize("make", [clip_stage, lambda _: sam_stage()], ids=["clip", "sam"])
def test_loss_falls_on_a_repeated_batch(make, scenes):
    stage = make(scenes)
    optimiser = torch.optim.AdamW(stage.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss, _ = stage.loss(0, np.random.default_rng(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("make", [clip_stage, lambda _: sam_stage()], ids=["clip", "sam"])
def test_a_stopped_run_goes_on_to_the_same_weights(make, scenes, tmp_path, monkeypatch):
    """Bit for bit, on one thread: every step's random numbers come from the seed and the step."""
    through, stopped, resumed = make(scenes), make(scenes), make(scenes)
    for folder in ("through", "stopped"):
        (tmp_path / folder).mkdir()
    train(through, tmp_path / "through", 0, QUICK)
    whole = stopped.loss

    def stop_at_four(step, rng):
        if step == 4:
            raise KeyboardInterrupt
        return whole(step, rng)

    monkeypatch.setattr(stopped, "loss", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tmp_path / "stopped", 0, QUICK)
    train(resumed, tmp_path / "stopped", 0, QUICK)
    for name, value in through.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    log = (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    measured = [2] if stopped.name == "clip" else []  # at the end of each round
    assert sorted(steps) == sorted([1, 2, 3, 4, 5, 6, 6, *measured])


def test_run_writes_weights_that_the_encoders_load(scenes, tmp_path):
    path = run((clip_stage(scenes, 3), sam_stage(1)), tmp_path, 0, QUICK)
    weights = load_file(path)
    modules = {
        "clip_image.": build_image_tower(CLIP),
        "clip_text.": build_text_tower(CLIP),
        "sam.": build_image_encoder(SAM),
    }
    for prefix, module in modules.items():
        found = {
            name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
        }
        module.load_state_dict(found, strict=True)
        weights = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    assert list(weights) == ["clip_logit_scale"]


def test_a_loss_that_is_not_finite_stops_the_run(scenes, tmp_path):
    stage = clip_stage(scenes)
    with torch.no_grad():
        stage.model.image.tower.proj.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0"):
        train(stage, tmp_path, 0, QUICK)
