from tests.unit.conftest import random_checkpoint

__all__ = ["random_checkpoint"]
