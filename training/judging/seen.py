"""Which photos a version was trained on: those cannot judge it."""

from training.annotations.manifest import load
from training.registry.registry import Registry
from training.registry.version import Version
from training.storage import Storage


def seen_photos(storage: Storage, registry: Registry, version: Version) -> set[str]:
    """Give the photos that a version, or one that it comes from, was trained on."""
    seen = set[str]()
    while "base" in version.tags:
        project, fingerprint = int(version.tags["project"]), version.tags["fingerprint"]
        seen |= {entry.photo for entry in load(storage, project, fingerprint).part("train")}
        version = registry.version(version.tags["base"])
    return seen
