"""A fine-tuning: the run, its process, and the job that watches it."""
