"""The kinds of regions that Label Studio has on images, each with all that is known of it.

A new kind is a file beside this one, which makes a ``Kind`` of its functions, and a row in ``KINDS``: its
annotations are then painted, its control gets predictions if it has ``write``, and its smart tool is heard
if it has ``prompt``.
"""

from ebseg.label_studio.kinds.bitmask import BITMASK
from ebseg.label_studio.kinds.brush import BRUSH
from ebseg.label_studio.kinds.ellipse import ELLIPSE
from ebseg.label_studio.kinds.keypoint import KEYPOINT
from ebseg.label_studio.kinds.kind import Kind, Value, Written
from ebseg.label_studio.kinds.polygon import POLYGON
from ebseg.label_studio.kinds.rectangle import RECTANGLE
from ebseg.label_studio.kinds.vector import VECTOR

__all__ = ["KINDS", "Kind", "Value", "Written", "kind_of_type", "kind_of_value", "rank", "writable_kind"]

KINDS = (VECTOR, BRUSH, BITMASK, POLYGON, ELLIPSE, RECTANGLE, KEYPOINT)
"""All kinds, those that show areas from the finest on.

A value is of the first whose ``key`` it has: a rectangle has a key point's width too.
"""


def kind_of_value(value: Value) -> Kind | None:
    """Find a region's kind by what its value has; None for what is no region, such as a choice."""
    return next((kind for kind in KINDS if kind.key in value), None)


def kind_of_type(name: str) -> Kind | None:
    """Find the kind of results of this ``type``, such as "brushlabels" or "brush"."""
    return next((kind for kind in KINDS if name in kind.types), None)


def writable_kind(control: str) -> Kind | None:
    """Find the kind of regions that are predicted for a control, such as "brushlabels"; None for none."""
    kind = kind_of_type(control)
    return kind if kind and kind.write else None


def rank(control: str) -> int:
    """Tell how finely a control, such as "brushlabels", shows a mask: the lowest number the finest."""
    return next((place for place, kind in enumerate(KINDS) if control in kind.types), len(KINDS))
