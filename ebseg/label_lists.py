"""Lists of labels as people keep them: a text with a label a line, a JSON list, or a command's argument.

Whatever is read or written here is a Vocabulary, so that what is written can be read again.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebseg.errors import DataError, VocabularyError
from ebseg.files import write_whole_json
from ebseg.vocabulary import Vocabulary

SYNONYMS = "|"
"""Between the synonyms of a label in text."""


def read_file(path: Path) -> Vocabulary:
    """Read a text file with a label a line, "|" between synonyms, or a JSON list.

    A JSON list (.json) has names and lists of synonyms. Raises DataError for a file that cannot be read and
    VocabularyError for faulty labels; both name it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"the list of labels {path} cannot be read: {error}") from error
    try:
        if path.suffix.lower() == ".json":
            return Vocabulary(_json_list(text))
        return read_names([line for line in text.splitlines() if line.strip()])
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def read_argument(text: str) -> Vocabulary:
    """Read "sky,road,car|automobile", or @FILE as ``read_file`` does.

    Raises what ``read_file`` does, and VocabularyError for the name of a file without its @.
    """
    if text.startswith("@"):
        return read_file(Path(text[1:]))
    if os.path.isfile(text):
        raise VocabularyError(
            f"{text} is a file: write @{text} to read the labels in it; a label of that name goes into a file"
        )
    return read_names(text.split(","))


def read_names(labels: Sequence[Any]) -> Vocabulary:
    """Take names, "|" between synonyms, and lists of synonyms. Raises VocabularyError for faulty ones."""
    return Vocabulary([label.split(SYNONYMS) if isinstance(label, str) else label for label in labels])


def write_file(path: Path, vocabulary: Vocabulary) -> None:
    """Write a JSON list that ``read_file`` reads: a name, or a list of synonyms, for each label."""
    write_whole_json(path, [texts[0] if len(texts) == 1 else texts for texts in vocabulary.prompts])


def _json_list(text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"not JSON ({error})") from error
    if not isinstance(content, list):
        raise VocabularyError('not a JSON list such as ["sky", ["car", "automobile"]]')
    return content
