import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ebseg.checkpoint import load_checkpoint
from ebseg.config import RECIPES
from ebseg.data.drawn.phrases import STUFF
from ebseg.data.drawn.scenes import SceneSource
from ebseg.data.samples import Sample
from ebseg.errors import CheckpointError, DataError, TrainingError
from ebseg.model import EBSeg
from ebseg.train import parameter_groups, train
from ebseg.vocabulary import Vocabulary
from tests.unit.shallow import SHALLOW

SHORT = RECIPES["tiny"].model_copy(
    update={"steps": 4, "batch": 1, "crop": 64, "short_edges": (64,), "checkpoint_every": 2}
)


class Landscapes:
    """Drawn scenes without their things: encoding all those labels takes longer than a step."""

    name = "scenes"

    def __init__(self):
        self._scenes = SceneSource(0, 8, size=(64, 64))
        self.vocabulary = Vocabulary(STUFF)

    def __len__(self):
        return len(self._scenes)

    def __getitem__(self, index):
        sample = self._scenes[index]
        known = sample.label_map < len(STUFF)  # the phrases begin with it
        return replace(sample, label_map=np.where(known, sample.label_map, -1).astype(np.int16))

    def fingerprint(self):
        return "scenes"


SCENES = Landscapes()


def _net():
    torch.manual_seed(0)
    return EBSeg(SHALLOW)


def _train(out, config=SHORT, sources=(SCENES,), net=None, **more):
    return train(net or _net(), sources, config, out, workers=0, **more)


def _weights(path):
    return dict(load_checkpoint(path)[0].named_parameters())


def _checkpoints(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


class Recorder:
    """Remembers what a run tells its watchers; stops it after a step if asked to."""

    def __init__(self, stop_after=None):
        self.calls, self.progress, self.stop_after = [], [], stop_after

    def started(self, _net, _config, _sources, step):
        self.calls.append(f"started at {step}")

    def stepped(self, progress):
        self.progress.append(progress)
        if progress.step == self.stop_after:
            raise KeyboardInterrupt

    def stored(self, _net, step):
        self.calls.append(f"stored {step}")

    def finished(self, path):
        self.calls.append(f"finished {path.name}")

    def failed(self, error):
        self.calls.append(f"failed {type(error).__name__}")


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path):
    whole = _train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", watchers=[Recorder(stop_after=3)])  # the checkpoint is of step 2
    watcher = Recorder()
    resumed = _train(tmp_path / "parts", watchers=[watcher])

    ours, theirs = _weights(whole), _weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert watcher.calls == ["started at 2", "stored 4", "finished model.safetensors"]


def test_a_finished_run_is_not_done_again(tmp_path):
    _train(tmp_path)
    watcher = Recorder()
    _train(tmp_path, watchers=[watcher])
    assert watcher.calls == ["started at 4", "finished model.safetensors"] and not watcher.progress


def test_the_checkpoint_knows_what_it_was_trained_on(tmp_path):
    net, _ = load_checkpoint(_train(tmp_path, SHORT.model_copy(update={"steps": 1})))
    assert net.training_vocabulary == SCENES.vocabulary
    assert net.config == SHALLOW


def test_a_second_training_adds_to_what_was_trained_on(tmp_path):
    net = _net()
    net.trained_on(Vocabulary(["unicorn"]))
    found, _ = load_checkpoint(_train(tmp_path, SHORT.model_copy(update={"steps": 1}), net=net))
    assert Vocabulary(["unicorn", "sky", "dragon"]).seen_in(found.training_vocabulary) == (True, True, False)


def test_only_the_trainable_parameters_change(tmp_path):
    before = dict(_net().named_parameters())
    after = _weights(_train(tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name, parameter in before.items() if not parameter.requires_grad}
    assert not changed & frozen
    assert {"clip.tower.positional_embedding", "sam.encoder.pos_embed", "text.background"} <= changed


def test_watchers_and_log_see_every_term(tmp_path):
    watcher = Recorder()
    _train(tmp_path, SHORT.model_copy(update={"log_every": 2}), watchers=[watcher])
    assert [progress.step for progress in watcher.progress] == [1, 2, 3, 4]
    first, last = watcher.progress[0], watcher.progress[-1]
    assert len(first.terms) == 4 * (SHALLOW.decoder.mask_layers + 1) + 1
    assert first.learning_rate == SHORT.learning_rate
    assert last.learning_rate == pytest.approx(SHORT.learning_rate * 0.25**0.9)
    assert first.gradient_norm > 0 and first.memory > 2**20 and first.photos == 1
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[-1]["loss"] == pytest.approx(sum(last.terms.values()), rel=1e-3)
    assert {"class_a", "class_b", "mask", "dice", "ssc", "gradient_norm", "seconds"} <= set(lines[0])


def _broken_in_step(monkeypatch, step, change):
    """Damage the losses of one step of the next run."""
    losses = EBSeg.losses
    calls = []

    def broken(self, *arguments, **more):
        terms = losses(self, *arguments, **more)
        calls.append(1)
        return change(terms) if len(calls) == step + 1 else terms

    monkeypatch.setattr(EBSeg, "losses", broken)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    _broken_in_step(monkeypatch, 2, lambda terms: {**terms, "ssc": terms["ssc"] * float("nan")})
    watcher = Recorder()
    with pytest.raises(TrainingError, match=r"step 3: loss terms are not finite: ssc for scene \d of seed 0"):
        _train(tmp_path, watchers=[watcher])
    assert _checkpoints(tmp_path) == ["step-00000002.pt"]
    assert watcher.calls[-1] == "failed TrainingError"


def test_only_a_checkpoint_that_there_is_is_told_of(tmp_path, monkeypatch):
    for step, told in ((0, "; look at these photos"), (2, "; the checkpoint before it is kept: look at")):
        with monkeypatch.context() as patch, pytest.raises(TrainingError) as caught:
            _broken_in_step(patch, step, lambda terms: {**terms, "ssc": terms["ssc"] * float("nan")})
            _train(tmp_path)
        assert told in str(caught.value)


@pytest.mark.parametrize("damage", ["weight", "learning rate"])
def test_a_model_that_diverges_is_told_by_its_terms(tmp_path, damage):
    net, config = _net(), SHORT
    if damage == "weight":
        with torch.no_grad():
            net.mask_decoder.norm.weight[0] = float("nan")
    else:
        config = SHORT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"step \d: .* not finite.* scene \d of seed 0"):
        _train(tmp_path, config, net=net)


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(_context, x):
        return x.clone()

    @staticmethod
    def backward(_context, gradient):
        return gradient * float("nan")


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(tmp_path, monkeypatch):
    _broken_in_step(monkeypatch, 3, lambda terms: {**terms, "dice": _NanGradient.apply(terms["dice"])})
    net = _net()
    with pytest.raises(
        TrainingError, match=r"step 4: the gradients of .* tensors\) are not finite, for scene"
    ):
        _train(tmp_path, net=net)
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())
    assert _checkpoints(tmp_path) == ["step-00000002.pt"]


class _SomeBroken:
    """Scenes of which some files cannot be read."""

    name, vocabulary = "damaged", SCENES.vocabulary

    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return len(SCENES)

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"{index}.jpg is cut short")
        return SCENES[index]

    def fingerprint(self):
        return "damaged"


def test_broken_files_are_counted_named_and_skipped_up_to_a_limit(tmp_path):
    config = SHORT.model_copy(update={"steps": 8, "max_broken": 2})
    watcher = Recorder()
    _train(tmp_path / "few", config, [_SomeBroken({1, 5})], watchers=[watcher])
    assert watcher.progress[-1].broken == 2
    with pytest.raises(DataError, match=r"3 files are broken, more than 2 \(max_broken\): .*is cut short"):
        _train(tmp_path / "many", config, [_SomeBroken({1, 3, 5})])


class _Blank:
    """Photos of which the second has no label at all. The first has two: of a single one SSC may be 0."""

    name = "blank"

    def __init__(self, label="sky"):
        self.vocabulary = Vocabulary([label, "kerb"])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        label_map = np.full((64, 64), -1 if index else 0, dtype=np.int16)
        label_map[:, 32:] = -1 if index else 1
        return Sample(str(index), np.zeros((64, 64, 3), dtype=np.uint8), label_map)

    def fingerprint(self):
        return "blank"


def test_photos_without_labels_are_trained_on(tmp_path):
    watcher = Recorder()
    _train(tmp_path, sources=[_Blank()], watchers=[watcher])
    assert sorted(progress.terms["ssc"] == 0 for progress in watcher.progress) == [False, False, True, True]


def test_data_sets_of_different_vocabularies_are_mixed(tmp_path):
    watcher = Recorder()
    _train(tmp_path, sources=[SCENES, _Blank("unicorn")], weights=[1, 1], watchers=[watcher])
    net, _ = load_checkpoint(tmp_path / "model.safetensors")
    assert all(Vocabulary(["sky", "snow", "unicorn"]).seen_in(net.training_vocabulary))
    losses = [progress.terms["class_b"] for progress in watcher.progress]
    assert len(losses) == SHORT.steps and np.isfinite(losses).all()


def test_another_runs_folder_is_refused(tmp_path):
    _train(tmp_path)
    with pytest.raises(CheckpointError, match="learning_rate"):
        _train(tmp_path, SHORT.model_copy(update={"learning_rate": 1.0}))
    with pytest.raises(CheckpointError, match="data"):
        _train(tmp_path, sources=[_Blank()])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(tmp_path, precision):
    watcher = Recorder()
    _train(tmp_path, SHORT.model_copy(update={"precision": precision, "steps": 2}), watchers=[watcher])
    assert all(np.isfinite(list(progress.terms.values())).all() for progress in watcher.progress)


def test_every_trainable_parameter_is_in_exactly_one_group():
    net = EBSeg(SHALLOW)
    grouped = [id(p) for group in parameter_groups(net, 0.05) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters() if p.requires_grad)
