"""Token files (`tokens:PATH.bin`): arrays on disk, read as memory maps; what `scalectl prepare` wrote, or anybody else.

A file without a sidecar, as nanoGPT writes them, says nothing of itself: the sweep file gives data.dtype and data.vocab
(or data.tokenizer, which knows it). It has no documents, so its end is held out, or another file is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from scalectl.core.errors import DataError
from scalectl.core.names import escaped, shown
from scalectl.core.run import hashed_as, unhashed
from scalectl.tasks.corpus import HELD_OUT_SHARE, digest
from scalectl.tasks.text import description, kind_of, windows
from scalectl.tasks.token_file import (
    Dtype,
    Streams,
    check_vocab,
    file_size,
    looked_at,
    map_tokens,
    open_sidecar,
    sidecar_path,
    unpacked,
)
from scalectl.tasks.tokenizer import open_tokenizer
from scalectl.tasks.windows import Description, Windows

PREFIX = "tokens:"


@dataclass(frozen=True)
class Options:
    """What a sweep file may say in [data] for a token file.

    source: `tokens:PATH.bin`; unique_tokens: repeat only this much of the training tokens; vocab: symbols of the model,
    None for as many as the sidecar or the tokeniser says. Of a file without a sidecar alone: dtype: of its numbers;
    held_out: another such file to be judged on, "" for the last sixteenth of this one; tokenizer: the JSON file that
    made it, for its vocabulary and the bytes of its symbols. Content is identity by the fingerprint, places are not.
    """

    source: str = hashed_as(kind_of)
    unique_tokens: int | None = None
    vocab: int | None = None
    dtype: Dtype | None = unhashed(None)  # noqa: RUF009 frozen, and a field of the dataclass
    held_out: str = unhashed("")
    tokenizer: str = unhashed("")


def accepts(source: str) -> bool:
    """Whether a source of a sweep file is a token file."""
    return source.startswith(PREFIX)


def describe(options: Options) -> Description:
    """Vocabulary, fingerprint and size, from the sidecar and what was remembered of the file.

    Raises: DataError if a file is missing, damaged, or not what it is said to be.
    """
    return description(_opened(options), options.unique_tokens)


def open_data(options: Options) -> Windows:
    """The file as windows of tokens, mapped."""
    return windows(_opened(options), options.unique_tokens)


@functools.lru_cache(maxsize=4)
def _opened(options: Options) -> Streams:
    path = Path(options.source.removeprefix(PREFIX)).expanduser()
    file_size(path)  # a missing file is missing, whatever else is
    return _prepared(path, options) if sidecar_path(path).exists() else _raw(path, options)


def _prepared(path: Path, options: Options) -> Streams:
    held = open_sidecar(path)
    for key, given in (("dtype", options.dtype), ("held_out", options.held_out), ("tokenizer", options.tokenizer)):
        if given and given != getattr(held, key, None):
            what = f"{escaped(path.name, 100)} has a sidecar, which says this; {shown(given)} is for files without one"
            raise DataError(what, remedy=f"drop data.{key}", key=key)
    vocab = _vocab(path, options.vocab, held.vocab)
    array = map_tokens(path, held.dtype)
    facts = f"{held.sha256} {held.train_tokens} {vocab} {held.token_bytes}"
    return Streams(
        array[: held.train_tokens],
        array[held.train_tokens :],
        vocab,
        unpacked(held.token_bytes, held.vocab),
        f"sha256:{digest(facts.encode()).hex()}",
        f"{path.name} of {held.source}, tokenizer {held.tokenizer}",
    )


def _raw(path: Path, options: Options) -> Streams:
    if options.dtype is None:
        raise DataError(
            f"{escaped(path.name, 100)} has no sidecar that says what it holds",
            remedy='give data.dtype ("uint16" for files of nanoGPT) and data.vocab or data.tokenizer',
            key="dtype",
        )
    tokenizer = open_tokenizer(options.tokenizer) if options.tokenizer else None
    if options.vocab is None and tokenizer is None:
        raise DataError(
            f"{escaped(path.name, 100)} has no sidecar that says how many symbols it has",
            remedy="give data.vocab (50257 for GPT-2), or data.tokenizer",
            key="vocab",
        )
    vocab = _vocab(path, options.vocab, 0 if tokenizer is None else tokenizer.vocab)
    known = vocab if tokenizer is None else tokenizer.vocab
    sha256, largest = looked_at(path, options.dtype)
    check_vocab(path, largest, known)
    train = map_tokens(path, options.dtype)
    facts = f"raw {sha256} {vocab} {'' if tokenizer is None else tokenizer.digest}"
    if options.held_out:
        other = Path(options.held_out).expanduser()
        other_sha256, largest = _of_held_out(other, options.dtype)
        if other_sha256 == sha256:
            what = f"{escaped(other.name, 100)} holds the tokens that are trained on"
            raise DataError(what, remedy="name a file of other text, or drop data.held_out", key="held_out")
        check_vocab(other, largest, known)
        held, facts = map_tokens(other, options.dtype), f"{facts} {other_sha256}"
    else:
        cut = len(train) - max(1, len(train) // HELD_OUT_SHARE)
        train, held = train[:cut], train[cut:]
    if len(train) < 2 or len(held) < 2:
        what = f"{escaped(path.name, 100)} is too short: {len(train)} tokens to train on, {len(held)} held out"
        raise DataError(what, remedy="give it more text")
    table = None if tokenizer is None else tokenizer.token_bytes
    origin = path.name if tokenizer is None else f"{path.name}, tokenizer {tokenizer.name}"
    return Streams(train, held, vocab, table, f"sha256:{digest(facts.encode()).hex()}", origin)


def _of_held_out(path: Path, dtype: Dtype) -> tuple[str, int]:
    try:
        return looked_at(path, dtype)
    except DataError as error:
        raise DataError(error.what, remedy=error.remedy, key="held_out") from None


def _vocab(path: Path, asked: int | None, known: int) -> int:
    """A model may have more symbols than its text, for the sake of round shapes; never fewer."""
    if asked is not None and asked < known:
        raise DataError(f"{asked} symbols are fewer than the {known} of {escaped(path.name, 100)}", key="vocab")
    return known if asked is None else asked
