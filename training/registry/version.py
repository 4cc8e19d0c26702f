"""A version of the model, as the registry has it, and from which one it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ebseg.errors import ConfigError
from ebseg.label_studio.version import model_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Version:
    """A version of the model.

    ``name``: with which the version of its predictions begins. ``created``: ISO 8601, UTC. ``run_id``:
    MLflow's run with its file and its numbers. ``source``: where MLflow looks for its file.
    """

    number: int
    name: str
    aliases: tuple[str, ...]
    created: str
    run_id: str | None
    tags: Mapping[str, str]
    source: str

    def is_called(self, name: str) -> bool:
        """Tell whether that is its name, or its predictions carry that version."""
        return self.name in (name, model_of(name))


def version_of(found: "ModelVersion", aliases: Sequence[str]) -> Version:
    """Read a version of MLflow's."""
    number, tags = int(found.version), dict(found.tags)
    return Version(
        number=number,
        name=tags.get("model_version", f"{found.name}-{number}"),
        aliases=tuple(sorted(aliases)),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        run_id=found.run_id or None,
        tags=tags,
        source=found.source or "",
    )


def line_of(version: Version, versions: Sequence[Version]) -> list[Version]:
    """List a version, the one that it was trained from, and so on, as far as they are among ``versions``."""
    there = {each.number: each for each in versions}
    line = [version]
    while (parent := line[-1].tags.get("base")) is not None and int(parent) in there:
        line.append(there[int(parent)])
    return line


def run_of(version: Version) -> str:
    """Give the number of a version's run. Raises ConfigError where it has none."""
    if version.run_id is None:
        raise ConfigError(f"version {version.number} has no run in MLflow: register it anew")
    return version.run_id
