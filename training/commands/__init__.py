"""The commands that the learning loop adds to ``ebseg``."""
