"""The library's commands, one module each; ``ebseg.cli`` puts them together."""
