"""What training makes twice rather than keep."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def made_again(make: Callable[..., Tensor], *inputs: object) -> Tensor:
    """Give what is made of the inputs, of which the backward pass makes again what lies in between.

    For what is large and quickly made. Values and gradients are those of ``make``, to the last bit. Nothing
    in it may be random.
    """
    if not torch.is_grad_enabled():
        return make(*inputs)
    made: Tensor = checkpoint(make, *inputs, use_reentrant=False, preserve_rng_state=False)
    return made
