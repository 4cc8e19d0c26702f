"""The version that predictions carry: the model's, and a short digest of all else that decides them.

``ebseg-base-1.2+3f9a2c``. Label Studio predicts a task again only for another version than that of the
prediction it has: so a label that was added or renamed must make another one, as another model does.
"""

import hashlib
import json
import re

DIGITS = 6
"""Of the digest, hexadecimal: it tells a project's label configs apart, not all there are."""

_VERSION = re.compile(rf"(.+)\+[0-9a-f]{{{DIGITS}}}", re.DOTALL)


def join(model: str, decides: object) -> str:
    """Name the predictions of a model of that version; ``decides``: what else decides them, as JSON."""
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{model}+{digest[:DIGITS]}"


def model_of(version: str) -> str:
    """Give the model's version of a prediction's; one without a digest, as older ones are, is the model's."""
    match = _VERSION.fullmatch(version)
    return match[1] if match else version
