from tests.unit.backend.conftest import label_studio, make_client, predictor, scenes, sink

__all__ = ["label_studio", "make_client", "predictor", "scenes", "sink"]
