"""The loop around the library: settings, and what improves the models."""
