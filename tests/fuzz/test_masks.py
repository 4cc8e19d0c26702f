"""Random masks: our brush format is the SDK's."""

import numpy as np
from label_studio_sdk.converter import brush as reference

from ebseg.label_studio import brush


def test_20000_masks_are_the_sdks():
    """Small ones of runs, noise and antialiased edges: what we write, and what we read of what it writes."""
    chance = np.random.default_rng(20)
    for _ in range(20_000):
        height, width = chance.integers(1, 7, 2)
        values = [0, 255] if chance.random() < 0.7 else [0, 90, 255]
        mask = chance.choice(values, (height, width)).astype(np.uint8)
        mask = mask.repeat(chance.integers(1, 4), axis=1)
        rle = reference.mask2rle(mask)
        assert brush.encode(mask) == rle
        decoded = brush.decode(rle, *mask.shape)
        assert decoded.tobytes() == mask.tobytes()
        assert decoded.ravel().tolist() == reference.decode_rle(rle)[3::4].tolist()
