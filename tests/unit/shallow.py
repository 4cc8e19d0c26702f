"""A model of TINY's widths with half its blocks, for tests that are not about its size."""

from ebseg.config import TINY

SHALLOW = TINY.model_copy(
    update={
        "clip": TINY.clip.model_copy(
            update={
                "image_layers": 4, "surgery_start": 1, "recognition_start": 3, "fusion_layers": (1, 2, 3),
                "text_width": 16, "text_layers": 1,
            }
        ),
        "sam": TINY.sam.model_copy(update={"depth": 5, "global_blocks": (1, 2, 3, 4)}),
        "decoder": TINY.decoder.model_copy(update={"pixel_layers": 1, "mask_layers": 1}),
    }
)  # fmt: skip
