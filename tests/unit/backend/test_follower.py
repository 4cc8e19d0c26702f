"""Following the champion: which model is loaded first, which replaces it, and what a broken one costs."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend import follower as follower_module
from backend.follower import ChampionFollower, registry_champions
from backend.metrics import Metrics, Swap
from backend.model_holder import ModelHolder
from ebseg.checkpoint import save_checkpoint
from ebseg.errors import CheckpointError, ConfigError
from tests.unit.backend.conftest import label_config, named, predict, results, task, until, upload
from tests.unit.backend.test_swap import Versioned, service_of
from training.settings import Settings


@dataclass(frozen=True)
class Ref:
    name: str

    def checkpoint(self) -> Path:
        return Path(self.name)


class Registry:
    """Names a champion; raises ``error`` instead while there is one."""

    def __init__(self, champion: str | None = None) -> None:
        self.champion, self.error = champion, None
        self.asked = 0

    def __call__(self) -> dict[int | None, Ref]:
        self.asked += 1
        if self.error:
            raise self.error
        return {None: Ref(self.champion)} if self.champion else {}


class Loader:
    """Makes models of checkpoints, but not of those in ``broken``; notes what it was asked for."""

    def __init__(self, *broken: str) -> None:
        self.broken, self.loaded = set(broken), []

    def __call__(self, checkpoint: Path) -> Versioned:
        self.loaded.append(str(checkpoint))
        if str(checkpoint) in self.broken:
            raise CheckpointError(f"{checkpoint} is damaged")
        return Versioned(str(checkpoint))


def follower(registry, load) -> ChampionFollower:
    return ChampionFollower(registry, load, Metrics(), seconds=60, most=2)


def served(version: str = "base") -> ModelHolder:
    holder = ModelHolder(lambda: Versioned(version), "name")
    holder.start()
    until(lambda: holder.ready, "the model loads")
    return holder


def swaps(followed: ChampionFollower) -> tuple[int, int]:
    registry = followed._metrics.registry
    done, failed = (
        registry.get_sample_value("ebseg_model_swaps_total", {"outcome": outcome}) for outcome in Swap
    )
    return done, failed


# What is loaded first


def test_the_champion_is_loaded_instead_of_the_settings_model():
    load = Loader()
    assert follower(Registry("v1"), load).first_model(lambda: 1 / 0).version == "v1"
    assert load.loaded == ["v1"]


@pytest.mark.parametrize("registry", [Registry(), Registry("broken")], ids=["no champion", "a broken one"])
def test_without_a_champion_that_works_the_settings_model_is_loaded(registry):
    followed = follower(registry, Loader("broken"))
    assert followed.first_model(lambda: Versioned("base")).version == "base"
    assert followed.outage is None


def test_a_first_champion_that_fails_is_told_and_not_tried_again():
    load = Loader("broken")
    followed = follower(Registry("broken"), load)
    followed.first_model(lambda: Versioned("base"))
    followed.look(served())
    assert load.loaded == ["broken"]
    assert followed.failed.name == "broken"
    assert swaps(followed) == (0, 1)


def test_a_first_champion_that_does_not_predict_is_not_served():
    followed = follower(Registry("v1"), lambda checkpoint: Versioned("v1", lambda image: 1 / 0))
    assert followed.first_model(lambda: Versioned("base")).version == "base"


def test_a_registry_that_is_away_does_not_keep_the_service_from_starting(caplog):
    registry = Registry("v1")
    registry.error = ConfigError("MLflow is away")
    followed = follower(registry, Loader())
    assert followed.first_model(lambda: Versioned("base")).version == "base"
    assert followed.outage == "MLflow is away"
    assert "MLflow is away" in caplog.text


def test_a_registry_that_lost_its_champion_is_told_once_and_the_champion_served(caplog):
    registry, holder = Registry("v1"), served()
    followed = follower(registry, Loader())
    followed.look(holder)
    registry.champion = None
    for _ in range(2):
        followed.look(holder)
    assert holder.version == followed.champion == "v1"
    assert followed.outage.startswith("the registry has no champion any more, it was v1: restore MLflow")
    assert caplog.text.count("it was v1") == 1
    registry.champion = "v2"
    followed.look(holder)
    assert (holder.version, followed.outage) == ("v2", None)


def test_a_registry_that_does_not_answer_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(follower_module, "FIRST_ANSWER_SECONDS", 0.05)
    silent = threading.Event()
    followed = follower(lambda: silent.wait(20) and {}, Loader())
    assert followed.first_model(lambda: Versioned("base")).version == "base"
    silent.set()
    assert "did not answer" in caplog.text


# What replaces it


def test_the_champion_is_served_once_and_a_rollback_serves_the_first_again():
    registry, load, holder = Registry(), Loader(), served("base")
    followed = follower(registry, load)
    told = []
    for champion in (None, "base", "v1", "v1", "base", "v1", None):
        registry.champion = champion
        followed.look(holder)
        told.append((holder.version, followed.champion))
    assert told == [
        ("base", None),
        ("base", "base"),
        ("v1", "v1"),
        ("v1", "v1"),
        ("base", "base"),
        ("v1", "v1"),
        ("v1", "v1"),
    ]
    assert load.loaded == ["v1", "base", "v1"]
    assert swaps(followed) == (3, 0)


def test_a_champion_whose_model_calls_itself_otherwise_is_loaded_once():
    loaded = []
    followed = follower(Registry("v1"), lambda checkpoint: loaded.append(1) or Versioned("another name"))
    holder = served()
    for _ in range(3):
        followed.look(holder)
    assert (holder.version, loaded) == ("another name", [1])


def test_a_broken_champion_leaves_what_serves_and_is_not_tried_at_every_look(caplog):
    registry, load, holder = Registry("broken"), Loader("broken"), served()
    followed = follower(registry, load)
    for _ in range(3):
        followed.look(holder)
    assert (holder.version, load.loaded, swaps(followed)) == ("base", ["broken"], (0, 1))
    assert followed.failed.reason == "the model broken could not be loaded: broken is damaged"
    assert caplog.text.count("broken is damaged") == 1


def test_a_broken_champion_is_tried_again_after_some_minutes(monkeypatch):
    monkeypatch.setattr(follower_module, "RETRY_SECONDS", 0.0)
    load, holder = Loader("mended"), served()
    followed = follower(Registry("mended"), load)
    followed.look(holder)
    load.broken.clear()
    followed.look(holder)
    assert (holder.version, swaps(followed)) == ("mended", (1, 1))
    assert followed.failed.name == "mended"


def test_a_broken_champion_is_tried_again_when_it_becomes_the_champion_again():
    registry, load, holder = Registry("broken"), Loader("broken"), served()
    followed = follower(registry, load)
    followed.look(holder)
    registry.champion = "v1"
    followed.look(holder)
    registry.champion = "broken"
    followed.look(holder)
    assert load.loaded == ["broken", "v1", "broken"]
    assert holder.version == "v1"


def test_a_project_that_went_back_to_the_base_is_served_by_that():
    champions, load, holder = {None: Ref("base"), 7: Ref("v7")}, Loader(), served("base")
    followed = follower(lambda: champions, load)
    followed.look(holder)
    before = followed.own.current(7, holder)
    followed.own.load_next(holder)
    assert (before.version, followed.own.champions().keys()) == ("v7", {7})
    champions[7] = Ref("base")
    followed.look(holder)
    assert followed.own.current(7, holder) is holder.current()
    assert load.loaded == ["v7"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigError("MLflow is away"), "MLflow is away"),
        (OSError("http://user:password@host"), "OSError, see the service's log"),
    ],
)
def test_an_outage_of_the_registry_is_told_once_and_its_end_too(caplog, error, reason):
    registry, holder = Registry("v1"), served()
    registry.error = error
    followed = follower(registry, Loader())
    with caplog.at_level(logging.INFO, "backend.follower"):
        for _ in range(3):
            followed.look(holder)
        assert (holder.version, followed.outage) == ("base", reason)
        registry.error = None
        followed.look(holder)
        followed.look(holder)
    assert (holder.version, followed.outage) == ("v1", None)
    told = [record.getMessage() for record in caplog.records if record.name == "backend.follower"]
    assert told == [
        f"the registry cannot be asked for its champion: {reason}",
        "the registry answers again",
    ]


def test_nothing_is_asked_while_the_first_model_is_being_loaded_nor_after_the_end(monkeypatch):
    registry, loading, looks = Registry("v1"), threading.Event(), []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(follower_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    holder = ModelHolder(lambda: loading.wait(20) and Versioned("base"), "name")
    followed = ChampionFollower(registry, Loader(), Metrics(), seconds=0.005, most=2)
    holder.start()
    thread = followed.follow(holder)
    until(lambda: len(looks) >= 10, "it looks")
    assert registry.asked == 0
    loading.set()
    until(lambda: holder.version == "v1", "the champion is served")
    followed.stop()
    thread.join(20)
    assert not thread.is_alive()


# In the application


def test_the_application_serves_the_champion_and_shows_what_became_of_it(make_client, predictor, tmp_path):
    paths = {}
    for name in ("one", "two"):
        paths[name] = tmp_path / f"{name}.safetensors"
        save_checkpoint(predictor.net, paths[name], metadata={"version": name})
    paths["three"] = tmp_path / "three.safetensors"
    paths["three"].write_bytes(b"no checkpoint")
    names = ["one"]

    class File(Ref):
        def checkpoint(self) -> Path:
            return paths[self.name]

    client = make_client(champions=lambda: {None: File(names[-1])}, follow_seconds=0.01)
    assert client.get("/versions").json == {"versions": ["one"]}
    names.append("two")
    until(lambda: client.get("/ready").json == {"status": "ready", "model_version": "two"}, "the swap")
    [answer] = results(predict(client, [task(1, upload(0))]))
    assert answer["model_version"] == named("two")
    names.append("three")
    until(lambda: service_of(client).follower.failed, "the failed swap")
    page = client.get("/").get_data(as_text=True)
    for row in ("Version</th><td>two", "three could not be loaded: ", "three.safetensors cannot be read"):
        assert row in page
    metrics = client.get("/metrics").get_data(as_text=True).splitlines()
    for line in (
        'ebseg_model_swaps_total{outcome="done"} 1.0',
        'ebseg_model_swaps_total{outcome="failed"} 1.0',
    ):
        assert line in metrics
    assert client.post("/setup", json={"schema": label_config()}).json == {"model_version": named("two")}
    service_of(client).stop()


def test_no_champion_is_followed_where_the_settings_say_so(make_client):
    client = make_client(champions=lambda: 1 / 0, follow=False)
    assert service_of(client).follower is None
    assert "Base of" not in client.get("/").get_data(as_text=True)


def test_looking_for_a_champion_makes_no_store(tmp_path):
    home = tmp_path / "home"
    assert registry_champions(Settings(home=home)) == {}
    assert not home.exists()
