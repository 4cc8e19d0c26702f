"""Whether to train, and whether what was trained is better."""
