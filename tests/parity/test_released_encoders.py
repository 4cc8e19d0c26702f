"""CLIP's and segment-anything's released weights, by the real download code from a server on this machine."""

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from torch import Tensor

COMMIT = "0123456789012345678901234567890123456789"
CLIP_PATH = "/timm/vit_base_patch16_clip_224.openai/resolve/main/open_clip_model.safetensors"

# Runs in a process of its own, as huggingface_hub reads its settings once. Writes a digest of each tensor
# before and after.
SCRIPT = """
import hashlib, json, sys
import torch
import ebseg.encoders
from ebseg.config import BASE
from ebseg.model import EBSeg

def digests(net):
    tensors = {name: p.detach().contiguous().numpy() for name, p in net.named_parameters()}
    return {name: hashlib.sha256(tensor.data).hexdigest() for name, tensor in tensors.items()}

ebseg.encoders.SAM_URL = sys.argv[1]
net = EBSeg(BASE)
before = digests(net)
try:
    ebseg.encoders.load_encoders(net, None)
except ebseg.errors.CheckpointError as error:
    sys.exit(f"ebseg: {' '.join(str(error).split())}")
with open(sys.argv[2], "w") as file:
    json.dump([before, digests(net)], file)
"""

# The download alone, which needs no model: seconds for each way in which it can fail.
SAM_SCRIPT = """
import sys
import ebseg.encoders
ebseg.encoders.SAM_URL = sys.argv[1]
try:
    print(len(ebseg.encoders._released_sam()), "tensors")
except ebseg.errors.CheckpointError as error:
    sys.exit(f"ebseg: {' '.join(str(error).split())}")
"""


class Files(BaseHTTPRequestHandler):
    """Serves files by their paths, with the headers that the hub adds; breaks off in the middle of some."""

    def __init__(self, *arguments: Any, files: dict[str, Path], cut: set[str], asked: list[str]) -> None:
        self.files, self.cut, self.asked = files, cut, asked
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):  # the hub's client asks for more than files
            self.asked.append(self.path)
        file = self.answer()
        if file is None:
            return
        left = file.stat().st_size // (2 if self.path in self.cut else 1)
        with file.open("rb") as content, suppress(ConnectionError):
            while left > 0 and (part := content.read(min(left, 2**20))):
                self.wfile.write(part)
                left -= len(part)

    def answer(self) -> Path | None:
        file = self.files.get(self.path)
        self.send_response(200 if file else 404)
        self.send_header("Content-Length", str(file.stat().st_size if file else 0))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        self.end_headers()
        return file

    def log_message(self, *_arguments: object) -> None:
        pass


class Server:
    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        handler = partial(Files, files=self.files, cut=self.cut, asked=self.asked)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    shutil.rmtree(tmp_path)  # pytest would keep what was downloaded, gigabytes, for three runs


def _random(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill with numbers that are nowhere equal: initial weights have zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def _digests(state: dict[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().data).hexdigest() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """OpenCLIP's own model under its own names: the file and its tensors' digests."""
    state = _random(open_clip.create_model("ViT-B-16", force_quick_gelu=True).state_dict())
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file(state, path)
    return path, _digests(state)


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """segment-anything's whole ViT-B, prompt encoder, mask decoder and neck too."""
    state = _random(sam_model_registry["vit_b"]().state_dict())
    return _saved(state, tmp_path_factory.mktemp("sam")), _digests(state)


@pytest.fixture(scope="module")
def one_tensor(tmp_path_factory) -> Path:
    """A file of 12 MB, which is downloaded in the same way: no download looks at the tensors."""
    positions = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}
    return _saved(_random(positions), tmp_path_factory.mktemp("one"))


def _saved(state: dict[str, Tensor], folder: Path) -> Path:
    """Save it under a name that ends in its content's hash."""
    path = folder / "sam.pth"
    torch.save(state, path)
    with path.open("rb") as file:
        start = hashlib.file_digest(file, "sha256").hexdigest()[:6]
    return path.rename(path.with_name(f"sam_vit_b_{start}.pth"))


def _environment(endpoint: str, cache: Path) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "TORCH_HOME": str(cache / "torch"),
    }


def _run(endpoint: str, cache: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = _environment(endpoint, cache)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def _in_torchs_cache(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "torch/hub/checkpoints").iterdir() if path.suffix != ".lock")


def _served_name(name: str) -> str | None:
    """The name under which a parameter of ours is released; None for what a run trains from nothing."""
    if name == "text.logit_scale":
        return "logit_scale"
    for ours, theirs in (("clip.tower.", "visual."), ("text.tower.", ""), ("sam.encoder.", "image_encoder.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


def test_every_tensor_is_what_was_served_and_each_file_is_asked_for_once(server, clip, sam, tmp_path):
    server.files |= {CLIP_PATH: clip[0], f"/{sam[0].name}": sam[0]}
    for start in range(2):
        done = _run(server.url, tmp_path, SCRIPT, f"{server.url}/{sam[0].name}", tmp_path / "digests.json")
        assert done.returncode == 0, done.stderr
        before, after = json.loads((tmp_path / "digests.json").read_text())
        served = clip[1] | sam[1]
        used = set()
        for name, digest in after.items():
            source = _served_name(name)
            assert digest == (before[name] if source is None else served[source]), name
            used.add(source)
        beside = {name for name in sam[1] if not name.startswith("image_encoder.") or ".neck." in name}
        assert served.keys() - used == beside
        assert server.asked == [CLIP_PATH, f"/{sam[0].name}"], f"start {start}"
    assert _in_torchs_cache(tmp_path) == [sam[0].name]

    # The hub's cache keeps content apart from names: the file to delete is the one that the message names.
    (cached,) = (tmp_path / "hf").glob(f"hub/models--*/snapshots/{COMMIT}/*.safetensors")
    content = cached.resolve()
    content.write_bytes(content.read_bytes()[: 2**20])
    done = _run(server.url, tmp_path, SCRIPT, f"{server.url}/{sam[0].name}", tmp_path / "digests.json")
    assert done.returncode == 1
    assert f"ebseg: {content} is damaged" in done.stderr and "delete it and start again" in done.stderr
    content.unlink()
    done = _run(server.url, tmp_path, SCRIPT, f"{server.url}/{sam[0].name}", tmp_path / "digests.json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cut", [False, True], ids=["wrong content", "cut short"])
def test_a_bad_download_of_segment_anything_is_not_kept(server, one_tensor, tmp_path, cut):
    served = tmp_path / "served.pth"
    served.write_bytes(os.urandom(3 * 2**20))
    path = f"/{one_tensor.name}"
    server.files[path] = served
    if cut:
        server.files[path] = one_tensor
        server.cut.add(path)
    done = _run(server.url, tmp_path, SAM_SCRIPT, server.url + path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ebseg: segment-anything's weights could not be downloaded (invalid hash value")
    assert f"fetch {server.url}{path} elsewhere and put it at {tmp_path}" in line
    assert _in_torchs_cache(tmp_path) == []

    server.files[path] = one_tensor
    server.cut.clear()
    done = _run(server.url, tmp_path, SAM_SCRIPT, server.url + path)
    assert done.returncode == 0, done.stderr


def test_a_damaged_file_of_segment_anything_is_named(server, one_tensor, tmp_path):
    cached = tmp_path / "torch/hub/checkpoints" / one_tensor.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(one_tensor.read_bytes()[:1000])
    done = _run(server.url, tmp_path, SAM_SCRIPT, f"{server.url}/{one_tensor.name}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ebseg: {cached} is damaged") and line.endswith("delete it and start again")
    assert server.asked == []


def test_a_killed_download_leaves_nothing_that_would_be_taken_for_good(server, one_tensor, tmp_path):
    path = f"/{one_tensor.name}"
    server.files[path] = endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(2**40)  # a file without blocks: the download cannot end before it is killed
    command = [sys.executable, "-c", SAM_SCRIPT, server.url + path]
    process = subprocess.Popen(command, env=_environment(server.url, tmp_path))
    folder = tmp_path / "torch/hub/checkpoints"
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in folder.glob("*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert one_tensor.name not in _in_torchs_cache(tmp_path)
    server.files[path] = one_tensor
    done = _run(server.url, tmp_path, SAM_SCRIPT, server.url + path)
    assert done.returncode == 0, done.stderr


def test_processes_of_one_run_download_once(server, one_tensor, tmp_path):
    path = f"/{one_tensor.name}"
    server.files[path] = one_tensor
    command = [sys.executable, "-c", SAM_SCRIPT, server.url + path]
    environment = _environment(server.url, tmp_path)
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert server.asked == [path]


def test_a_terminal_shows_the_progress(server, one_tensor, tmp_path):
    path = f"/{one_tensor.name}"
    server.files[path] = one_tensor
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    command = [sys.executable, "-c", SAM_SCRIPT, server.url + path]
    with subprocess.Popen(command, env=_environment(server.url, tmp_path), stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        with open(terminal, "rb", buffering=0) as output, suppress(OSError):  # how a terminal says "closed"
            while part := output.read(4096):
                shown += part
        assert process.wait(timeout=60) == 0, shown
    assert f"downloading {one_tensor.name}" in shown.decode() and "100%" in shown.decode()


def test_offline_the_message_says_what_to_do(tmp_path):
    nobody = "http://127.0.0.1:9"
    done = _run(nobody, tmp_path, SCRIPT, f"{nobody}/sam_vit_b_000000.pth", tmp_path / "digests.json")
    assert done.returncode == 1
    *tries, line = done.stderr.splitlines()
    assert line.startswith(
        "ebseg: CLIP ViT-B-16 could not be downloaded (open_clip_model.safetensors of timm/"
    )
    assert line.endswith("Check the connection or set HF_ENDPOINT to a mirror")
    # The hub's client waits and says so, for 23 seconds in all.
    assert all("Connection refused" in text or "Retrying" in text for text in tries)

    done = _run(nobody, tmp_path, SAM_SCRIPT, f"{nobody}/sam_vit_b_000000.pth")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("ebseg: segment-anything's weights could not be downl")
    assert _in_torchs_cache(tmp_path) == []
