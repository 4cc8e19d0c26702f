"""What other people wrote, as it may stand in a message."""

MOST_CHARACTERS = 100
"""Of a name."""

MOST_WORDS = 500
"""Characters of a reason that quotes other people."""


def shown(text: str, most: int = MOST_CHARACTERS) -> str:
    """Shorten a text to ``most`` characters, and write what is no Unicode text, half of a pair, as an escape.

    JSON can hold such halves, and no file in UTF-8, so that one name could keep a whole project from being
    stored.
    """
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
