"""Who was champion, since when and why, and whom a rollback returns to: a list that one tag holds as JSON."""

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

LONGEST_TAG = 5000
"""Characters that MLflow's databases hold in a tag; the oldest entries make way."""

LONGEST_REASON = 300
"""Characters of a reason that are kept."""

MOST_ROLLBACKS = 20
"""Champions that an entry knows to return to."""

History = list[dict[str, Any]]
"""Entries, the newest last: ``version``, ``at`` (ISO 8601, UTC), ``reason``, and the versions ``before``."""


def succeed(history: History, number: int, reason: str, before: Sequence[int]) -> str:
    """Write the history with a new champion as the tag's text; ``before``: whom rollbacks return to."""
    entry = {
        "version": number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason[:LONGEST_REASON],
        "before": list(before)[-MOST_ROLLBACKS:],
    }
    kept = [*history, entry]
    while len(text := json.dumps(kept)) > LONGEST_TAG:
        del kept[0]
    return text


def predecessors(history: History, champion: int, there: Collection[int]) -> list[int]:
    """List the champions to return to from the one of now, the nearest last; ``there``: those that exist."""
    if not history:
        return []
    newest = history[-1]
    # Somebody may have moved the alias in MLflow itself, or a process died before it wrote the history.
    moved = [] if newest["version"] == champion else [newest["version"]]
    before = [number for number in [*newest["before"], *moved] if number in there]
    while before and before[-1] == champion:  # the one between was deleted
        before.pop()
    return before
