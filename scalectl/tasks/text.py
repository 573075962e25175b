"""Text: Python's own source (`stdlib`, `python-packages`), files (`text:PATH`) or a table (`parquet:PATH#COLUMN`).

As bytes, or as the tokens of a `tokenizers` JSON file. Held-out text is apart by document (tasks/corpus.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from scalectl.core.run import hashed_as, unhashed
from scalectl.tasks.corpus import find_corpus
from scalectl.tasks.token_file import Streams, streams
from scalectl.tasks.tokenizer import BYTES, open_tokenizer
from scalectl.tasks.windows import Description, Windows

PREFIXES = ("text:", "parquet:")
WORDS = ("stdlib", "python-packages")


def kind_of(source: str) -> str:
    """What of a source is identity: where a text lies is not, its content is, by the task's fingerprint."""
    return source.partition(":")[0]


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for text.

    source: `stdlib`, `python-packages`, `text:PATH` or `parquet:PATH#COLUMN`, a relative path from the working
    directory; unique_tokens: repeat only this much of the training text, None for all of it; tokenizer: `bytes` or the
    path of a `tokenizers` JSON file, whose content is identity by the fingerprint.
    """

    source: str = hashed_as(kind_of)
    unique_tokens: int | None = None
    tokenizer: str = unhashed(BYTES)


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is text."""
    return source in WORDS or source.startswith(PREFIXES)


def floor(options: object, context: int) -> float | None:
    """Nobody knows the entropy of text."""
    return None


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint and size.

    Raises: DataError if the text or its tokeniser is missing, damaged or too short.
    """
    return description(_opened(options.source, options.tokenizer), options.unique_tokens)


def open_data(options: Options) -> Windows:
    """The text as windows of tokens."""
    return windows(_opened(options.source, options.tokenizer), options.unique_tokens)


def description(found: Streams, unique_tokens: int | None) -> Description:
    """What a plan has to know of streams of which so many training tokens are used."""
    used = len(found.train) if unique_tokens is None else min(unique_tokens, len(found.train))
    return Description(found.vocab, found.fingerprint, found.origin, used, len(found.held))


def windows(found: Streams, unique_tokens: int | None) -> Windows:
    """Windows of streams of which so many training tokens are used."""
    return Windows(found.train[:unique_tokens][None], found.held[None], found.token_bytes)


@functools.lru_cache(maxsize=4)
def _opened(source: str, tokenizer: str) -> Streams:
    held = open_tokenizer(tokenizer)
    return streams(find_corpus(source, characters=tokenizer != BYTES), held)
