"""Random changes of what other programs send, the same for the same seed."""

import copy
import random
from typing import Any

ODD = (
    None, True, False, 0, 1, -1, 7, 2**31, 10**30, 0.5, -3.7, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"),
    "", " ", "0", "6", "4", "NaN", "sky", "car", "image", "\ud800", "\0", "a\nb", "x" * 2000, "😀",
    "../..", "%",
    "data:image/png;base64,AAAA", "[]", [], {}, [[]], [None], [5], ["sky"], {"id": 1}, {"": None},
    [[1, 2], [3]], [[[[[[]]]]]], [1] * 300, [0, 0, 0, 96, 57, 27, 254], list(range(256)),
)  # fmt: skip
"""Values that are put in the place of others."""


def mutated(document: Any, chance: random.Random, most: int = 3) -> Any:
    """Copy a document of JSON values and change it in one to ``most`` places: values, keys, order, number."""
    holder = [copy.deepcopy(document)]
    for _ in range(chance.randint(1, most)):
        _change(*_place(holder, chance), chance)
    return holder[0]


def _place(node: Any, chance: random.Random) -> tuple[Any, Any]:
    """Choose a value, at any depth alike, by what holds it and the key or index there."""
    while True:
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
        deeper = node[key]
        if not deeper or not isinstance(deeper, dict | list) or chance.random() < 0.2:
            return node, key
        node = deeper


def _change(holder: Any, key: Any, chance: random.Random) -> None:
    value, odd = holder[key], copy.deepcopy(chance.choice(ODD))
    how = chance.randrange(10)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[str(odd)] = holder.pop(key)
    elif how == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif how == 3 and isinstance(value, list):
        chance.shuffle(value)
    elif how == 4 and isinstance(value, list):
        del value[chance.randint(0, len(value)) :]
    elif how == 5 and isinstance(value, str):
        place = chance.randint(0, len(value))
        holder[key] = value[:place] + str(odd) + value[place + 1 :]
    elif how == 6 and isinstance(value, int | float):
        holder[key] = value * chance.choice((-1, 0, 2, 1000, 1e300))
    elif how == 7:
        holder[key] = [value]
    else:
        holder[key] = odd
