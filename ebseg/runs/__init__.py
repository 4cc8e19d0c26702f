"""A training run: its state and log on disk, who watches it, and MLflow."""
