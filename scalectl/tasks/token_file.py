"""Token files: a flat little-endian array, training tokens first and held-out ones behind, and a sidecar of JSON.

`scalectl prepare` writes them, `tokens:PATH` reads them as a memory map, and what a sweep tokenises by itself is kept
as one in the user's cache. A file is checked against its sidecar once: length, digest, largest token; what was found is
remembered for its path, size and time of change.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from scalectl.core.cache import cache_folder, keep, recall, stamp
from scalectl.core.errors import BudgetRefused, DataError, disk_is_full
from scalectl.core.names import escaped, shown
from scalectl.tasks.corpus import Corpus, Document, digest
from scalectl.tasks.tokenizer import AS_BYTES, Tokenizer

Dtype = Literal["uint8", "uint16", "uint32"]

SCHEMA = "scalectl/tokens@1"
AT_ONCE = 4 << 20  # bytes of text tokenised at once; ours: a second of work, 100 MB of Python's integers
CHUNK = 1 << 24  # bytes of a file looked at in one piece
CHECKED = 1_000  # held-out documents on which a tokeniser has to prove that it keeps text whole; ours
IN_MEMORY = 64 << 20  # bytes of text that are read again by every process rather than kept in the cache; ours
DIRECT = 2 << 30  # bytes of text that a sweep reads by itself
DIRECT_TOKENIZED = 64 << 20  # bytes of text that a sweep tokenises by itself; ours: some 20 s on one core


@dataclass(frozen=True)
class Sidecar:
    """What a token file holds.

    vocab: symbols; train_tokens, held_out_tokens: the split; train_bytes, held_out_bytes: of text, each separator
    counted as one; tokenizer, tokenizer_digest: its name and the digest of its content; token_bytes: bytes of text of
    each symbol as `packed`, "" if the tokeniser does not keep text whole; fingerprint: of documents, split and
    tokeniser; sha256: of the array; source, stamp, origin: of the corpus.
    """

    dtype: Dtype
    vocab: int
    train_tokens: int
    held_out_tokens: int
    train_bytes: int
    held_out_bytes: int
    documents: int
    tokenizer: str
    tokenizer_digest: str
    token_bytes: str
    fingerprint: str
    sha256: str
    source: str
    stamp: str
    origin: str

    def dump(self) -> bytes:
        """As JSON."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Streams:
    """A corpus as tokens.

    train, held: flat arrays, in memory or mapped; token_bytes: bytes of text of each symbol, shape (vocab,), None where
    that is not known.
    """

    train: npt.NDArray[Any]
    held: npt.NDArray[Any]
    vocab: int
    token_bytes: npt.NDArray[np.uint16] | None
    fingerprint: str
    origin: str


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a token file lies."""
    return path.with_name(f"{path.name}.json")


def packed(token_bytes: npt.NDArray[np.uint16] | None) -> str:
    """The table of a sidecar: little-endian 16-bit numbers, deflated, in base 64."""
    return (
        "" if token_bytes is None else base64.b64encode(zlib.compress(token_bytes.astype("<u2").tobytes(), 9)).decode()
    )


def unpacked(text: str, vocab: int) -> npt.NDArray[np.uint16] | None:
    """`packed`, back.

    Raises: ValueError if it is no table of that many symbols.
    """
    if not text:
        return None
    table = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), "<u2").astype(np.uint16)
    if len(table) != vocab:
        raise ValueError(f"token_bytes has {len(table)} symbols, not {vocab}")
    return table


# --- writing


def write_tokens(
    corpus: Corpus,
    tokenizer: Tokenizer,
    file: BinaryIO,
    seen: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> Sidecar:
    """Tokenise a corpus into an open file, `AT_ONCE` bytes of text at a time.

    Args: seen: told how much was done after every piece [bytes of text, tokens]; limit: refuse more text [bytes].
    Raises: DataError if there is too little text or too much.
    """
    array, whole = _Digested(file), hashlib.sha256()
    counts = {held: [0, 0, 0] for held in (False, True)}  # tokens, bytes of text, documents
    whole_text = tokenizer.token_bytes is not None
    separator = np.array([tokenizer.separator], tokenizer.dtype).astype(_little(tokenizer.dtype)).tobytes()
    done = 0
    with tempfile.TemporaryFile() as behind:
        for piece in _pieces(_read(corpus)):
            for document, ids in zip(piece, tokenizer.encode([held.text for held in piece]), strict=True):
                whole.update(digest(document.key.encode()) + digest(document.text))
                count, out = counts[document.held], behind if document.held else array
                if corpus.joined and count[2]:
                    out.write(separator)
                    count[0] += 1
                    count[1] += 1
                out.write(ids.astype(_little(tokenizer.dtype), copy=False).tobytes())
                count[0] += len(ids)
                count[1] += len(document.text)
                count[2] += 1
                if document.held and whole_text and count[2] <= CHECKED:
                    whole_text = tokenizer.faithful(document.text, ids)
            done = counts[False][1] + counts[True][1]
            if limit is not None and done > limit:
                raise too_large(corpus, tokenizer, limit)
            if seen is not None:
                seen(done, counts[False][0] + counts[True][0])
        behind.seek(0)
        shutil.copyfileobj(behind, array, CHUNK)
    train, held = counts[False], counts[True]
    if train[0] < 2 or held[0] < 2:
        unit = "bytes" if tokenizer is AS_BYTES else "tokens"
        raise DataError(
            f"the text of {corpus.source!r} is too short: {train[0]} {unit} to train on, {held[0]} held out",
            remedy="give it more text; a single file is split in blocks of 16 KiB, all else by documents",
        )
    fingerprint = whole.hexdigest()
    if tokenizer is not AS_BYTES:
        fingerprint = digest(f"{fingerprint} {tokenizer.digest} {tokenizer.vocab}".encode()).hex()
    return Sidecar(
        dtype=tokenizer.dtype,  # type: ignore[arg-type]
        vocab=tokenizer.vocab,
        train_tokens=train[0],
        held_out_tokens=held[0],
        train_bytes=train[1],
        held_out_bytes=held[1],
        documents=train[2] + held[2],
        tokenizer=tokenizer.name,
        tokenizer_digest=tokenizer.digest,
        token_bytes=packed(tokenizer.token_bytes) if whole_text else "",
        fingerprint=f"sha256:{fingerprint}",
        sha256=array.digest.hexdigest(),
        source=corpus.source,
        stamp=corpus.stamp,
        origin=corpus.origin,
    )


class _Digested:
    """A file that is only written, and the digest of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _read(corpus: Corpus) -> Iterator[Document]:
    """The documents; a file that cannot be read is named."""
    try:
        yield from corpus.documents()
    except OSError as error:
        where = escaped(str(error.filename or corpus.source), 200)
        if disk_is_full(error):
            raise BudgetRefused(f"no space left to load {where}", remedy="free some space and try again") from error
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error


def _pieces(documents: Iterable[Document]) -> Iterator[list[Document]]:
    piece: list[Document] = []
    size = 0
    for document in documents:
        piece.append(document)
        size += len(document.text)
        if size >= AT_ONCE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _little(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def too_large(corpus: Corpus, tokenizer: Tokenizer, limit: int) -> DataError:
    """More text than a sweep reads by itself."""
    source = escaped(corpus.source, 200)
    how = "" if tokenizer is AS_BYTES else " --tokenizer ..."
    verb = "reads" if tokenizer is AS_BYTES else "tokenises"
    return DataError(
        f"{shown(corpus.source)} has more than {limit >> 20} MiB of text, the most that a sweep {verb} by itself",
        remedy=f"scalectl prepare '{source}'{how} -o corpus.bin, then data.source = \"tokens:corpus.bin\"",
    )


# --- corpora of sweeps


def streams(corpus: Corpus, tokenizer: Tokenizer) -> Streams:
    """A corpus as tokens: a small one of bytes in memory, any other as a token file of the cache.

    Raises: DataError if it is too short, or more than a sweep tokenises by itself.
    """
    limit = DIRECT if tokenizer is AS_BYTES else DIRECT_TOKENIZED
    if corpus.size is not None and corpus.size > limit:
        raise too_large(corpus, tokenizer, limit)
    if tokenizer is AS_BYTES and corpus.size is not None and corpus.size <= IN_MEMORY:
        return _in_memory(corpus, tokenizer, limit)
    key = f"{SCHEMA} {corpus.source.partition(':')[0]} {corpus.stamp} {tokenizer.digest}"
    path = cache_folder() / "corpora" / f"{digest(key.encode()).hex()[:32]}.bin"
    with contextlib.suppress(DataError, OSError):  # not there, or damaged: made again
        found = open_sidecar(path)
        return _mapped(path, found, corpus.origin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = _write_file(corpus, tokenizer, path, limit)
    except OSError:
        return _in_memory(corpus, tokenizer, limit)
    return _mapped(path, written, corpus.origin)


def _write_file(corpus: Corpus, tokenizer: Tokenizer, path: Path, limit: int) -> Sidecar:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            found = write_tokens(corpus, tokenizer, file, limit=limit)
        temporary.replace(path)
        temporary.write_bytes(found.dump())
        temporary.replace(sidecar_path(path))
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _in_memory(corpus: Corpus, tokenizer: Tokenizer, limit: int) -> Streams:
    file = io.BytesIO()
    found = write_tokens(corpus, tokenizer, file, limit=limit)
    return _split(np.frombuffer(file.getbuffer(), _little(found.dtype)), found, corpus.origin)


def _split(array: npt.NDArray[Any], found: Sidecar, origin: str) -> Streams:
    table = unpacked(found.token_bytes, found.vocab)
    train, held = array[: found.train_tokens], array[found.train_tokens :]
    return Streams(train, held, found.vocab, table, found.fingerprint, origin)


def _mapped(path: Path, found: Sidecar, origin: str) -> Streams:
    return _split(map_tokens(path, found.dtype), found, origin)


# --- reading


def open_sidecar(path: Path) -> Sidecar:
    """The sidecar of a token file, checked against the file.

    Raises: DataError if either is missing, damaged, or not of the other.
    """
    name = escaped(sidecar_path(path).name, 100)
    again = "prepare it again: scalectl prepare SOURCE -o PATH.bin"
    try:
        held = json.loads(sidecar_path(path).read_bytes())
        schema = held.pop("schema")
        if schema != SCHEMA:
            raise DataError(f"{name} is of {shown(schema)}; this version reads {SCHEMA}", remedy=again)
        found = Sidecar(**held)
        if found.dtype not in get_args(Dtype) or any(
            type(getattr(found, field)) is not int for field in ("vocab", "train_tokens", "held_out_tokens")
        ):
            raise ValueError(f"dtype {shown(found.dtype)}, vocab {shown(found.vocab)}")
        unpacked(found.token_bytes, found.vocab)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise DataError(f"{name} is no sidecar of a token file: {escaped(str(error), 80)}", remedy=again) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}", remedy=again) from None
    expected = (found.train_tokens + found.held_out_tokens) * np.dtype(found.dtype).itemsize
    size = file_size(path)
    if size != expected:
        raise DataError(f"{escaped(path.name, 100)} has {size} bytes, and its sidecar says {expected}", remedy=again)
    sha256, largest = looked_at(path, found.dtype)
    if sha256 != found.sha256:
        raise DataError(f"{escaped(path.name, 100)} is not the file that its sidecar describes", remedy=again)
    check_vocab(path, largest, found.vocab)
    return found


def check_vocab(path: Path, largest: int, vocab: int) -> None:
    """Raises DataError if a token lies beyond the vocabulary."""
    if largest >= vocab:
        raise DataError(
            f"{escaped(path.name, 100)} holds token {largest}, beyond a vocabulary of {vocab}",
            remedy="another data.dtype or data.vocab, or prepare it again",
        )


def looked_at(path: Path, dtype: str) -> tuple[str, int]:
    """Digest of a file and its largest token, remembered for its path, size and time of change.

    Raises: DataError if it cannot be read, or is no array of that type.
    """
    size, item = file_size(path), np.dtype(dtype).itemsize
    if size % item or not size:
        what = f"{size} bytes are no array of {dtype}" if size else "it is empty"
        raise DataError(f"{escaped(path.name, 100)}: {what}", remedy="it was cut short, or data.dtype is another")
    key = f"{dtype} {stamp(path)}"
    held = recall("tokens", key)
    if isinstance(held, list) and len(held) == 2:
        return str(held[0]), int(held[1])
    whole, largest = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                whole.update(chunk)
                largest = max(largest, int(np.frombuffer(chunk, _little(dtype)).max()))
    except OSError as error:
        raise DataError(f"{escaped(path.name, 100)} cannot be read: {error.strerror}") from None
    keep("tokens", key, [whole.hexdigest(), largest])
    return whole.hexdigest(), largest


def file_size(path: Path) -> int:
    """Size of a token file [bytes].

    Raises: DataError if it is not there.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        what = f"no token file at {shown(os.fspath(path), 200)}: {error.strerror}"
        raise DataError(what, remedy="scalectl prepare SOURCE -o PATH.bin writes one") from None


def map_tokens(path: Path, dtype: str) -> npt.NDArray[Any]:
    """A token file as an array that is read from disk when it is looked at."""
    mapped: npt.NDArray[Any] = np.asarray(np.memmap(path, _little(dtype), "r"))
    return mapped
