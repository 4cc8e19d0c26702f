"""What a project's corrections taught without a training: a linear classifier of pixels, beside the text.

D width of the pixel decoder's features, S remembered labels, K labels asked for; h x w: the grid at stride 4;
H x W: the photo's own size.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ebseg.ask import Memory
from ebseg.model import Encoded

STRIDE = 4
"""Of the grid on which the features are, in pixels at test size."""

SURROUNDINGS = 9
"""Places of the grid along the side of the square whose mean feature tells what is around a pixel."""


def join(
    memory: Memory, strips: Iterator[Tensor], encoded: Encoded, names: Sequence[str], size: tuple[int, int]
) -> Iterator[Tensor]:
    """Join strips of scores (K, rows, W), as ``score_strips`` gives them for a photo of ``size`` (H, W).

    What the text leaves to the remembered labels is dealt out anew among these; the scores of others stay
    as they are, to the bit.
    """
    known = {label: place for place, label in enumerate(memory.labels)}
    asked = [index for index, name in enumerate(names) if name in known]
    if not asked:
        yield from strips
        return
    answers, share = _answers(memory, encoded, [known[names[index]] for index in asked])
    others = [index for index in range(len(names)) if index not in set(asked)]
    top = 0
    for scores in strips:
        bottom = top + scores.shape[1]
        found = _resized_rows(answers, encoded.sizes[0], top, bottom, size)
        if others:
            scores[asked] = joined(scores[asked], scores[others].sum(dim=0), found, share)
            yield scores
        else:
            yield joined(scores, None, found, share)
        top = bottom


def _answers(memory: Memory, encoded: Encoded, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Give some labels' answers (S, h, w) and their shares (S, 1, 1)."""
    features = encoded.features[0].float()  # (D, h, w)
    weight, bias, share = (
        torch.from_numpy(each[..., chosen]).to(features.device)
        for each in (memory.weight, memory.bias, memory.share)
    )
    own, around = weight.chunk(2)  # (D, S) each
    # Both are sums over D: averaging S maps does what averaging D of them would.
    logits = torch.einsum("ds,dhw->shw", own, features)
    logits += surroundings(torch.einsum("ds,dhw->shw", around, features))
    return (logits + bias[:, None, None]).softmax(dim=0), share[:, None, None]


def joined(text: Tensor, others: Tensor | None, answers: Tensor, share: Tensor) -> Tensor:
    """Mix the text's scores of remembered labels (S, ...) with the memory's answers (S, ...), 0..1.

    ``others``: (...), the text's scores of all other labels together; None: there are none. ``share``: as of
    ``Memory``, to be multiplied with the others.
    """
    if others is not None:
        answers = answers * (1 - others).clamp(0, 1)
    return answers if bool((share == 1).all()) else torch.lerp(text, answers, share)


def surroundings(values: Tensor) -> Tensor:
    """Average maps (C, h, w) over the square around each place, as far as it is inside."""
    pooled: Tensor = values
    for kernel in ((SURROUNDINGS, 1), (1, SURROUNDINGS)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        pooled = F.avg_pool2d(pooled[None], kernel, 1, padding, count_include_pad=False)[0]
    return pooled


def _resized_rows(
    maps: Tensor, test_size: tuple[int, int], top: int, bottom: int, size: tuple[int, int]
) -> Tensor:
    """Rows ``top`` to ``bottom`` of maps (S, h, w) of the padded photo, resized bilinearly to ``size``.

    Pixel centres are at half coordinates. ``test_size``: the photo's, without the padding.
    """
    covered = [side / STRIDE for side in test_size]  # places of the grid that the photo takes
    target = torch.arange(bottom - top, device=maps.device)
    centres = (target + top + 0.5) * (covered[0] / size[0]) - 0.5
    centres = centres.clamp(0, maps.shape[1] - 1)
    above = centres.long()
    below = (above + 1).clamp(max=maps.shape[1] - 1)
    # Columns first: neighbouring rows of a large photo come of the same few of the grid.
    first, last = int(above[0]), int(below[-1]) + 1
    # One column more than there is, for rounding not to make too few.
    wide = F.pad(maps[None, :, first:last], (0, 1, 0, 0), mode="replicate")
    wide = F.interpolate(
        wide, scale_factor=(1.0, size[1] / covered[1]), mode="bilinear", align_corners=False
    )[0, :, :, : size[1]]
    part = (centres - above).to(maps.dtype)
    weights = maps.new_zeros(bottom - top, last - first)
    weights[target, above - first] = 1 - part
    weights[target, below - first] += part
    return weights @ wide
