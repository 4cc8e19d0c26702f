"""Projects with their own champion: which model answers whom, what is kept, and what a broken one costs."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backend import own_models
from backend.metrics import Metrics
from backend.own_models import OwnModels
from ebseg.ask import Ask
from ebseg.checkpoint import save_checkpoint, save_head
from ebseg.vocabulary import Vocabulary
from tests.unit.backend.conftest import label_config, named, results, task, until, upload
from tests.unit.backend.test_follower import Loader, Ref, served
from tests.unit.backend.test_swap import masks, service_of

ASK = Ask(np.zeros((4, 4, 3), np.uint8), Vocabulary(["sky", "road"]))


class Projects:
    """Own models around a base called "base", whose loading is done when a test says so."""

    def __init__(self, *broken: str, most: int = 2) -> None:
        self.load, self.base = Loader(*broken), served("base")
        self.own = OwnModels(self.load, Metrics(), most)

    def have(self, **champions: str) -> None:
        self.own.take_up({int(project[1:]): Ref(name) for project, name in champions.items()})

    def ask(self, project: int) -> str:
        """Ask for a project's model, have it loaded if that is due, and give its version."""
        model = self.own.current(project, self.base)
        self.work()
        model.answer(ASK, timeout=10)
        return model.version

    def work(self) -> None:
        while not self.own._due.empty():
            self.own.load_next(self.base)

    def failed(self, project: int):
        return self.own.champions()[project].failed


def test_a_project_is_answered_by_its_champion_and_any_other_by_the_base():
    projects = Projects()
    assert projects.ask(7) == "base"
    projects.have(p7="v7", p8="v8")
    assert [projects.ask(project) for project in (7, 8, 9, 7, 8)] == ["v7", "v8", "base", "v7", "v8"]
    assert projects.own.current(None, projects.base) is projects.base.current()
    assert projects.load.loaded == ["v7", "v8"]
    projects.have(p8="v8")
    assert [projects.ask(7), projects.ask(8)] == ["base", "v8"]


def test_until_it_is_loaded_its_name_stands_for_the_version():
    projects = Projects()
    projects.have(p7="v7")
    model = projects.own.current(7, projects.base)
    assert (model.version, model.ready) == ("v7", False)
    assert projects.own.current(7, projects.base) is model, "it is loaded once"


def test_who_was_not_asked_longest_makes_way():
    projects = Projects(most=2)
    projects.have(p1="v1", p2="v2", p3="v3")
    for project in (1, 2, 1, 3):
        projects.ask(project)
    gone = weakref.ref(projects.own.current(1, projects.base).loaded.result())
    assert projects.load.loaded == ["v1", "v2", "v3"]
    assert [projects.ask(project) for project in (3, 2, 3)] == ["v3", "v2", "v3"]
    assert projects.load.loaded == ["v1", "v2", "v3", "v2"]
    gc.collect()
    assert gone() is None


def test_another_champion_takes_the_place_and_who_began_with_the_old_one_keeps_it():
    projects = Projects()
    projects.have(p7="v7", p8="v8")
    projects.ask(8)
    began = projects.own.current(7, projects.base)
    projects.work()
    projects.have(p7="v9", p8="v8")
    assert projects.own.current(7, projects.base) is began, "until the new one is loaded"
    projects.have(p7="v9", p8="v8")  # the next look, while that still takes a while
    projects.work()
    assert [projects.own.current(project, projects.base).version for project in (7, 8)] == ["v9", "v8"]
    assert began.version == "v7"
    assert projects.load.loaded == ["v8", "v7", "v9"]


def test_a_broken_champion_leaves_the_base_to_those_who_wait_too():
    projects = Projects("broken")
    projects.have(p7="broken", p8="v8")
    waiting = projects.own.current(7, projects.base)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(waiting.answer, ASK, 10)
        projects.work()
        answer.result(10)
    assert waiting.version == "base"
    assert [projects.ask(7), projects.ask(7), projects.ask(8)] == ["base", "base", "v8"]
    assert projects.load.loaded == ["broken", "v8"], "it is not tried at each request"
    assert projects.failed(7).reason == "the model broken could not be loaded: broken is damaged"
    assert projects.failed(8) is None


def test_a_broken_champion_leaves_what_was_served_last_also_when_that_made_way():
    projects = Projects("broken", most=1)
    projects.have(p7="v7", p8="v8")
    projects.ask(7)
    projects.have(p7="broken", p8="v8")
    projects.work()
    assert projects.ask(7) == "v7"
    assert [projects.ask(8), projects.ask(7)] == ["v8", "v7"]
    assert projects.load.loaded == ["v7", "broken", "v8", "v7"]


def test_a_broken_champion_is_tried_again_after_some_minutes_or_as_champion_again(monkeypatch):
    projects = Projects("broken", "other")
    projects.have(p7="v7")
    projects.ask(7)
    for name in ("broken", "other", "broken"):
        projects.have(p7=name)
        projects.work()
    assert projects.load.loaded == ["v7", "broken", "other", "broken"]
    monkeypatch.setattr(own_models, "RETRY_SECONDS", 0.0)
    projects.have(p7="v7")
    projects.have(p7="broken")
    projects.work()
    projects.load.broken.clear()
    projects.have(p7="broken")
    projects.work()
    assert projects.ask(7) == "broken" and projects.failed(7).name == "broken"


def test_a_file_that_is_gone_when_its_model_is_wanted_again_leaves_the_base():
    projects = Projects(most=1)
    projects.have(p7="v7", p8="v8")
    projects.ask(7)
    projects.ask(8)
    projects.load.broken.add("v7")
    assert [projects.ask(7), projects.ask(7)] == ["base", "base"]
    assert projects.load.loaded == ["v7", "v8", "v7"]


# In the application


@pytest.fixture
def heads(predictor, tmp_path):
    """Write a base and two heads of its, as the loop does; give the files by the versions."""
    files = {name: tmp_path / f"{name}.safetensors" for name in ("base", "one", "two")}
    save_checkpoint(predictor.net, files["base"], metadata={"version": "base"})
    for name, scale in (("one", -1.0), ("two", 0.5)):
        net = predictor.net.with_own_head(predictor.config, predictor.net.training_vocabulary)
        for parameter in net.mask_decoder.parameters():
            parameter.data.mul_(scale)
        save_head(net, files[name], backbone=str(files["base"]), metadata={"version": name})
    return files


class File(Ref):
    files: dict = {}

    def checkpoint(self):
        return self.files[self.name]


def ask_for(client, project, tasks):
    body = {"tasks": tasks, "project": f"{project}.17", "label_config": label_config()}
    return results(client.post("/predict", json=body))


def test_projects_that_ask_in_turn_get_what_each_model_says_alone(make_client, heads, monkeypatch):
    monkeypatch.setattr(File, "files", heads)
    tasks = [task(number, upload(number)) for number in range(2)]
    alone = {}
    for name in heads:
        client = make_client(champions=lambda name=name: {None: File(name)})
        alone[name] = ask_for(client, 1, tasks)
        assert {each["model_version"] for each in alone[name]} == {named(name)}
    assert len({str([each["result"] for each in found]) for found in alone.values()}) == 3
    client = make_client(champions=lambda: {None: File("base"), 7: File("one"), 8: File("two")})
    expected = {7: alone["one"], 8: alone["two"], 9: alone["base"]}

    def regions(found):
        return [[region["value"] for region in each["result"]] for each in found]

    def ask(number):
        project = 7 + number % 3
        found = ask_for(client, project, tasks)
        return project, regions(found), {each["model_version"] for each in found}

    with ThreadPoolExecutor(3) as pool:
        for project, found, versions in pool.map(ask, range(6)):
            assert found == regions(expected[project])
            assert versions == {each["model_version"] for each in expected[project]}
    served_by = {service_of(client).model.current(), *service_of(client).follower.own._models.values()}
    nets = [model.loaded.result()._predictor.net for model in served_by]
    assert len(nets) == 3 and len({id(net.backbone) for net in nets}) == 1, "one backbone in memory"
    assert client.get("/versions").json == {"versions": ["base", "one", "two"]}
    for project, version in ((7, "one"), ("8.17", "two"), (9, "base")):
        body = {"schema": label_config(), "project": project}
        assert client.post("/setup", json=body).json == {"model_version": named(version)}


def test_a_request_that_comes_before_the_registry_has_answered_is_its_champions(
    make_client, heads, monkeypatch
):
    monkeypatch.setattr(File, "files", heads)
    answered = threading.Event()

    def ask():
        assert answered.wait(20)
        return {None: File("base"), 7: File("one")}

    client = make_client(champions=ask, wait=False)
    with ThreadPoolExecutor() as pool:
        early = pool.submit(ask_for, client, 7, [task(1, upload(0))])
        until(lambda: service_of(client)._places._value < 12, "the request has begun")
        answered.set()
        [found] = early.result(20)
    assert found["model_version"] == named("one")


def test_the_page_names_projects_champions_and_why_one_is_not_served(make_client, heads, monkeypatch):
    monkeypatch.setattr(File, "files", {**heads, "bad": heads["base"].with_name("missing")})
    champions = {None: File("base"), 7: File("one"), 8: File("bad")}
    client = make_client(champions=lambda: champions)
    [found] = ask_for(client, 8, [task(1, upload(0))])
    assert found["model_version"] == named("base") and list(masks(found))
    page = client.get("/").get_data(as_text=True)
    assert "<th>7</th>\n      <td>one</td>" in page
    assert '<th>8</th>\n      <td>bad<p class="failed">the model bad could not be loaded: ' in page
    assert 'ebseg_model_swaps_total{outcome="failed"} 1.0' in client.get("/metrics").get_data(as_text=True)
