"""The product as a wheel installs it, in a folder where the user has packages of the same names."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.processes import free_port
from tests.integration.training import test_finetune_run
from training.queue.embedded_redis import stop_embedded_redis
from training.queue.queues import QueueName, connect, find, submit
from training.registry.registry import Registry
from training.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("ebseg", "training", "backend")
SECONDS = 300
DESCRIPTION = """
labels = ["line", "rest"]
[train]
photos = "photos"
label_maps = "labels"
"""

here = test_finetune_run.here


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel, from a copy: a folder ``build`` beside the source would end up in it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source], check=True
    )
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def ebseg(wheel, tmp_path_factory) -> Path:
    """Install it beside what it depends on, which is taken from this environment; give the command."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Behind the wheel on the path; and .pth files in there, such as an editable installation's, do nothing.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/ebseg"


@pytest.fixture
def cwd(tmp_path) -> Path:
    """A folder with packages of the user's own that are called like ours."""
    for name in PACKAGES:
        (tmp_path / "cwd" / name).mkdir(parents=True)
        (tmp_path / "cwd" / name / "__init__.py").write_text(f"raise RuntimeError('the user has {name} too')")
    return tmp_path / "cwd"


@pytest.fixture
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    yield folder
    stop_embedded_redis(folder / "redis")


def _environment(**variables: object) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**inherited, "OMP_NUM_THREADS": "1", **{name: str(each) for name, each in variables.items()}}


def _run(command, cwd, **variables):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=_environment(**variables), timeout=SECONDS,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_wheel_holds_the_product_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert [name for name in names if name.startswith("training/tiny") or "test" in name.lower()] == []
    assert {"ebseg/weights/ebseg-tiny.safetensors", "backend/templates/status.html"} <= set(names)


def test_a_photo_is_labelled(ebseg, cwd, random_checkpoint):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(cwd / "photo.png")
    _run([ebseg, "predict", "photo.png", "--labels", "sky,road", "--model", random_checkpoint], cwd)
    assert (cwd / "ebseg-out/photo.png").exists()


def test_a_model_is_fine_tuned(ebseg, cwd, random_checkpoint):
    for folder, array in (
        ("photos", np.zeros((64, 64, 3), np.uint8)),
        ("labels", np.eye(64, dtype=np.uint8)),
    ):
        (cwd / folder).mkdir()
        for number in range(4):
            Image.fromarray(array).save(cwd / folder / f"{number}.png")
    (cwd / "street.toml").write_text(DESCRIPTION)
    options = ("--data", "street.toml", "--out", "out", "--steps", "1")
    told = _run([ebseg, "finetune", random_checkpoint, *options], cwd)
    assert "wrote out/model.safetensors after 1 steps" in told


def test_a_worker_trains_in_processes_of_a_launcher(ebseg, cwd, home, here):
    model = here.root / "base.safetensors"
    settings = Settings(home=home, model=str(model))
    base = Registry(settings).start_over()
    connection, arguments = connect(settings), [7, here.fingerprint, base.number]
    submit(
        connection,
        QueueName.TRAIN,
        "training.jobs.finetune_project",
        arguments,
        job_id="train-7",
        what="train",
    )
    told = _run(
        [ebseg, "worker", "--queue", "ebseg-train", "--burst"], cwd, EBSEG_HOME=home, EBSEG_MODEL=model,
        EBSEG_STORAGE=here.storage.url, EBSEG_FINETUNE_STEPS=1, EBSEG_MIN_HELD_OUT=2, EBSEG_TRAIN_PROCESSES=2,
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    found = find(connection, "train-7")
    assert found.is_finished, told + (home / "runs/train-7/output.log").read_text()
    assert "after 1 steps" in found.return_value()["outcome"]


def test_the_service_answers(ebseg, cwd, home, random_checkpoint):
    address = f"http://127.0.0.1:{(port := free_port())}"
    variables = _environment(EBSEG_HOME=home, EBSEG_MODEL=random_checkpoint, EBSEG_LEARN="false")
    with (cwd / "log").open("w") as log:
        server = subprocess.Popen(
            [ebseg, "serve", "--port", str(port)], cwd=cwd, env=variables, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + SECONDS
        while not _is_up(f"{address}/ready"):
            assert server.poll() is None and time.monotonic() < deadline, (cwd / "log").read_text()
            time.sleep(0.2)
        assert httpx.get(f"{address}/health").json() == {"status": "UP"}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False
