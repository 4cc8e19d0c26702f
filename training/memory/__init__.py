"""A project's memory of corrections: features of corrected pixels, and what is fitted to them in seconds."""
