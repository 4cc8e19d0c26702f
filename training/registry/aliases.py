"""Names of aliases and tags of the registered model: each project's own, and the common ones."""

import re

CHAMPION, CANDIDATE = "champion", "candidate"
"""Aliases of the version that is served, and of the newest that was trained."""

HISTORY = "history"
"""The tag with the champions so far."""

_NUMBERED = re.compile(r"([a-z]+)-([0-9]{1,10})")


def own(name: str, project: int | None) -> str:
    """Give the name of a project's alias or tag; None: of the common one."""
    return name if project is None else f"{name}-{project}"


def project_of(name: str, alias: str) -> int | None:
    """Give the project whose ``name`` this alias or tag is; None where it is no project's."""
    parts = _NUMBERED.fullmatch(alias)
    return int(parts[2]) if parts and parts[1] == name else None
