"""Data sets of the Hugging Face hub (`hf:NAME#COLUMN`), or of a folder that its loader understands.

The extra package `datasets` streams the rows once, when a sweep that names the data set is planned or prepared; what
came is kept in the cache as any corpus is, so that sweeps after it need neither the package nor the network.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalectl.core.errors import BudgetRefused, DataError, disk_is_full
from scalectl.core.names import did_you_mean, escaped, shown
from scalectl.core.run import hashed_as, unhashed
from scalectl.tasks.corpus import Corpus, by_content, listing, table_source
from scalectl.tasks.text import description, kind_of, windows
from scalectl.tasks.token_file import Streams, streams
from scalectl.tasks.tokenizer import BYTES, EXTRA, open_tokenizer
from scalectl.tasks.windows import Description, Windows

PREFIX = "hf:"
SPLIT = "train"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for a data set of the hub.

    source: `hf:NAME`, or `hf:NAME#COLUMN` where the text is not in `text`; unique_tokens: repeat only this much of the
    training text; tokenizer: `bytes` or the path of a `tokenizers` JSON file; config, split, revision: of the data
    set, "" for its only one. The content that came is identity, by the fingerprint.
    """

    source: str = hashed_as(kind_of)
    unique_tokens: int | None = None
    tokenizer: str = unhashed(BYTES)
    config: str = unhashed("")
    split: str = unhashed(SPLIT)
    revision: str = unhashed("")


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is a data set of the hub."""
    return source.startswith(PREFIX)


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint and size.

    Raises: DataError if the data set, its column, its tokeniser or the package is missing.
    """
    return description(_opened(options), options.unique_tokens)


def open_data(options: Options) -> Windows:
    """The text as windows of tokens."""
    return windows(_opened(options), options.unique_tokens)


@functools.lru_cache(maxsize=4)
def _opened(options: Options) -> Streams:
    corpus = find_data_set(options.source, options.config, options.split, options.revision)
    return streams(corpus, open_tokenizer(options.tokenizer))


def find_data_set(source: str, config: str = "", split: str = SPLIT, revision: str = "") -> Corpus:
    """The corpus of a data set; nothing is loaded before its documents are asked for."""
    name, column = table_source(source.removeprefix(PREFIX))
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name
    files = listing(p for p in folder.rglob("*") if p.is_file())[0] if folder.is_dir() else ""
    stamp = " ".join((place, config, split, revision, column, files))
    origin = " ".join(filter(None, (f"{folder.name if files else name}#{column}", config, split, revision)))
    return Corpus(source, origin, stamp, None, True, lambda: by_content(_texts(place, column, config, split, revision)))


def _texts(name: str, column: str, config: str, split: str, revision: str) -> Iterator[bytes]:
    rows = iter(_load(name, config, split, revision))
    while (row := _next(rows, name)) is not None:
        if column not in row:
            texts = [key for key, held in row.items() if isinstance(held, str)]
            remedy = did_you_mean(column, texts) or "it has no column of text"
            raise DataError(f"{shown(name)} has no column {shown(column)}", remedy=remedy)
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise DataError(f"column {shown(column)} of {shown(name)} holds {type(text).__name__}, not text")
        if text:
            yield text.encode("utf-8", "replace")


def _load(name: str, config: str, split: str, revision: str) -> Any:
    try:
        package = importlib.import_module("datasets")
    except ImportError:
        raise DataError("the package datasets is not installed", remedy=EXTRA) from None
    try:
        return package.load_dataset(name, config or None, split=split, revision=revision or None, streaming=True)
    except Exception as error:  # the package raises errors of all its parts
        raise _refused(name, error) from error


def _next(rows: Iterator[dict[str, Any]], name: str) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except Exception as error:
        raise _refused(name, error) from error


def _refused(name: str, error: Exception) -> DataError | BudgetRefused:
    if disk_is_full(error):
        remedy = "free some space, or name another folder for what is loaded: HF_HOME=DIR"
        return BudgetRefused(f"no space left to load the data set {shown(name)}", remedy=remedy)
    said = escaped((str(error) or type(error).__name__).splitlines()[0], 200)
    return DataError(
        f"the data set {shown(name)} cannot be loaded: {said}",
        remedy="check its name, data.config, data.split and the network",
    )
