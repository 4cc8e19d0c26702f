"""Modules that a process of our own does without: a third of a command's start, and 160 MiB of memory."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_UNUSED = "timm"
_COMPILER = "torch._dynamo.utils"


def do_without() -> None:
    """Have OpenCLIP load no timm, and torchvision PyTorch's compiler not before somebody uses it.

    OpenCLIP has timm for image towers that are not EBSeg's, and goes without where it is not installed.
    torchvision asks the compiler for one function, for detectors. Not for a library's import: whoever imports
    ebseg may want timm's towers.
    """
    sys.modules.setdefault(_UNUSED, None)  # type: ignore[arg-type]  # as if it was not installed
    sys.modules.setdefault(_COMPILER, _Later(_COMPILER))


class _Later(ModuleType):
    """Stands for the compiler's module until something is done with it."""

    def is_compile_supported(self, device_type: str) -> bool:
        """Answer as the module's own function, which torchvision keeps at its import."""
        supported: bool = self._real().is_compile_supported(device_type)
        return supported

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks through all modules wants no import
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)
