from tests.unit.backend.conftest import checkpoint, label_studio, predictor, scenes

__all__ = ["checkpoint", "label_studio", "predictor", "scenes"]
