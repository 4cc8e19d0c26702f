"""For the tests of how the small model is made, which train a little, and matter to few changes."""

from tests.unit.conftest import folders, own_cache_folder, random_checkpoint, random_tiny

__all__ = ["folders", "own_cache_folder", "random_checkpoint", "random_tiny"]
