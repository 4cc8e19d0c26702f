import json

import pytest
import torch
from safetensors.torch import save_file

from ebseg.checkpoint import load_checkpoint
from ebseg.config import TINY, TrainConfig
from ebseg.data.scenes import BENCHMARK_SEED, SceneBatches, training_vocabulary
from ebseg.data.synthetic import SEEN_PHRASES
from ebseg.errors import CheckpointError, ConfigError, TrainingError
from ebseg.model import EBSeg
from ebseg.train import LOG_FILE, STATE_FILE, load_encoders, parameter_groups, train

SHORT = TrainConfig(steps=4, batch=1, sizes=(64,), checkpoint_every=2)


def _no_report(_done, _terms):
    pass


class _StoppedError(Exception):
    pass


def _stop_after(step):
    def report(done, _terms):
        if done == step:
            raise _StoppedError

    return report


def _weights(path):
    return dict(load_checkpoint(path)[0].named_parameters())


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path):
    whole = train(TINY, SHORT, tmp_path / "whole", report=_no_report)
    with pytest.raises(_StoppedError):
        train(TINY, SHORT, tmp_path / "parts", report=_stop_after(3))  # the state is of step 2
    resumed = train(TINY, SHORT, tmp_path / "parts", report=_no_report)

    ours, theirs = _weights(whole), _weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_checkpoint_knows_what_it_was_trained_on(tmp_path):
    path = train(TINY, SHORT.model_copy(update={"steps": 1}), tmp_path, report=_no_report)
    net, _ = load_checkpoint(path)
    assert net.training_vocabulary == training_vocabulary()
    assert net.config == TINY


def test_only_the_trainable_parameters_change(tmp_path):
    torch.manual_seed(SHORT.seed)
    before = dict(EBSeg(TINY).named_parameters())
    after = _weights(train(TINY, SHORT, tmp_path, report=_no_report))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name, parameter in before.items() if not parameter.requires_grad}
    assert not changed & frozen
    assert {"clip.tower.positional_embedding", "sam.encoder.pos_embed", "text.background"} <= changed


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path, monkeypatch):
    losses = EBSeg.losses
    calls = []

    def broken_in_the_third_step(self, *arguments):
        terms = losses(self, *arguments)
        calls.append(1)
        return {**terms, "ssc": terms["ssc"] * float("nan")} if len(calls) == 3 else terms

    monkeypatch.setattr(EBSeg, "losses", broken_in_the_third_step)
    with pytest.raises(TrainingError, match="step 2: ssc is not finite"):
        train(TINY, SHORT, tmp_path, report=_no_report)
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] == 2


def test_the_log_has_a_line_every_twenty_steps(tmp_path):
    train(TINY, SHORT.model_copy(update={"steps": 20}), tmp_path, report=_no_report)
    (line,) = (tmp_path / LOG_FILE).read_text().splitlines()
    entry = json.loads(line)
    assert entry["step"] == 20
    assert {"loss", "class_a", "class_b", "mask", "dice", "ssc", "seconds"} <= set(entry)


def test_training_refuses_the_benchmarks_scenes(tmp_path):
    with pytest.raises(ConfigError, match="benchmark"):
        train(TINY, SHORT.model_copy(update={"seed": BENCHMARK_SEED}), tmp_path, report=_no_report)


def test_batches_depend_on_seed_and_step_alone():
    first, second = SceneBatches(SHORT), SceneBatches(SHORT)
    for step in (0, 3):
        for left, right in zip(first[step], second[step], strict=True):
            assert torch.equal(left, right)
    assert not torch.equal(first[0][0], first[1][0])


def test_training_scenes_show_seen_phrases_only():
    for step in range(4):
        images, label_maps = SceneBatches(SHORT)[step]
        assert images.shape == (1, 3, 64, 64) and images.dtype == torch.uint8
        assert label_maps.max() < len(SEEN_PHRASES)


def test_every_trainable_parameter_is_in_exactly_one_group():
    net = EBSeg(TINY)
    grouped = [id(p) for group in parameter_groups(net, 0.05) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_encoders_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "encoders.safetensors"
    save_file({"clip_image.proj": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="do not fit EBSeg 'tiny'"):
        load_encoders(EBSeg(TINY), path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoders(EBSeg(TINY), path)
