import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

import ebseg
from ebseg import model_names
from ebseg.checkpoint import load_checkpoint, save_checkpoint, save_head
from ebseg.errors import CheckpointError, ConfigError
from ebseg.loading import load, version_name


def resolve_from_registry(name: str) -> Path:
    """Stand for a plugin's resolver: "registry:/PATH" is the checkpoint at PATH."""
    return Path(name.removeprefix("registry:"))


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [
        EntryPoint("registry", f"{__name__}:resolve_from_registry", "ebseg.models"),
        EntryPoint("broken", "ebseg.no_such_module:resolve", "ebseg.models"),
    ]
    monkeypatch.setattr(
        model_names, "entry_points", lambda group: installed if group == "ebseg.models" else []
    )


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_file_is_loaded_ready_to_predict(random_checkpoint: Path, as_type: type) -> None:
    model = ebseg.load(as_type(random_checkpoint), device="cpu")
    segmentation = model.predict(np.zeros((20, 30, 3), np.uint8), ["sky", "road"])
    assert segmentation.label_map.shape == (20, 30)
    assert model.config.name == "tiny"
    assert model.net.training_vocabulary is not None
    assert model.net.training_vocabulary.names == ("sky", "road")


def test_versions_tell_checkpoints_apart(random_checkpoint: Path, tmp_path: Path) -> None:
    net, _ = load_checkpoint(random_checkpoint)
    with torch.no_grad():
        net.text.background.add_(1)
    save_checkpoint(net, tmp_path / "other.safetensors")
    save_checkpoint(net, tmp_path / "named.safetensors", metadata={"version": "street-7"})
    first, other, named = (
        ebseg.load(path).version
        for path in (random_checkpoint, tmp_path / "other.safetensors", tmp_path / "named.safetensors")
    )
    assert first.startswith("ebseg-tiny-")
    assert other.startswith("ebseg-tiny-")
    assert first != other
    assert first == ebseg.load(random_checkpoint).version
    assert named == "street-7"


def test_models_beside_each_other_share_one_backbone(random_checkpoint: Path, tmp_path: Path) -> None:
    base = ebseg.load(random_checkpoint, device="cpu")
    net = base.net.with_own_head(base.config, base.net.training_vocabulary)
    with torch.no_grad():
        net.text.background.add_(1)
    head, whole, other = (tmp_path / f"{name}.safetensors" for name in ("head", "whole", "other"))
    save_head(net, head, backbone="ebseg-huge, which nobody needs to find")
    save_checkpoint(net, whole)
    for path in (head, whole):
        beside = load(path, device="cpu", beside=base)
        assert beside.net.backbone is base.net.backbone
        assert torch.equal(beside.net.text.background, net.text.background)
        assert beside.version == version_name(path) != base.version
    torch.nn.init.ones_(net.sam.encoder.patch_embed.proj.weight)  # the base's too: they share it
    save_checkpoint(net, other)
    base = ebseg.load(random_checkpoint, device="cpu")
    alone = load(other, device="cpu", beside=base)
    assert alone.net.backbone.digest != base.net.backbone.digest
    assert torch.equal(alone.net.sam.encoder.patch_embed.proj.weight, net.sam.encoder.patch_embed.proj.weight)


def test_text_embeddings_are_kept_on_disk(random_checkpoint: Path) -> None:
    ebseg.load(random_checkpoint).predict(np.zeros((20, 30, 3), np.uint8), ["sky", "road"])
    kept = Path(os.environ["EBSEG_CACHE_DIR"], "text").rglob("*")
    assert len([path for path in kept if path.is_file()]) == 2


@pytest.mark.usefixtures("plugins")
def test_plugins_resolve_names_of_their_scheme(random_checkpoint: Path) -> None:
    assert ebseg.load(f"registry:{random_checkpoint}").version == ebseg.load(random_checkpoint).version


@pytest.mark.usefixtures("plugins")
def test_broken_plugin_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plugin for broken: .*no_such_module"):
        ebseg.load("broken:/anything")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", ["ebseg-huge", "missing.safetensors", "unknown:/NAME", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    known = r"known: ebseg-tiny, ebseg-base, ebseg-large, broken:\.\.\., registry:\.\.\., or a file"
    with pytest.raises(ConfigError, match=rf"no model named '{name}', and no such file; {known}"):
        ebseg.load(name)


def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.safetensors"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(CheckpointError, match=r"photo\.safetensors"):
        ebseg.load(path)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import ebseg, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
