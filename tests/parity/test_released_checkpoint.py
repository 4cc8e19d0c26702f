"""A released checkpoint, as the authors' framework writes it, from a server that plays the hub."""

import hashlib
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from ebseg.checkpoint import load_official
from ebseg.errors import CheckpointError
from ebseg.model_names import OFFICIAL_FILES, OFFICIAL_REPOSITORY
from ebseg.official import to_official
from ebseg.predictor import resize_shortest_edge

COMMIT = "0123456789012345678901234567890123456789"

# Loads "ebseg-base" by its name in a process of its own, as huggingface_hub reads its settings once,
# and saves what it makes of the golden photo.
SCRIPT = """
import sys
import numpy as np, torch, ebseg
from ebseg.vocabulary import Vocabulary
predictor = ebseg.load("ebseg-base", device="cpu")
image = torch.from_numpy(np.load(sys.argv[1])).float()
scores = predictor.net.segment(image, Vocabulary.from_dataset("pascal-context-59"), (480, 640))
np.save(sys.argv[2], scores[:, ::16, ::16].numpy())
"""


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that a download of one file needs."""

    def __init__(self, *arguments: object, file: Path, digest: str) -> None:
        self.file, self.digest = file, digest
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.answer():
            with self.file.open("rb") as file:
                while part := file.read(2**20):
                    self.wfile.write(part)

    def answer(self) -> bool:
        found = self.path == f"/{OFFICIAL_REPOSITORY}/resolve/main/{self.file.name}"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(self.file.stat().st_size if found else 0))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.digest}"')
        self.end_headers()
        return found

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def released_file(base_state, tmp_path_factory) -> Path:
    """A full-size file with what detectron2 puts beside the model."""
    path = tmp_path_factory.mktemp("hub") / OFFICIAL_FILES["ebseg-base"]
    beside = {
        "iteration": 119999,
        "matching_heuristics": True,
        "scheduler": {"base_lrs": [np.float64(1e-4)], "last_epoch": np.int64(120000)},
        "best": {"mIoU": np.float32(30.0), "per_class": np.arange(3.0)},
    }
    torch.save({"model": base_state, **beside}, path)
    return path


@pytest.fixture(scope="module")
def hub(released_file) -> Iterator[str]:
    digest = hashlib.sha256(released_file.name.encode()).hexdigest()
    handler = partial(Hub, file=released_file, digest=digest)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _run(endpoint: str, cache: Path, *arguments: str) -> tuple[int, str]:
    """Run Python in a terminal of its own: its exit status and what the terminal shows."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "EBSEG_CACHE_DIR": str(cache / "text"),
    }
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    with subprocess.Popen([sys.executable, *arguments], env=environment, stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        with open(terminal, "rb", buffering=0) as output, suppress(OSError):  # how a terminal says "closed"
            while part := output.read(4096):
                shown += part
        return process.wait(timeout=60), shown.decode()


def test_downloaded_by_name_it_gives_the_golden_scores(hub, tmp_path, inputs, golden_arrays, golden_json):
    golden = golden_arrays("golden_b_s1234_b_pcontext_sem_seg_val")
    photo = resize_shortest_edge(inputs.image_u8(480, 640, 1), 640, 2560).transpose(2, 0, 1)
    np.save(tmp_path / "photo.npy", photo)
    status, shown = _run(
        hub, tmp_path, "-c", SCRIPT, str(tmp_path / "photo.npy"), str(tmp_path / "scores.npy")
    )
    assert status == 0, shown
    assert OFFICIAL_FILES["ebseg-base"] in shown and "100%" in shown  # the progress bar

    floor, span = golden_json("noise_floor_b.json")["b"]["sem_seg_s16"]
    error = np.abs(np.load(tmp_path / "scores.npy") - golden["sem_seg_s16"]).max()
    assert error <= 30 * max(floor, 1e-7 * span)
    cached = list(tmp_path.glob(f"hub/models--*/snapshots/{COMMIT}/{OFFICIAL_FILES['ebseg-base']}"))
    assert len(cached) == 1


def test_offline_the_message_says_what_to_do(tmp_path):
    photo = tmp_path / "photo.png"
    photo.touch()
    arguments = ("predict", str(photo), "--labels", "sky,road", "--model", "ebseg-base")
    command = "from ebseg.cli import main; main()"
    status, shown = _run("http://127.0.0.1:9", tmp_path, "-c", command, *arguments)
    assert status == 1
    assert "ebseg-base could not be downloaded" in shown
    assert "HF_ENDPOINT" in shown
    assert "Traceback" not in shown


def test_both_variants_have_the_released_names_and_shapes(base_net, large_net, golden_json):
    for net, keys in ((base_net, "keys_base.json"), (large_net, "keys_large.json")):
        released = golden_json(keys)["keys"]
        assert {name: list(tensor.shape) for name, tensor in to_official(net).items()} == released


def test_the_way_back_round_trips(base_net, base_state):
    returned = to_official(base_net)
    buffers = {"criterion.empty_weight", "ov_classifier.attn_mask"}
    for name, tensor in base_state.items():
        assert name in buffers or torch.equal(returned[name], tensor), name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("backbone.pos_embed"), "1 missing: backbone.pos_embed"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 left over: extra"),
        (
            lambda state: state.update({"ov_classifier.bg_embed": torch.zeros(1, 4)}),
            r"1 misshapen: ov_classifier.bg_embed is \(1, 4\) and should be \(1, 512\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(base_net, base_state, change, complaint):
    state = dict(base_state)
    change(state)
    before = base_net.text.background.clone()
    with pytest.raises(CheckpointError, match=complaint):
        load_official(base_net, state)
    assert torch.equal(base_net.text.background, before)
