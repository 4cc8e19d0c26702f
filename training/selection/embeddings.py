"""What a model saw of a photo, in so few numbers that those of thousands are compared at once."""

import numpy as np
import torch.nn.functional as F

from ebseg.model import Encoded
from training.selection.strategies import GRID, Embedding


def embedding(encoded: Encoded) -> Embedding:
    """Say what is where in a photo, by the pixel decoder's features of width D: (D * ``GRID`` ** 2,).

    What is where tells more than what there is: replays of CamVid gained less by the mean of the whole photo.

    ``encoded``: of one photo.
    """
    height, width = (-(-side // 4) for side in encoded.sizes[0])  # at stride 4, without the padding
    parts = F.adaptive_avg_pool2d(encoded.features[:, :, :height, :width].float(), GRID)
    return np.asarray(parts.half().flatten().cpu().numpy())
