"""From a model's name to a model that predicts."""

import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path

from ebseg.checkpoint import OFFICIAL_FILES, download_official, load_checkpoint, read_header
from ebseg.config import ModelConfig
from ebseg.errors import ConfigError
from ebseg.predictor import Predictor
from ebseg.text_cache import TextCache, default_folder

PACKAGED = "ebseg-tiny"
"""The model whose weights ship inside this package."""

PLUGIN_GROUP = "ebseg.models"
"""Entry points that resolve further names. An entry point's name is a scheme ("models" for
"models:/NAME@champion"), its object a function from the whole name to a checkpoint's path."""

Resolver = Callable[[str], Path]


def load(name: str | Path, *, device: str | None = None) -> Predictor:
    """Load a model by name, ready to predict.

    ``name``: "ebseg-tiny" (packaged), "ebseg-base" or "ebseg-large" (released weights, downloaded once), a
    checkpoint's path, or a name with a scheme that a plugin resolves. ``device`` as PyTorch names it; a GPU
    is taken where there is one unless told otherwise.

    Raises ConfigError for an unknown name or device, CheckpointError for weights that cannot be had or read.
    """
    path = checkpoint_path(str(name))
    net, metadata = load_checkpoint(path)
    version = _version(path, net.config, metadata)
    return Predictor(net, version=version, device=device, text_cache=TextCache(default_folder()))


def version_name(path: Path) -> str:
    """Tell the version that a checkpoint's predictions carry, without loading the model.

    Raises CheckpointError for a file that is missing, damaged or no checkpoint.
    """
    return _version(path, *read_header(path))


def checkpoint_path(name: str) -> Path:
    """Find a model's checkpoint, downloading it where necessary."""
    if name == PACKAGED:
        return Path(str(files("ebseg").joinpath("weights", f"{PACKAGED}.safetensors")))
    if name in OFFICIAL_FILES:
        return download_official(name)
    plugins = {plugin.name: plugin for plugin in entry_points(group=PLUGIN_GROUP)}
    scheme = re.match(r"([a-z][a-z0-9+.-]+):", name)
    if scheme and scheme[1] in plugins:
        return _resolver(plugins[scheme[1]])(name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = [PACKAGED, *OFFICIAL_FILES, *(f"{plugin}:..." for plugin in sorted(plugins))]
    raise ConfigError(f"no model named {name!r}, and no such file; known: {', '.join(known)}, or a file")


def _resolver(plugin: EntryPoint) -> Resolver:
    try:
        resolver: Resolver = plugin.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the plugin for {plugin.name}: names cannot be loaded ({error})") from error
    return resolver


def _version(path: Path, config: ModelConfig, metadata: Mapping[str, str]) -> str:
    return metadata.get("version") or f"ebseg-{config.name}-{_digest(path)}"


def _digest(path: Path) -> str:
    """Tell checkpoints of one kind apart by their content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
