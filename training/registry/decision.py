"""What was decided about a candidate: a plain value, which the gate makes and the registry keeps."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What becomes of a candidate."""

    PROMOTE = "promote"
    REJECT = "reject"
    WAIT = "wait"


@dataclass(frozen=True)
class Decision:
    """A verdict, all reasons for it in words, and the numbers behind it, as JSON may hold them."""

    verdict: Verdict
    reasons: tuple[str, ...]
    numbers: dict[str, Any]

    def in_words(self) -> str:
        """Say it in a line."""
        return f"{self.verdict}: {'; '.join(self.reasons)}"

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON may hold it."""
        return {"verdict": self.verdict.value, "reasons": list(self.reasons), **self.numbers}

    def headlines(self) -> dict[str, float]:
        """Name the numbers to compare decisions by; those that could not be measured are left out."""
        numbers = self.numbers
        named = {
            "held_out_miou_champion": numbers["miou"]["champion"],
            "held_out_miou_candidate": numbers["miou"]["candidate"],
            "gain": numbers["gain"],
            "gain_lower_bound": numbers["lower_bound"],
            **{f"forgetting/{each['name']}": each["lost"] for each in numbers["forgetting"]},
        }
        return {name: value for name, value in named.items() if value is not None}
