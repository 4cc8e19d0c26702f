"""CLIP's two towers, as open_clip builds them."""

from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer

from ebseg.config import ClipConfig


def build_image_tower(config: ClipConfig) -> VisionTransformer:
    """CLIP's image tower with random weights."""
    return VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.image_width,
        layers=config.image_layers,
        heads=config.image_heads,
        mlp_ratio=4.0,
        output_dim=config.embed_dim,
        act_layer=QuickGELU,
    )


def build_text_tower(config: ClipConfig) -> TextTransformer:
    """CLIP's text tower with random weights."""
    return TextTransformer(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
        output_dim=config.embed_dim,
        act_layer=QuickGELU,
    )
