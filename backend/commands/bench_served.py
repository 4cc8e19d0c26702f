"""What `ebseg bench` measures the service with: a service of its own, and drawn photos that it fetches."""

import http.client
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from backend.processes import ServerProcess, free_port
from ebseg.children import environment, python
from ebseg.config import find_variant
from ebseg.data.drawn.synthetic import PHRASES, draw_scene
from ebseg.label_studio.kinds import Kind
from ebseg.progress import doing
from ebseg.vocabulary import Vocabulary

SCENE_SIZE = (360, 480)
"""Height and width of a drawn photo, in pixels."""

LABELS = 8
JPEG_QUALITY = 95
RANDOM_WEIGHTS = "random.safetensors"
LOG = "service.log"
MODEL_SECONDS = 600.0


def label_config(kind: Kind) -> str:
    """Write a label config with one control, of this kind."""
    labels = "".join(f'<Label value="{phrase}"/>' for phrase in PHRASES[:LABELS])
    return (
        f'<View><Image name="image" value="$image"/>'
        f'<{kind.labels_tag} name="mask" toName="image">{labels}</{kind.labels_tag}></View>'
    )


def random_weights(variant: str, folder: Path) -> str:
    """Write a model of random weights; give its path."""
    config = find_variant(variant)
    from ebseg.timing import write_random_model  # PyTorch is slow to import

    write_random_model(folder / RANDOM_WEIGHTS, config, Vocabulary(PHRASES[:LABELS]))
    return str(folder / RANDOM_WEIGHTS)


def draw(folder: Path, numbers: Iterable[int], size: tuple[int, int]) -> list[Path]:
    """Draw scenes of (height, width) pixels into files of a folder; the same for equal numbers."""
    files = [folder / f"{number}.jpg" for number in numbers]
    for file in files:
        scene = Image.fromarray(draw_scene(1, int(file.stem), size=SCENE_SIZE).image)
        scene.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(file, quality=JPEG_QUALITY)
    return files


@dataclass(frozen=True)
class Service:
    """A service that is ready. ``address``, ``files``: host:port of it, and of who serves the folder."""

    address: str
    files: str
    process: ServerProcess

    def photo(self, file: Path) -> str:
        """Give the address at which it fetches a file of the folder."""
        return f"http://{self.files}/{file.name}"


@contextmanager
def served(model: str, folder: Path) -> Iterator[Service]:
    """Serve a folder and, in a process of its own, the model."""
    media = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=media.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{media.server_port}"
    address = f"127.0.0.1:{free_port()}"
    process = ServerProcess("The service", f"http://{address}", folder / LOG)
    variables = environment(
        EBSEG_MODEL=model,
        EBSEG_HOST="127.0.0.1",
        EBSEG_PORT=address.partition(":")[2],
        EBSEG_ALLOWED_HOSTS=host,
        EBSEG_HOME=str(folder / "home"),  # its jobs and its registry are nobody's
    )
    try:
        with process.running(python("-m", "ebseg", "serve"), variables):
            with doing("Loading the model"):
                process.wait_until_ready("/ready", MODEL_SECONDS)
            yield Service(address, host, process)
    finally:
        media.shutdown()
        media.server_close()


def call(address: str, method: str, path: str, body: Any) -> bytes:
    """Call as Label Studio does: a connection for each call."""
    connection = http.client.HTTPConnection(address, timeout=100)
    try:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path} answered {response.status} {response.reason}")
    return content


class _Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    def log_message(self, *_arguments: object) -> None:
        pass
