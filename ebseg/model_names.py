"""From a model's name to its checkpoint's path."""

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path

from huggingface_hub import hf_hub_download

from ebseg.errors import CheckpointError, ConfigError

OFFICIAL_REPOSITORY = "slonetime/EBSeg"
OFFICIAL_FILES = {"ebseg-base": "EBSeg_base.pth", "ebseg-large": "EBSeg_large.pth"}

PACKAGED = "ebseg-tiny"
"""The model whose weights ship inside this package."""

PLUGIN_GROUP = "ebseg.models"
"""Entry points that resolve further names. An entry point's name is a scheme ("models" for
"models:/NAME@champion"), its object a function from the whole name to a checkpoint's path."""

Resolver = Callable[[str], Path]


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


def download_official(name: str) -> Path:
    """Download a released checkpoint once, into huggingface_hub's cache, and return its path.

    Raises CheckpointError where the hub cannot be reached and the file is not in the cache.
    """
    filename = OFFICIAL_FILES[name]
    try:
        return Path(hf_hub_download(OFFICIAL_REPOSITORY, filename))
    except OSError as error:  # the hub's own errors are OSErrors, offline or not
        raise CheckpointError(
            f"{name} could not be downloaded ({filename} of {OFFICIAL_REPOSITORY}): {error}. Check the "
            "connection or set HF_ENDPOINT to a mirror; or fetch it elsewhere and give its path as model."
        ) from error
