"""Whether a data set shows anything at all."""

from ebseg.data.samples import Source
from ebseg.errors import DataError

ALL_IGNORED = (
    "all values of its label maps are ignored (255, in 16-bit maps 65535, and what the description lists as "
    "ignored)"
)


def require_labelled(source: Source) -> None:
    """Raise DataError where no photo of a data set shows a label: a training would end having learnt nothing.

    Reads photos until one does. Broken ones are the training's own to name.
    """
    blank = False
    for index in range(len(source)):
        try:
            label_map = source[index].label_map
        except DataError:
            continue
        if (label_map >= 0).any():
            return
        blank = True
    if blank:
        raise DataError(
            f"no pixel of {source.name} is labelled, so nothing can be learnt from it: {ALL_IGNORED}; "
            "correct the label maps or the description, or leave the data set out"
        )
