"""Tensors named by their content."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


class Digest:
    """The name of some tensors: equal for equal ones, worked out once, and anew where one was changed since.

    PyTorch counts the changes of a tensor in place; that it has been moved, its address tells.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] | None = None
        self._name = ""

    def of(self, tensors: Mapping[str, Tensor]) -> str:
        """Give 32 hexadecimal digits, of the names and of the values as float32, whatever device and type."""
        now = {name: (tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()}
        if now != self._seen:
            digest = hashlib.sha256()
            for name, tensor in sorted(tensors.items()):
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy().data)
            self._seen, self._name = now, digest.hexdigest()[:32]
        return self._name
