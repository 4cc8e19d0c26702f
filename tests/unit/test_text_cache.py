import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ebseg.text_cache import NAMES_PER_CALL, TextCache, default_folder


class CountingEncoder:
    """Stands for a text tower: an embedding that depends on the name, and a list of what was asked."""

    def __init__(self, scale: float = 1.0) -> None:
        self.asked: list[str] = []
        self.scale = scale

    def __call__(self, names: list[str]) -> Tensor:
        self.asked += names
        return torch.tensor([[self.scale * len(name), *map(ord, name[:1]), 0.1] for name in names])


def test_embeddings_are_those_of_the_encoder_in_the_order_asked(tmp_path: Path) -> None:
    encode = CountingEncoder()
    embeddings = TextCache(tmp_path).embed(["road", "sky", "road"], encode, "w")
    assert embeddings.dtype == torch.float32
    assert torch.equal(embeddings, CountingEncoder()(["road", "sky", "road"]))
    assert encode.asked == ["road", "sky"]


def test_one_more_label_costs_one_label() -> None:
    cache, encode = TextCache(None), CountingEncoder()
    cache.embed(["sky", "road"], encode, "w")
    encode.asked.clear()
    embeddings = cache.embed(["road", "car", "sky"], encode, "w")
    assert encode.asked == ["car"]
    assert torch.equal(embeddings, CountingEncoder()(["road", "car", "sky"]))


def test_memory_is_bounded_and_what_is_dropped_is_encoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebseg.text_cache.MOST_KEPT", 10)
    cache, encode = TextCache(None), CountingEncoder()
    for number in range(30):
        cache.embed([f"{number} of a task"], encode, "w")
        assert len(cache._memory) <= 10
    names = [str(number) for number in range(25)]  # more at once than are kept
    assert torch.equal(cache.embed(names, encode, "w"), CountingEncoder()(names))


def test_disk_serves_the_next_process(tmp_path: Path) -> None:
    first = TextCache(tmp_path / "new" / "text").embed(["sky", "道路", "a/b:c\\*"], CountingEncoder(), "w")
    encode = CountingEncoder()
    second = TextCache(tmp_path / "new" / "text").embed(["sky", "道路", "a/b:c\\*"], encode, "w")
    assert encode.asked == []
    assert torch.equal(first, second)


def test_other_weights_have_other_embeddings(tmp_path: Path) -> None:
    TextCache(tmp_path).embed(["sky"], CountingEncoder(), "weights a")
    cache, encode = TextCache(tmp_path), CountingEncoder(scale=2.0)
    assert cache.embed(["sky"], encode, "weights b")[0, 0] == 6.0
    assert encode.asked == ["sky"]


def test_changed_templates_have_other_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TextCache(tmp_path).embed(["sky"], CountingEncoder(), "w")
    monkeypatch.setattr("ebseg.text_cache.TEMPLATES", ("a drawing of a {}.",))
    encode = CountingEncoder()
    TextCache(tmp_path).embed(["sky"], encode, "w")
    assert encode.asked == ["sky"]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 500], ids=["empty", "short", "wrong"])
def test_damaged_file_is_ignored_and_written_again(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    TextCache(tmp_path).embed(["sky"], CountingEncoder(), "w")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = path.read_bytes()
    path.write_bytes(damage)
    encode = CountingEncoder()
    embeddings = TextCache(tmp_path).embed(["sky"], encode, "w")
    assert encode.asked == ["sky"]
    assert torch.equal(embeddings, CountingEncoder()(["sky"]))
    assert path.read_bytes() == whole
    assert str(path) in caplog.text


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    TextCache(tmp_path).embed(["sky"], CountingEncoder(), "w")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    encode = CountingEncoder()
    TextCache(tmp_path).embed(["sky"], encode, "w")
    assert encode.asked == ["sky"]


def test_unwritable_folder_degrades_to_memory_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    cache, encode = TextCache(tmp_path / "file" / "text"), CountingEncoder()
    with caplog.at_level(logging.WARNING):
        cache.embed(["sky", "road"], encode, "w")
        cache.embed(["car", "sky"], encode, "w")
    assert encode.asked == ["sky", "road", "car"]
    assert len(caplog.records) == 1
    assert "in memory only" in caplog.text


def test_large_vocabularies_are_written_as_they_come(tmp_path: Path) -> None:
    names = [f"label {index}" for index in range(NAMES_PER_CALL + 6)]

    def interrupted(chunk: list[str]) -> Tensor:
        if len(chunk) < NAMES_PER_CALL:
            raise KeyboardInterrupt
        return CountingEncoder()(chunk)

    with pytest.raises(KeyboardInterrupt):
        TextCache(tmp_path).embed(names, interrupted, "w")
    encode = CountingEncoder()
    TextCache(tmp_path).embed(names, encode, "w")
    assert encode.asked == names[NAMES_PER_CALL:]


def test_threads_with_caches_of_their_own_share_a_folder(tmp_path: Path) -> None:
    names = [f"label {index}" for index in range(40)]
    expected = CountingEncoder()(names)

    def embed(_: int) -> Tensor:
        return TextCache(tmp_path).embed(names, CountingEncoder(), "w")

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(result, expected) for result in pool.map(embed, range(16)))
    assert not list(tmp_path.rglob("*.part"))


def test_embeddings_made_for_inference_can_be_trained_with() -> None:
    cache = TextCache(None)
    with torch.inference_mode():
        cache.embed(["sky"], CountingEncoder(), "w")
    weight = torch.ones(3, requires_grad=True)
    loss = (cache.embed(["sky"], CountingEncoder(), "w") * weight).sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert torch.equal(gradient, CountingEncoder()(["sky"])[0])


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"EBSEG_CACHE_DIR": "/data/cache", "XDG_CACHE_HOME": "/xdg"}, "/data/cache/text"),
        ({"EBSEG_CACHE_DIR": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/ebseg/text"),
    ],
)
def test_default_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(folder)
