"""The versions of the model that learns, in MLflow, and which of them is served."""
