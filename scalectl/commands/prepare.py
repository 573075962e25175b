"""`scalectl prepare`: a corpus tokenised once into a token file, from which sweeps run offline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scalectl.core.errors import DataError, StoreError, UsageError
from scalectl.core.names import escaped, is_name, shown
from scalectl.store.files import atomic_write
from scalectl.tasks import hf, text, tokens
from scalectl.tasks.corpus import Corpus, find_corpus
from scalectl.tasks.token_file import Sidecar, open_sidecar, sidecar_path, write_tokens
from scalectl.tasks.tokenizer import BYTES, Tokenizer, open_tokenizer, train_tokenizer

TRAINED_ON = 100_000_000  # bytes of training text that a tokeniser learns from; ours: merges are settled long before


@dataclass(frozen=True)
class TokenFile:
    """What lies at `path` now.

    source: for the sweep file; fresh: whether it was written by this command, or was up to date; tokenizer: the path
    of its file, or "bytes"; bytes_per_token: of the held-out text, None where the tokeniser does not keep text whole;
    size: of the file [bytes].
    """

    path: Path
    source: str
    fresh: bool
    corpus: str
    tokenizer: str
    vocab: int
    dtype: str
    documents: int
    train_tokens: int
    held_out_tokens: int
    bytes_per_token: float | None
    size: int
    fingerprint: str


def run(
    source: str,
    output: str | None = None,
    *,
    tokenizer: str = BYTES,
    train_vocab: int | None = None,
    config: str = "",
    split: str = hf.SPLIT,
    revision: str = "",
    seen: Callable[[int, int], None] | None = None,
) -> TokenFile:
    """Tokenise a source into a token file and its sidecar; nothing is done if they hold it already.

    Args: source: as in data.source; output: the file, named after the source if None; train_vocab: train a tokeniser
    of so many symbols on the training text first, and keep it beside the file; seen: told what is done so far
    [bytes of text, tokens].
    Raises: DataError for a source or tokeniser that cannot be used; UsageError for a file that cannot be written or
    belongs to somebody else; BudgetRefused for a full disk, and then no file of this attempt is left.
    """
    whole = train_vocab is not None or tokenizer != BYTES
    corpus = _corpus(source, config, split, revision, characters=whole)
    path = Path(output) if output else Path(f"{_name(source)}.bin")
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {escaped(str(path.parent), 200)}", remedy="name another file: -o PATH.bin"
        )
    if _is_read(path, source):
        what = f"{escaped(str(path), 200)} lies in the folder that is read: its sidecar would become a document"
        raise UsageError(what, remedy="name a file elsewhere: -o PATH.bin")
    there = _there(path)
    with contextlib.ExitStack() as undo:
        if train_vocab is not None:
            place, fresh = _trained(corpus, path, train_vocab, there)
            tokenizer = str(place)
            if fresh:  # left behind by a failure it would be somebody else's to the next attempt
                undo.callback(place.unlink, missing_ok=True)
        held = open_tokenizer(tokenizer)
        wanted = (corpus.stamp, source, held.digest)
        ready = there is not None and (there.stamp, there.source, there.tokenizer_digest) == wanted
        written = there if there is not None and ready else _write(path, corpus, held, seen)
        undo.pop_all()
    return _view(path, written, tokenizer, fresh=not ready)


def _corpus(source: str, config: str, split: str, revision: str, *, characters: bool) -> Corpus:
    if hf.accepts(source):
        return hf.find_data_set(source, config, split, revision)
    if (config, split, revision) != ("", hf.SPLIT, ""):
        raise UsageError("--config, --split and --revision are for hf:NAME", remedy="leave them out")
    if text.accepts(source):
        return find_corpus(source, characters=characters)
    if tokens.accepts(source):
        raise UsageError(f"{shown(source)} is a token file already", remedy=f'data.source = "{escaped(source, 200)}"')
    known = f"{', '.join(text.WORDS)}, text:PATH, parquet:PATH#COLUMN, hf:NAME"
    raise UsageError(f"{shown(source)} is no corpus", remedy=f"known: {known}")


def _name(source: str) -> str:
    """A file's name for a source: of its file, folder or data set."""
    kind, mark, place = source.partition(":")
    name = Path(place.partition("#")[0]).expanduser().resolve().stem if mark else kind
    return name if is_name(name) else "corpus"


def _is_read(path: Path, source: str) -> bool:
    """Whether what is written beside a token file would lie in its own corpus."""
    kind, _, place = source.partition(":")
    folder = Path(place.partition("#")[0]).expanduser()
    return kind in ("text", "hf") and folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def _there(path: Path) -> Sidecar | None:
    """The sidecar of a file that an earlier `prepare` wrote; None if there is none, or it is damaged.

    Raises: UsageError for a file that is not of our making.
    """
    if not path.exists():
        return None
    if not sidecar_path(path).exists():
        what = f"{escaped(str(path), 200)} exists already, and has no sidecar: prepare did not write it"
        raise UsageError(what, remedy="name another file: -o PATH.bin")
    try:
        return open_sidecar(path)
    except DataError:
        return None


def _trained(corpus: Corpus, path: Path, vocab: int, there: Sidecar | None) -> tuple[Path, bool]:
    """The file of a tokeniser that was trained on this corpus, and whether it is new; one that is there is kept."""
    place = path.with_name(f"{path.stem}.tokenizer.json")
    if place.exists():
        held = open_tokenizer(str(place))
        ours = there is not None and there.tokenizer_digest == held.digest
        if ours and there is not None and there.stamp == corpus.stamp and held.vocab == vocab:
            return place, False
        if not ours:
            what = f"{escaped(str(place), 200)} exists already"
            raise UsageError(
                what, remedy=f"use it with --tokenizer {escaped(str(place), 200)}, or name another -o PATH.bin"
            )
    _put(place, train_tokenizer(_learnt_from(corpus), vocab))
    return place, True


def _learnt_from(corpus: Corpus) -> Iterator[bytes]:
    """Training documents, as many as a tokeniser learns from."""
    size = 0
    for document in corpus.documents():
        if size > TRAINED_ON:
            return
        if not document.held:
            size += len(document.text)
            yield document.text


def _write(path: Path, corpus: Corpus, held: Tokenizer, seen: Callable[[int, int], None] | None) -> Sidecar:
    found: list[Sidecar] = []
    try:
        atomic_write(path, lambda file: found.append(write_tokens(corpus, held, file, seen)))
    except StoreError as error:
        raise _unwritable(path, error) from error
    try:
        _put(sidecar_path(path), found[0].dump())
    except BaseException:
        path.unlink(missing_ok=True)  # without its sidecar it would be somebody else's to the next attempt
        raise
    return found[0]


def _put(path: Path, content: bytes) -> None:
    try:
        atomic_write(path, content)
    except StoreError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: StoreError) -> UsageError:
    what = f"{escaped(str(path), 200)} cannot be written"
    return UsageError(what, where=error.where, remedy="name a file in a writable folder: -o PATH.bin")


def _view(path: Path, held: Sidecar, tokenizer: str, *, fresh: bool) -> TokenFile:
    whole = held.token_bytes != ""
    return TokenFile(
        path=path,
        source=f"tokens:{path}",
        fresh=fresh,
        corpus=held.source,
        tokenizer=tokenizer,
        vocab=held.vocab,
        dtype=held.dtype,
        documents=held.documents,
        train_tokens=held.train_tokens,
        held_out_tokens=held.held_out_tokens,
        bytes_per_token=held.held_out_bytes / held.held_out_tokens if whole else None,
        size=path.stat().st_size,
        fingerprint=held.fingerprint,
    )
