"""What nearly every job imports: a worker does it once, and its forks share the 10 s of CPU and the memory.

Nothing here runs PyTorch or starts a thread, which a fork would not survive.
"""

import label_studio_sdk.client  # noqa: F401
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracking  # noqa: F401

import ebseg.loading  # noqa: F401
import training.jobs.remembering  # noqa: F401
