"""The words of the drawn scenes, and which combinations of them no training scene ever shows."""

STUFF = ("sky", "cloud", "mountain", "grass", "water", "sand", "snow", "road")
SURFACE_MATERIALS = ("brick", "stone", "wooden", "tiled")
SURFACES = ("wall", "floor")

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHAPES = ("ball", "box", "cone", "star", "ring", "house", "tree", "car", "cup", "flag")
MATERIALS = ("wooden", "metal", "striped")
MATERIAL_SHAPES = ("ball", "box", "cone", "star", "ring", "cup")

# One fifth of the combinations. Each word keeps several seen partners, so that every word of an
# unseen phrase is learnt, only never together with the other.
HELD_OUT = (
    "green ball", "white ball", "yellow box", "purple box", "blue cone", "red star", "black star",
    "orange ring", "green house", "purple house", "blue tree", "yellow car", "white car",
    "red cup", "black cup", "orange flag",
    "wooden star", "metal cone", "metal ring", "striped cup",
    "wooden wall", "brick floor",
)  # fmt: skip

_SURFACE_PHRASES = tuple(f"{material} {surface}" for surface in SURFACES for material in SURFACE_MATERIALS)
_THING_PHRASES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS) + tuple(
    f"{material} {shape}" for shape in MATERIAL_SHAPES for material in MATERIALS
)
_ALL = STUFF + _SURFACE_PHRASES + _THING_PHRASES

SEEN_PHRASES: tuple[str, ...] = tuple(phrase for phrase in _ALL if phrase not in HELD_OUT)
UNSEEN_PHRASES: tuple[str, ...] = tuple(phrase for phrase in _ALL if phrase in HELD_OUT)
PHRASES: tuple[str, ...] = SEEN_PHRASES + UNSEEN_PHRASES

SEEN_THINGS = tuple(phrase for phrase in _THING_PHRASES if phrase not in HELD_OUT)
UNSEEN_THINGS = tuple(phrase for phrase in _THING_PHRASES if phrase in HELD_OUT)

OTHER_NAMES: dict[str, str] = {
    "sky": "heavens", "cloud": "cumulus", "mountain": "peak", "grass": "lawn",
    "water": "lake", "sand": "beach", "snow": "frost", "road": "street",
    "brick": "masonry", "stone": "granite", "wooden": "timber", "tiled": "mosaic",
    "wall": "partition", "floor": "flooring",
    "red": "crimson", "orange": "amber", "yellow": "golden", "green": "emerald",
    "blue": "azure", "purple": "violet", "white": "ivory", "black": "ebony",
    "metal": "steel", "striped": "banded",
    "ball": "sphere", "box": "crate", "cone": "spire", "star": "pentagram", "ring": "hoop",
    "house": "cottage", "tree": "oak", "car": "automobile", "cup": "mug", "flag": "banner",
}  # fmt: skip
"""Another name for each word of the phrases: no scene is labelled with it, and it shares no token of CLIP's
with any phrase or template. The text tower learns these names alone (`training/tiny/new_words.py`)."""


def renamed(phrase: str) -> str:
    """Give a phrase with every word replaced by its other name: "red ball" is "crimson sphere".

    Raises KeyError for a word that no phrase has.
    """
    return " ".join(OTHER_NAMES[word] for word in phrase.split())
