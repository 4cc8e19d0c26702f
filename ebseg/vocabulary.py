"""Label sets: names, synonyms, prompt templates, and which labels a model was trained on."""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ebseg.errors import VocabularyError

MAX_LABELS = 1000
"""Labels of one vocabulary; the largest benchmark has 847."""

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""The ViLD prompt templates as EBSeg uses them; some lack the final full stop there too."""

DATASETS = (
    "coco-stuff-171",
    "ade20k-150",
    "ade20k-847",
    "pascal-context-59",
    "pascal-context-459",
    "voc-20",
)
"""Benchmarks whose class lists are packaged."""

_IRREGULAR_PLURALS = {
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
}


@dataclass(frozen=True, init=False)
class Vocabulary:
    """An ordered set of labels; equal and hashable by content.

    ``labels``: 1 to 1,000 of them, each a string or a list of synonyms, whose embeddings are
    averaged. Every string is one prompt, taken whole ("building, edifice" is one); white space around
    it is dropped. Any language and emoji are welcome. CLIP reads the first 77 tokens of a prompt, about
    300 letters of English, and ignores the rest.

    Raises VocabularyError for an empty name, and for a name given twice, within one label or in two:
    names that differ only in case or in white space are the same text to CLIP.
    """

    dataset: str | None
    """Name of the benchmark that the labels come from; None for labels that people typed."""
    prompts: tuple[tuple[str, ...], ...]
    """For each label the strings that are put into the templates."""
    synonyms: tuple[tuple[str, ...], ...]
    """For each label the strings that decide whether a model was trained on it."""

    def __init__(self, labels: Sequence[str | Sequence[str]]) -> None:
        if isinstance(labels, str):
            raise VocabularyError(f"labels must be a list of names, not one string: {labels!r}")
        prompts = tuple(_prompts(label, position) for position, label in enumerate(labels, start=1))
        _check(prompts)
        self._fill(None, prompts, prompts)

    def _fill(
        self, dataset: str | None, prompts: tuple[tuple[str, ...], ...], synonyms: tuple[tuple[str, ...], ...]
    ) -> None:
        for field, value in (("dataset", dataset), ("prompts", prompts), ("synonyms", synonyms)):
            object.__setattr__(self, field, value)  # the dataclass is frozen

    @classmethod
    def from_dataset(cls, name: str) -> "Vocabulary":
        """Give the classes of a benchmark (one of ``DATASETS``) in index order.

        Their prompts and synonyms are those of the open-vocabulary literature, to the letter, repeated
        synonyms too. Raises VocabularyError for another name.
        """
        if name not in DATASETS:
            raise VocabularyError(f"no class list named {name!r}; known: {', '.join(DATASETS)}")
        return _packaged(name)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Read what ``to_json`` wrote. Raises VocabularyError where it is damaged."""
        try:
            content = json.loads(text)
            dataset, labels = content["dataset"], content["labels"]
            if dataset is None:
                return cls(labels)
            return cls._of_dataset(str(dataset), labels)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise VocabularyError(f"a saved vocabulary cannot be read: {error!r}") from error

    @classmethod
    def _of_dataset(cls, name: str, labels: Sequence[Sequence[str]]) -> "Vocabulary":
        """Take a benchmark's labels, each its prompt and then its synonyms, without any check."""
        vocabulary = cls.__new__(cls)
        prompts = tuple((label[0],) for label in labels)
        vocabulary._fill(name, prompts, tuple(tuple(label[1:]) for label in labels))
        return vocabulary

    @classmethod
    def union(cls, vocabularies: Sequence["Vocabulary"]) -> "Vocabulary":
        """Join what a model was trained on, in order, each label once; the first one where it has them all.

        It is for ``seen_in`` to compare with, not to be asked for: it may repeat a name, and have more than
        ``MAX_LABELS``.
        """
        first = vocabularies[0]
        names: dict[tuple[str, ...], str] = {}
        for vocabulary in vocabularies:
            for prompts, synonyms in zip(vocabulary.prompts, vocabulary.synonyms, strict=True):
                names.setdefault(synonyms, prompts[0])
        if names.keys() == set(first.synonyms):
            return first
        parts = [part for v in vocabularies for part in (v.dataset or "custom").split("+")]
        labels = [(name, *synonyms) for synonyms, name in names.items()]
        return cls._of_dataset("+".join(dict.fromkeys(parts)), labels)

    def as_typed(self) -> "Vocabulary":
        """Give the same labels to ask for beside those that people typed, and to be compared as these are.

        Each name once, and ``MAX_LABELS`` at most, also of what ``union`` joined.
        """
        first: dict[str, int] = {}
        for index, name in enumerate(self.names):
            first.setdefault(_as_clip_reads(name), index)
        kept = list(first.values())[:MAX_LABELS]
        vocabulary = Vocabulary.__new__(Vocabulary)
        prompts, synonyms = (tuple(texts[i] for i in kept) for texts in (self.prompts, self.synonyms))
        vocabulary._fill(None, prompts, synonyms)
        return vocabulary

    def to_json(self) -> str:
        """Write JSON: ``{"dataset": name or null, "labels": [[name, synonym, ...], ...]}``.

        A benchmark's labels list the prompt and then all synonyms, of which the prompt need not be one.
        """
        if self.dataset is None:
            labels = self.prompts
        else:
            labels = tuple((*prompt, *rest) for prompt, rest in zip(self.prompts, self.synonyms, strict=True))
        return json.dumps({"dataset": self.dataset, "labels": labels}, ensure_ascii=False)

    @property
    def names(self) -> tuple[str, ...]:
        """A name to show for each label: its first prompt."""
        return tuple(prompts[0] for prompts in self.prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def seen_in(self, training: "Vocabulary") -> tuple[bool, ...]:
        """Which labels a model trained on ``training`` has seen: those that share a synonym with it.

        A benchmark's labels are compared to the letter, as in the literature; labels that people typed
        ignoring case, hyphens and simple plurals ("Traffic-lights" is "traffic light").
        """
        trained = {text for texts in training.synonyms for text in texts}
        if self.dataset is not None:
            return tuple(any(text in trained for text in texts) for texts in self.synonyms)
        trained = {_folded(text) for text in trained | set(training.names)}
        singular_or_plural = trained.union(*map(_plurals, trained))
        return tuple(
            any(
                text in singular_or_plural or not trained.isdisjoint(_plurals(text))
                for text in map(_folded, texts)
            )
            for texts in self.synonyms
        )


@cache
def _packaged(name: str) -> Vocabulary:
    content = json.loads(files("ebseg").joinpath("classes", f"{name}.json").read_text(encoding="utf-8"))
    return Vocabulary._of_dataset(name, content["classes"])


def _prompts(label: str | Sequence[str], position: int) -> tuple[str, ...]:
    """Give a label's strings without white space around them."""
    texts = [label] if isinstance(label, str) else label
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise VocabularyError(f"label {position} is not a name or a list of names: {label!r}")
    return tuple(text.strip() for text in texts)


def _check(prompts: Sequence[Sequence[str]]) -> None:
    """Raise VocabularyError that names every fault of the labels, with their positions from 1."""
    if not 1 <= len(prompts) <= MAX_LABELS:
        raise VocabularyError(f"{len(prompts)} labels given; a vocabulary has 1 to {MAX_LABELS}")
    faults = []
    first: dict[str, tuple[str, int]] = {}
    for position, texts in enumerate(prompts, start=1):
        if not texts:
            faults.append(f"label {position} has no name")
        for text in texts:
            key = _as_clip_reads(text)
            if not any(character.isprintable() and character != " " for character in text):
                faults.append(f"label {position} has an empty name")
            elif any("\ud800" <= character <= "\udfff" for character in text):
                faults.append(f"label {position} {text!r} is not valid Unicode text")
            elif key in first:
                earlier, where = first[key]
                place = "the same label" if where == position else f"label {where}"
                faults.append(f"label {position} {text!r} repeats {earlier!r} of {place}")
            else:
                first[key] = (text, position)
    if faults:
        raise VocabularyError("; ".join(faults))


def _as_clip_reads(text: str) -> str:
    """Ignore what CLIP's tokenizer ignores: case, white space, composed or decomposed letters."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _folded(text: str) -> str:
    """Drop case, hyphens and underscores, for comparison with trained names."""
    return " ".join(text.casefold().replace("-", " ").replace("_", " ").split())


def _plurals(name: str) -> set[str]:
    """Make the plurals that a singular name may have, its last word inflected.

    Only plurals are made, never singulars: a wrong plural ("mans") is no word that anybody types, while
    cutting an "s" off would turn "grass", "bus" and "glass" into other words.
    """
    head, _, word = name.rpartition(" ")
    plurals = {word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")}
    if word.endswith("o"):
        plurals.add(word + "es")
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        plurals = {word[:-1] + "ies"}
    if word.endswith("f"):
        plurals.add(word[:-1] + "ves")
    if word.endswith("fe"):
        plurals.add(word[:-2] + "ves")
    if word.endswith("man"):
        plurals.add(word[:-3] + "men")
    if word in _IRREGULAR_PLURALS:
        plurals.add(_IRREGULAR_PLURALS[word])
    return {f"{head} {plural}".strip() for plural in plurals}
