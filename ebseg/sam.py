"""The spatial encoder: segment-anything's image encoder, read at four depths."""

from segment_anything.modeling import ImageEncoderViT

from ebseg.config import SamConfig


def build_image_encoder(config: SamConfig) -> ImageEncoderViT:
    """Segment-anything's image encoder without its neck, with random weights."""
    encoder = ImageEncoderViT(
        img_size=config.grid * config.patch_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        use_rel_pos=True,
        rel_pos_zero_init=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    del encoder.neck
    return encoder
