"""Every number that defines a model: frozen, validated once, saved inside each checkpoint.

The three variants at the end are the only place where sizes stand. ``BASE`` and ``LARGE`` are the
paper's (section 4.2 and the released checkpoints); ``TINY`` is ours and ships in the package.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ebseg.errors import ConfigError

Precision = Literal["auto", "float32", "bf16", "fp16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Config = TypeVar("Config", bound=BaseModel)


def checked(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration from what people gave. Raises ConfigError that names each fault."""
    try:
        return kind(**values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"these settings cannot be used: {faults}") from error


class InferencePrecision(StrEnum):
    """What a model computes a photo's masks and embeddings with.

    ``AUTO``: bfloat16 on a CPU that multiplies it faster than float32, else float32. ``INT8``: the frozen
    encoders' products with weights and inputs of 8 bits, on a CPU.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BF16 = "bf16"
    INT8 = "int8"


class ClipConfig(_Frozen):
    """CLIP's image and text towers and where EBSeg cuts the image tower."""

    embed_dim: int = Field(description="size of the joint image-text space")
    image_size: int = Field(description="pixels of a side at pre-training; fixes the position grid")
    patch_size: int = Field(description="pixels of a patch's side")
    image_width: int
    image_layers: int
    image_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int = Field(default=77, description="tokens of the longest text")
    vocab_size: int = Field(default=49408, description="rows of the token table (CLIP's BPE)")
    photo_scale: float = Field(description="size of CLIP's copy of the photo, as a share of SAM's")
    surgery_start: int = Field(description="first block with the value-to-value stream")
    recognition_start: int = Field(description="first block that the class token's copies run through")
    fusion_layers: tuple[int, int, int] = Field(
        description="features after so many blocks are fused into strides 8, 16, 32"
    )

    @model_validator(mode="after")
    def _cuts_are_ordered(self) -> Self:
        cuts = (0, self.surgery_start, self.recognition_start, self.image_layers)
        if list(cuts) != sorted(set(cuts)):
            raise ValueError("0 < surgery_start < recognition_start < image_layers must hold")
        if self.fusion_layers[-1] > self.recognition_start:
            raise ValueError("fusion features are taken before the recognition blocks")
        return self


class SamConfig(_Frozen):
    """The spatial encoder: segment-anything's image encoder without its neck."""

    patch_size: int = Field(description="pixels of a patch's side")
    grid: int = Field(description="patches of a side at pre-training; fixes the position grid")
    width: int
    depth: int
    heads: int
    window: int = Field(description="patches of a side of a local attention window")
    global_blocks: tuple[int, int, int, int] = Field(
        description="blocks with global attention; their outputs become strides 4, 8, 16, 32"
    )


class DecoderConfig(_Frozen):
    """Pixel decoder (multi-scale deformable attention) and masked-attention decoder."""

    width: int = Field(description="channels of pixel features and queries")
    heads: int = Field(description="attention heads of both decoders")
    queries: int = Field(description="masks predicted for a photo")
    pixel_layers: int
    pixel_ffn: int
    points: int = Field(description="sampling points a level and head of deformable attention")
    mask_layers: int
    mask_ffn: int


class BalanceConfig(_Frozen):
    """Exponents of the adaptively balanced decoder (paper, section 3.3)."""

    alpha: float
    beta: float
    gamma: float


class LossConfig(_Frozen):
    """Weights of the loss terms and of the matching costs, and the points that masks are compared at."""

    cross_entropy: float = Field(default=1.5, description="weight, for A's and for B's logits")
    mask: float = Field(default=5.0, description="weight of the masks' binary cross-entropy")
    dice: float = Field(default=5.0, description="weight of the masks' dice loss")
    ssc: float = Field(default=10.0, description="weight of semantic structure consistency")
    background: float = Field(default=0.1, description="weight of the background class")
    match_class: float = 2.0
    match_mask: float = 5.0
    match_dice: float = 5.0
    points: int = Field(default=12544, description="points a mask is compared at")
    oversampling: float = Field(default=3.0, description="candidates drawn for each point")
    uncertain_share: float = Field(default=0.75, description="share of points where masks are unsure")
    unlabelled: Literal["negative", "ignored"] = Field(
        default="negative",
        description="what pixels without a label are: outside all masks, as in the paper, or not known",
    )


class ModelConfig(_Frozen):
    """One variant of EBSeg."""

    name: str
    clip: ClipConfig
    sam: SamConfig
    decoder: DecoderConfig
    balance: BalanceConfig
    test_size: int = Field(description="pixels of a photo's shorter edge at inference")
    test_max_size: int = Field(description="pixels that the longer edge may not exceed")

    def same_layers(self, other: "ModelConfig") -> bool:
        """Tell whether weights of one model fit the other, and mean the same there."""
        return (self.clip, self.sam, self.decoder) == (other.clip, other.sam, other.decoder)


class TrainConfig(_Frozen):
    """A training run; ``RECIPES`` has each variant's. The defaults are the paper's (section 4.2)."""

    steps: int = Field(default=120_000, gt=0, description="updates of the weights")
    batch: int = Field(default=16, gt=0, description="photos a step, over all processes")
    accumulation: int = Field(
        default=1, gt=0, description="batches into which each process splits its photos of a step"
    )
    short_edges: tuple[int, ...] = Field(
        default=tuple(range(320, 961, 64)), min_length=1, description="shorter edges, drawn photo by photo"
    )
    max_edge: int = Field(default=2560, gt=0, description="pixels that the longer edge may not exceed")
    crop: int = Field(default=640, gt=0, description="pixels of a side of the random crop")
    colour: bool = Field(default=True, description="change brightness, contrast, saturation and hue")
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    losses: LossConfig = LossConfig()
    largest_gradient: float = Field(default=0.01, gt=0, description="norm that gradients are clipped to")
    power: float = Field(default=0.9, description="of the polynomial decay of the learning rate")
    precision: Precision = Field(
        default="auto", description="of the model; auto: fp16 on a GPU as the paper, float32 on a CPU"
    )
    seed: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=1000, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, gt=0, description="newest checkpoints that are kept")
    log_every: int = Field(default=20, gt=0, description="steps between lines of the log")
    max_broken: int = Field(default=100, ge=0, description="broken files that are skipped before a run stops")


_SAM_BASE = SamConfig(
    patch_size=16, grid=64, width=768, depth=12, heads=12, window=14, global_blocks=(2, 5, 8, 11)
)
_DECODER = DecoderConfig(
    width=256, heads=8, queries=100, pixel_layers=6, pixel_ffn=1024, points=4, mask_layers=9, mask_ffn=2048
)

BASE = ModelConfig(
    name="base",
    clip=ClipConfig(
        embed_dim=512, image_size=224, patch_size=16, image_width=768, image_layers=12, image_heads=12,
        text_width=512, text_layers=12, text_heads=8,
        photo_scale=0.5, surgery_start=2, recognition_start=9, fusion_layers=(3, 6, 9),
    ),
    sam=_SAM_BASE,
    decoder=_DECODER,
    balance=BalanceConfig(alpha=0.09, beta=0.3, gamma=0.7),
    test_size=640, test_max_size=2560,
)  # fmt: skip

LARGE = ModelConfig(
    name="large",
    clip=ClipConfig(
        embed_dim=768, image_size=336, patch_size=14, image_width=1024, image_layers=24, image_heads=16,
        text_width=768, text_layers=12, text_heads=12,
        photo_scale=0.7, surgery_start=4, recognition_start=18, fusion_layers=(6, 12, 18),
    ),
    sam=_SAM_BASE,
    decoder=_DECODER,
    balance=BalanceConfig(alpha=0.12, beta=0.4, gamma=0.6),
    test_size=640, test_max_size=2560,
)  # fmt: skip

TINY = ModelConfig(
    name="tiny",
    clip=ClipConfig(
        embed_dim=128, image_size=128, patch_size=8, image_width=128, image_layers=8, image_heads=4,
        text_width=64, text_layers=3, text_heads=4,
        photo_scale=0.5, surgery_start=2, recognition_start=6, fusion_layers=(2, 4, 6),
    ),
    sam=SamConfig(patch_size=8, grid=32, width=96, depth=8, heads=4, window=8, global_blocks=(1, 3, 5, 7)),
    decoder=DecoderConfig(
        width=96, heads=4, queries=32, pixel_layers=2, pixel_ffn=256, points=4, mask_layers=3, mask_ffn=384
    ),
    balance=BalanceConfig(alpha=0.2, beta=0.5, gamma=0.5),
    test_size=256, test_max_size=1024,
)  # fmt: skip

VARIANTS = {config.name: config for config in (TINY, BASE, LARGE)}


def find_variant(name: str) -> ModelConfig:
    """Find a variant by its name. Raises ConfigError for another name."""
    if name not in VARIANTS:
        raise ConfigError(f"no variant named {name!r}; known: {', '.join(VARIANTS)}")
    return VARIANTS[name]


RECIPES = {
    "base": TrainConfig(),
    "large": TrainConfig(learning_rate=8e-5),
    # Drawn scenes name things by their colours, so these stay as they are.
    "tiny": TrainConfig(
        steps=2400, batch=4, short_edges=(160, 192, 224, 256, 320), crop=192, colour=False,
        learning_rate=1e-3, losses=LossConfig(points=2048), checkpoint_every=100,
    ),
}  # fmt: skip
"""How each variant is trained unless told otherwise."""
