"""The version that predictions carry: the model's, its memory's name, and a short digest of all else.

``ebseg-base-1.2+3f9a2c``, and with a memory of corrections ``ebseg-base-1.2+m0b1c2d+3f9a2c``. Label Studio
predicts a task again only for another version than that of the prediction it has: so a label that was added
or renamed must make another one, as another model does, and as new corrections do.
"""

import hashlib
import json
import re

DIGITS = 6
"""Of the digest, hexadecimal: it tells a project's label configs apart, not all there are."""

_VERSION = re.compile(rf"(.+?)(\+m[0-9a-f]{{{DIGITS}}})?(\+[0-9a-f]{{{DIGITS}}})", re.DOTALL)


def join(model: str, decides: object) -> str:
    """Name the predictions of a model of that version; ``decides``: what else decides them, as JSON."""
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{model}+{digest[:DIGITS]}"


def with_memory(model: str, memory: str) -> str:
    """Name a model of that version with a memory of that name, which has ``DIGITS`` hexadecimal digits."""
    return f"{model}+m{memory}"


def without_memory(version: str) -> str:
    """Give the version of the predictions that the same model makes for the same labels without a memory."""
    match = _VERSION.fullmatch(version)
    return match[1] + match[3] if match else version


def has_memory(version: str) -> bool:
    """Tell whether a prediction of that version was made with a memory."""
    return without_memory(version) != version


def model_of(version: str) -> str:
    """Give the model's version of a prediction's; one without a digest, as older ones are, is the model's."""
    match = _VERSION.fullmatch(version)
    return match[1] if match else version
