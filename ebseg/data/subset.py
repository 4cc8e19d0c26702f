"""Parts of a folder of photos, chosen by their names so that a photo always falls to the same part."""

import hashlib
import json
from dataclasses import dataclass

from ebseg.data.folder import FolderSource
from ebseg.data.samples import Sample
from ebseg.file_names import one_form
from ebseg.vocabulary import Vocabulary


@dataclass(frozen=True)
class Subset:
    """Some photos of a folder, a Source itself. ``name`` is what people know the part by."""

    source: FolderSource
    indices: tuple[int, ...]
    name: str

    @property
    def vocabulary(self) -> Vocabulary:
        """What the label maps' numbers mean."""
        return self.source.vocabulary

    def __len__(self) -> int:
        """How many photos there are."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        """Read one. Raises what the whole source raises."""
        return self.source[self.indices[index]]

    def fingerprint(self) -> str:
        """Name the content: the whole source's and which photos of it are in this part."""
        return hashlib.sha256(json.dumps([self.source.fingerprint(), self.indices]).encode()).hexdigest()


def sample_of(source: FolderSource, count: int) -> Subset:
    """Choose ``count`` photos by the hash of their names; a larger sample contains the smaller ones."""
    order = sorted(range(len(source)), key=lambda index: _hash("sample", source.names[index]))
    return Subset(source, tuple(sorted(order[:count])), f"{min(count, len(source))} photos of {source.name}")


def hold_out(part: Subset, share: float) -> tuple[Subset, Subset]:
    """Split into photos to train on and about a ``share`` of them held out, by the hash of their names.

    A photo stays held out whatever other photos are added, but where the hash leaves a half without photos:
    it gets the nearest one.
    """
    hashes = {index: _hash("held out", part.source.names[index]) for index in part.indices}
    apart = {index: value < share for index, value in hashes.items()}
    if len(apart) > 1 and len(set(apart.values())) == 1:
        lonely = min(hashes, key=lambda index: abs(hashes[index] - share))
        apart[lonely] = not apart[lonely]
    kept, held = (tuple(index for index, out in apart.items() if out == wanted) for wanted in (False, True))
    return Subset(part.source, kept, f"{part.name}, training"), Subset(
        part.source, held, f"{part.name}, held out"
    )


def _hash(salt: str, name: str) -> float:
    """Give a number in 0..1 that depends on the name alone, whatever its Unicode form."""
    digest = hashlib.sha256(f"{salt}\0{one_form(name)}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
