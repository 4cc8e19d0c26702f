"""How sure a model is of each pixel, by more than the share of the best label.

K labels. Shares are those of ``ebseg.predictor.best_labels``: what the labels leave of the whole is none of
theirs, and counts as one more answer.
"""

import math

import torch
from torch import Tensor

from ebseg.ask import Measure
from ebseg.scores import Contest


def contenders(measure: Measure, labels: int) -> int:
    """Tell of how many of the best labels a measure needs the scores."""
    return min(2, labels) if measure == "margin" else labels


def certainty(contest: Contest, measure: Measure) -> Tensor:
    """Measure how sure class scores are: (rows, W) float32, 0 unsure to 1 sure.

    "margin": by how much the best label's share is above the second's. "entropy": 1 less the entropy of the
    shares, of which 1 is the largest there can be; ``contest`` has all labels' scores then.
    """
    shares = contest.scores / contest.total.clamp(min=1.0)
    sure = _margin(shares) if measure == "margin" else _entropy(shares)
    return sure.clamp(0, 1).float()


def _margin(shares: Tensor) -> Tensor:
    first, *second = shares.topk(min(2, len(shares)), dim=0).values.unbind()
    return first - second[0] if second else first


def _entropy(shares: Tensor) -> Tensor:
    every = torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)]).clamp(min=0)
    return 1 + torch.xlogy(every, every).sum(dim=0) / math.log(len(every))
