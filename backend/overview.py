"""What the service's page shows of each project: what the service knows, and what jobs told last."""

from collections.abc import Mapping
from dataclasses import dataclass

from backend.own_models import FailedSwap, OwnChampion
from backend.service import Service
from ebseg.ask import Memory
from ebseg.label_studio.version import with_memory
from training.queue.outcomes import Outcomes, Topic


@dataclass(frozen=True)
class Row:
    """A project on the page.

    ``champion``: the version that it is served, or is to be; ``own``: whether that is its own, and not the
    base. ``failed``: why its own is not served. ``memory``: what this service has to add on the memory of
    corrections. ``hint``: what people could do better. ``told``: what jobs told.
    """

    project: int
    champion: str
    own: bool
    failed: FailedSwap | None
    memory: str
    hint: str
    told: Outcomes


def overview(service: Service) -> list[Row]:
    """List the projects that the service knows of, or was told of; nobody else is asked."""
    follower, outbox = service.follower, service.outbox
    champions = follower.own.champions() if follower else {}
    told: Mapping[int, Outcomes] = outbox.outcomes if outbox else {}
    memories = service.memories.known() if service.memories else {}
    return [
        _row(service, project, champions.get(project), memories.get(project), told.get(project, {}))
        for project in sorted({*champions, *told, *memories, *service.hints.all()})
    ]


def _row(
    service: Service, project: int, own: OwnChampion | None, memory: Memory | None, told: Outcomes
) -> Row:
    champion = own.wanted.name if own else service.model.version
    return Row(
        project,
        champion,
        own=own is not None,
        failed=own.failed if own else None,
        memory=_memory_here(memory, champion, told) if service.settings.memory else "switched off",
        hint=service.hints.all().get(project, ""),
        told=told,
    )


def _memory_here(memory: Memory | None, champion: str, told: Outcomes) -> str:
    """Say whether this service uses a memory of corrections; it may not be the one that was told."""
    if memory is None:
        return ""
    name = with_memory(memory.model, memory.name)
    if memory.model != champion:
        return f"{name} is not used: it belongs to another version"
    is_told = Topic.MEMORY in told and told[Topic.MEMORY].words.startswith(name)
    return "used by this service" if is_told else f"this service uses {name}"
