import json
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import training.finetuning.finetune
from ebseg.checkpoint import backbone_name, load_checkpoint
from ebseg.config import RECIPES
from ebseg.data.drawn.scenes import SceneSource
from ebseg.data.samples import Sample
from ebseg.errors import ConfigError, DataError, TrainingError
from ebseg.model import EBSeg
from ebseg.runs.folder import RunFolder
from ebseg.runs.watch import StopTraining
from ebseg.train import train
from ebseg.vocabulary import Vocabulary
from training.finetuning.finetune import (
    FinetuneConfig,
    General,
    Mix,
    Snapshot,
    _choose,
    _EarlyStopping,
    _Measure,
    finetune,
    interpolate,
    steps_for,
)
from training.finetuning.folder import TrainingFolder

pytestmark = pytest.mark.usefixtures("small_crops")

SHORT = FinetuneConfig(steps=4, batch=1, measure_every=2, general_photos=2, learning_rate=1e-3)


class Halves:
    """Photos whose left half is one label and whose right half is another, or not labelled."""

    name = "halves"

    def __init__(self, count=3, labels=("kerb", "robot"), right=1):
        self.vocabulary, self.count, self.right = Vocabulary(list(labels)), count, right

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((64, 64, 3), 40 * (index + 1), dtype=np.uint8)
        image[:, 32:] = 200
        label_map = np.zeros((64, 64), dtype=np.int16)
        label_map[:, 32:] = self.right
        return Sample(f"photo {index}", image, label_map)

    def fingerprint(self):
        return f"{self.count} {self.right}"


PROJECT = Snapshot(Halves(), Halves(2))
GENERAL = General(SceneSource(5, 40, size=(64, 64)), SceneSource(6, 2, size=(64, 64)))


def _finetune(base, out, config=SHORT, snapshot=PROJECT, general=GENERAL, **more):
    return finetune(str(base), snapshot, config, out, general=general, workers=0, **more)


def _weights(path):
    return {name: p.detach() for name, p in load_checkpoint(path)[0].named_parameters()}


class _Stop:
    """Ends a run from outside after a step."""

    def __init__(self, step):
        self.step = step

    def stepped(self, progress):
        if progress.step == self.step:
            raise KeyboardInterrupt

    def started(self, *_arguments):
        pass

    stored = finished = failed = started


def test_a_stopped_fine_tuning_ends_as_one_that_was_not(random_checkpoint, tmp_path):
    whole = _finetune(random_checkpoint, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _finetune(random_checkpoint, tmp_path / "parts", watchers=[_Stop(3)])
    resumed = _finetune(random_checkpoint, tmp_path / "parts")
    assert (resumed.base, resumed.chosen, resumed.tried) == (whole.base, whole.chosen, whole.tried)
    ours, theirs = _weights(resumed.path), _weights(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    stored = json.loads((tmp_path / "whole" / "outcome.json").read_text())
    assert stored["chosen"]["share"] == whole.chosen.share and stored["steps"] == whole.steps == 4
    assert whole.chosen.general >= SHORT.keep * whole.base.general


@pytest.mark.parametrize(
    ("photos", "a_step", "steps"),
    [(1, 2, 600), (100, 2, 600), (101, 2, 606), (250, 4, 750), (300, 2, 1800), (10_000, 2, 1800)],
)
def test_many_photos_get_more_steps_so_that_each_is_seen(photos, a_step, steps):
    assert steps_for(photos, a_step) == steps


@pytest.mark.parametrize(("looks", "steps"), [(1, 6), (2, 7), (9, 7)])
def test_without_a_number_of_steps_the_photos_say_it(looks, steps, random_checkpoint, tmp_path, monkeypatch):
    """Three photos, of which a step sees half a one: the other half is rehearsal."""
    for name, value in (("LEAST_STEPS", 2), ("MOST_STEPS", 7), ("LOOKS", looks)):
        monkeypatch.setattr(training.finetuning.finetune, name, value)
    config = SHORT.model_copy(update={"steps": None})
    assert _finetune(random_checkpoint, tmp_path, config).steps == steps


def test_mixed_precision_is_trained_in_where_it_is_asked_for(random_checkpoint, tmp_path, monkeypatch):
    seen = []
    losses = EBSeg.losses

    def noting(*arguments, **more):
        seen.append(torch.is_autocast_enabled("cpu"))
        return losses(*arguments, **more)

    monkeypatch.setattr(EBSeg, "losses", noting)
    for precision, mixed in (("auto", False), ("bf16", True)):
        seen.clear()
        config = SHORT.model_copy(update={"precision": precision})
        _finetune(random_checkpoint, tmp_path / precision, config)
        assert seen == [mixed] * 4


def test_without_general_data_the_fine_tuned_weights_are_taken(random_checkpoint, tmp_path):
    outcome = _finetune(random_checkpoint, tmp_path, general=None)
    assert outcome.base.general is None
    assert [mix.share for mix in outcome.tried] == [1.0]
    better = outcome.tried[0].project > outcome.base.project
    assert outcome.chosen is (outcome.tried[0] if better else outcome.base)
    net, _ = load_checkpoint(outcome.path)
    seen = Vocabulary(["sky", "road", "robot"]).seen_in(net.training_vocabulary)
    assert seen == (True, True, better)


def test_the_file_is_what_was_measured(random_checkpoint, tmp_path, monkeypatch):
    """Also where the base wins: its labels are then seen or not as before."""
    monkeypatch.setattr(training.finetuning.finetune, "MIXES", (1e-9,))
    config = SHORT.model_copy(update={"keep": 1.0, "learning_rate": 0.05})
    outcome = _finetune(random_checkpoint, tmp_path, config)
    net, _ = load_checkpoint(outcome.path)
    written = _Measure(PROJECT.held_out, GENERAL.held_out, 2).mix(net, outcome.chosen.share)
    assert written == outcome.chosen
    base, _ = load_checkpoint(random_checkpoint)
    if outcome.chosen == outcome.base:
        assert net.training_vocabulary == base.training_vocabulary


def test_with_a_backbones_name_the_head_alone_is_written(random_checkpoint, tmp_path):
    config = SHORT.model_copy(update={"steps": 2})
    paths = [
        _finetune(
            random_checkpoint, tmp_path / f"{backbone is None}", config, general=None, backbone=backbone
        ).path
        for backbone in (None, str(random_checkpoint))
    ]
    (whole, _), (head, _) = map(load_checkpoint, paths)
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, head.get_parameter(name)), name
    assert [backbone_name(path) for path in paths] == [None, str(random_checkpoint)]
    assert 4 * paths[1].stat().st_size < paths[0].stat().st_size


def test_general_photos_without_other_labels_keep_nothing(random_tiny, caplog):
    measure = _Measure(Halves(2), Halves(2), 2)
    assert measure.mix(random_tiny, 0.0).general is None
    assert "no label that the project does not use" in caplog.text


def test_unlabelled_pixels_are_ignored_or_background_as_asked(random_checkpoint, tmp_path):
    partly = Snapshot(Halves(right=-1), Halves(2))
    weights = []
    for setting in ("ignored", "background"):
        config = SHORT.model_copy(update={"unlabelled": setting, "rehearsal": 0.0})
        out = tmp_path / setting
        _finetune(random_checkpoint, out, config, partly, None)
        weights.append(_weights(out / "training" / "best.safetensors")["mask_decoder.query_features.weight"])
    assert not torch.equal(*weights)


def test_who_trains_on_from_a_fine_tuned_model_has_the_loss_of_the_recipe(random_checkpoint, tmp_path):
    """The file carried "ignored" once, so that pixels without a label were not background unasked."""
    partly = Snapshot(Halves(right=-1), Halves(2))
    outcome = _finetune(random_checkpoint, tmp_path, SHORT, partly, None)
    tuned, _ = load_checkpoint(outcome.path)
    base, _ = load_checkpoint(random_checkpoint)
    assert tuned.config == base.config
    base.load_state_dict(tuned.state_dict())
    recipe = RECIPES["tiny"].model_copy(update={"steps": 1, "batch": 1, "crop": 64, "short_edges": (64,)})
    logs = []
    for name, net in (("tuned", tuned), ("base", base)):
        train(net, [partly.train], recipe, tmp_path / name, workers=0)
        row = json.loads(RunFolder(tmp_path / name).log.read_text())
        logs.append([row[term] for term in ("mask", "dice", "loss")])
    assert logs[0] == logs[1]


def test_labels_of_the_project_are_not_measured_as_general(random_tiny):
    general = Halves(2, labels=("kerbs", "robot"))  # "kerbs" is the project's "kerb"
    project = Halves(2, labels=("kerb", "horse"))
    both = _Measure(Halves(2, labels=("horse", "cow")), general, 2).general(random_tiny)
    without_kerb = _Measure(project, general, 2).general(random_tiny)
    only_robot = _Measure(Halves(2, labels=("kerb", "cow")), general, 2).general(random_tiny)
    assert without_kerb == only_robot != both


def _scripted(table):
    """A measure that knows what each mix reaches; the mix is read off the weights."""
    return SimpleNamespace(mix=lambda net, share: Mix(share, *table(share)))


@pytest.mark.parametrize(
    ("table", "share"),
    [
        (lambda share: (40 + 20 * share, 50.0), 1.0),
        (lambda share: (40 + 20 * share, 50 - 10 * share), 0.25),  # 95 % of 50 is 47.5
        (lambda share: (40 + 20 * share, 40.0), 0.0),  # nothing keeps enough
        (lambda share: (39.0, 50.0), 0.0),  # nothing is better
        (lambda share: (50 - abs(share - 0.6), 50.0), 0.6),  # the middle may be best
        (lambda share: (50 - abs(share - 0.6), None), 1.0),  # nothing to keep: taken whole
        (lambda share: (40.0, None), 0.0),  # nothing is better
    ],
)
def test_the_best_mix_that_keeps_enough_is_chosen(random_tiny, table, share):
    base = {"text.background": torch.zeros(1, 128)}
    tuned = {"text.background": torch.ones(1, 128)}
    base_mix = Mix(0.0, 40.0, None if table(1.0)[1] is None else 50.0)
    chosen, _ = _choose(random_tiny, base, tuned, _scripted(table), base_mix, SHORT)
    assert chosen.share == share
    assert torch.allclose(random_tiny.text.background, torch.full((1, 128), share))


@pytest.mark.parametrize(
    ("table", "tried"),
    [
        (lambda share: (40 + 20 * share, 50.0), 2),  # the next one is worse
        (lambda share: (39.0, 50.0), 1),  # enough is kept, and it is no better than the base
        (lambda share: (40.0, 50.0), 1),
        (lambda share: (40 + 20 * share, 40.0), 20),  # not enough is kept: on to the base
        (lambda share: (60 - 20 * share, 50 if share <= 0.5 else 40.0), 20),  # ever better from there on
        (lambda share: (50 - abs(share - 0.6), 50.0), 10),
        (lambda share: (50 - abs(share - 0.6), 47.5), 10),  # just enough is enough
        (lambda share: (50 - abs(share - 0.6), None), 1),
        (lambda share: (30.0, None), 1),
    ],
)
def test_the_choice_stops_where_enough_is_kept_and_the_project_gets_no_better(random_tiny, table, tried):
    base_mix = Mix(0.0, 40.0, None if table(1.0)[1] is None else 50.0)
    weights = {"text.background": torch.zeros(1, 128)}, {"text.background": torch.ones(1, 128)}
    _, mixes = _choose(random_tiny, *weights, _scripted(table), base_mix, SHORT)
    assert [mix.share for mix in mixes] == pytest.approx([1 - 0.05 * number for number in range(tried)])


def test_any_mix_keeps_enough_where_the_base_knows_nothing_general(random_tiny):
    weights = {"text.background": torch.zeros(1, 128)}, {"text.background": torch.ones(1, 128)}
    measure = _scripted(lambda share: (40 + 20 * share, 0.0))
    chosen, _ = _choose(random_tiny, *weights, measure, Mix(0.0, 40.0, 0.0), SHORT)
    assert chosen.share == 1.0


def test_interpolation_is_linear_and_leaves_frozen_weights(random_tiny):
    before = random_tiny.clip.tower.proj.clone()
    base = {"text.background": torch.full((1, 128), 2.0)}
    interpolate(random_tiny, base, {"text.background": torch.full((1, 128), 4.0)}, 0.25)
    assert torch.equal(random_tiny.text.background, torch.full((1, 128), 2.5))
    assert torch.equal(random_tiny.clip.tower.proj, before)


def test_it_ends_early_when_nothing_gets_better(random_tiny, tmp_path):
    scores = iter([10.0, 30.0, 20.0, 25.0, 29.0])
    measure = SimpleNamespace(project=lambda _net: next(scores))
    config = SHORT.model_copy(update={"patience": 3})
    stopper = _EarlyStopping(TrainingFolder(tmp_path), measure, config)
    for step in (2, 4, 6, 8):
        stopper.stored(random_tiny, step)
    with pytest.raises(StopTraining):
        stopper.stored(random_tiny, 10)
    with pytest.raises(StopTraining):  # and so does the same run when it is started again
        _EarlyStopping(TrainingFolder(tmp_path), measure, config).started(random_tiny, None, [], 10)
    earlier = _EarlyStopping(TrainingFolder(tmp_path), measure, config)
    earlier.started(random_tiny, None, [], 6)
    assert earlier.last_step == 6


def test_one_lucky_look_does_not_end_it(random_tiny, tmp_path):
    folder = TrainingFolder(tmp_path)
    camvid = [16.9, 19.6, 23.9, 26.8, 34.1, 29.8, 32.7, 33.1]  # 34.4 came next, and 35.5 in the end
    folder.measured.write_text(json.dumps({50 * (look + 1): score for look, score in enumerate(camvid)}))
    measure = SimpleNamespace(project=lambda _net: pytest.fail("it is measured already"))
    stopper = _EarlyStopping(folder, measure, FinetuneConfig())
    stopper.started(random_tiny, None, [], 400)
    assert stopper.last_step == 400


def test_a_checkpoint_that_was_not_measured_is_measured_on_resuming(random_tiny, tmp_path):
    scores = iter([10.0, 30.0])
    measure = SimpleNamespace(project=lambda _net: next(scores))
    _EarlyStopping(TrainingFolder(tmp_path), measure, SHORT).stored(random_tiny, 2)
    resumed = _EarlyStopping(TrainingFolder(tmp_path), measure, SHORT)
    resumed.started(random_tiny, None, [], 4)  # the run was killed after storing step 4
    assert resumed.last_step == 4
    assert json.loads((tmp_path / "measured.json").read_text()) == {"2": 10.0, "4": 30.0}


def test_snapshots_that_cannot_be_used_are_errors(random_checkpoint, tmp_path):
    with pytest.raises(DataError, match="no photos"):
        _finetune(random_checkpoint, tmp_path, snapshot=Snapshot(Halves(), Halves(0)))
    with pytest.raises(ConfigError, match="different labels"):
        _finetune(random_checkpoint, tmp_path, snapshot=Snapshot(Halves(), Halves(2, labels=("a", "b"))))


def test_a_full_disk_while_measuring_is_an_error_that_names_the_folder(random_tiny, tmp_path):
    measure = SimpleNamespace(project=lambda _net: 10.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a full disk: the write itself fails
    try:
        with pytest.raises(TrainingError, match=f"{tmp_path} cannot be written to .*: make room"):
            _EarlyStopping(TrainingFolder(tmp_path), measure, SHORT).stored(random_tiny, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
