"""Drawn scenes: pictures with exact label maps, of which the packaged model knows the phrases."""
