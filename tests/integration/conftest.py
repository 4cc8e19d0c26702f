from tests.unit.conftest import mlflow_database, random_checkpoint

__all__ = ["mlflow_database", "random_checkpoint"]
