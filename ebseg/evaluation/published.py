"""The paper's numbers: mIoU in percent of the released checkpoints, trained on COCO-Stuff alone."""

_MIOU = {
    "base": {
        "ade20k-847": 11.1, "pascal-context-459": 17.3, "ade20k-150": 30.0, "pascal-context-59": 56.7,
        "voc-20": 94.6,
    },
    "large": {
        "ade20k-847": 13.7, "pascal-context-459": 21.0, "ade20k-150": 32.8, "pascal-context-59": 60.2,
        "voc-20": 96.4,
    },
}  # fmt: skip
"""By variant and benchmark; without test-time augmentation."""


def published_miou(variant: str | None, dataset: str | None) -> float | None:
    """Give the paper's mIoU of a variant on a benchmark; None for what it does not report."""
    return _MIOU.get(variant or "", {}).get(dataset or "")
