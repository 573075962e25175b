"""Corpora: where documents come from, in a fixed order, each on its side of the split.

Held-out text is apart by document, chosen by a digest: of the name for files of a folder and blocks of one file, so
that adding a file moves no other; of the content for rows and installed packages, so that copies of a document lie on
one side. Documents are read one after the other; none but the current one is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scalectl.core.cache import stamp
from scalectl.core.errors import DataError
from scalectl.core.names import did_you_mean, escaped, shown

HELD_OUT_SHARE = 16  # one document of so many; ours: leaves the stdlib 0.8 MB to be judged on
BLOCK_BYTES = 16_384  # of a single file
SKIPPED = ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "turtledemo")
SUFFIXES = (".txt", ".md", ".rst", ".py", ".c", ".h", ".html", ".tex", ".json", ".csv", ".log")
COLUMN = "text"  # of a table, where none is named
ROWS = 1_024  # of a Parquet file read at once


class Document(NamedTuple):
    """key: what the fingerprint calls it; held: whether it is kept apart to be judged on; text: its bytes."""

    key: str
    held: bool
    text: bytes


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read any number of times.

    origin: what names it beside its source; stamp: what changes when the documents may have changed, without reading
    them; size: of the text [bytes], None where only reading tells; joined: whether a separator stands between two of
    them; documents: in order.
    """

    source: str
    origin: str
    stamp: str
    size: int | None
    joined: bool
    documents: Callable[[], Iterator[Document]]


def find_corpus(source: str, *, characters: bool = False) -> Corpus:
    """The corpus of a source: stdlib, python-packages, text:PATH, parquet:PATH#COLUMN.

    Args: characters: blocks of a single file end between characters, as a tokeniser needs them.
    Raises: DataError if there is nothing, or nothing that can be read.
    """
    kind, _, place = source.partition(":")
    if kind == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return _named(source, f"Python {platform.python_version()}", _library(root))
    if kind == "python-packages":
        return _packages(source)
    if kind == "parquet":
        return _parquet(source, place)
    path = Path(place).expanduser()
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()}
        return _named(source, path.name, files)
    if not path.is_file():
        remedy = 'give data.source = "text:PATH" a file or a folder, or use "stdlib"'
        raise DataError(f"no text at {str(path)!r}", remedy=remedy)
    return _blocks(source, path, characters=characters)


def digest(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def by_content(texts: Iterable[bytes]) -> Iterator[Document]:
    """Documents named by their content. If chance holds none of them out, the last one is."""
    last: Document | None = None
    none_held = True
    for text in texts:
        if last is not None:
            yield last
        key = digest(text).hex()
        held = _apart(key)
        none_held = none_held and not held
        last = Document(key, held, text)
    if last is not None:
        yield last._replace(held=last.held or none_held)


def table_source(place: str) -> tuple[str, str]:
    """PATH and column of `PATH#COLUMN`."""
    path, mark, column = place.rpartition("#")
    return (path, column or COLUMN) if mark else (place, COLUMN)


def _apart(key: str) -> bool:
    return digest(key.encode())[0] % HELD_OUT_SHARE == 0


def _held_names(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """Names in an order that mixes folders, so that a prefix (`unique_tokens`) is a fair sample; those held out."""
    ranked = sorted(names, key=lambda name: digest(name.encode()))
    return ranked, {name for name in ranked if _apart(name)} or set(ranked[-1:])


def listing(files: Iterable[Path]) -> tuple[str, int]:
    """One stamp of many files, and their size [bytes].

    Raises: OSError if one of them cannot be looked at.
    """
    whole, size = hashlib.sha256(), 0
    for path in sorted(files):
        held = stamp(path)
        whole.update(held.encode() + b"\n")
        size += int(json.loads(held)[1])
    return whole.hexdigest(), size


def _named(source: str, origin: str, files: dict[str, Path]) -> Corpus:
    ranked, apart = _held_names(files)

    def documents() -> Iterator[Document]:
        for name in ranked:
            yield Document(name, name in apart, files[name].read_bytes())

    return Corpus(source, origin, *listing(files.values()), True, documents)


def _blocks(source: str, path: Path, *, characters: bool) -> Corpus:
    size = path.stat().st_size
    begins = range(0, size, BLOCK_BYTES)
    _, apart = _held_names(f"block{begin}" for begin in begins)

    def documents() -> Iterator[Document]:
        with path.open("rb") as file:
            for begin in begins:
                text = file.read(begin + BLOCK_BYTES - file.tell())
                if characters:
                    following = file.read(3)
                    rest = _rest_of_character(text, following)
                    file.seek(len(rest) - len(following), os.SEEK_CUR)
                    text += rest
                yield Document(f"block{begin}", f"block{begin}" in apart, text)

    return Corpus(source, path.name, stamp(path), size, False, documents)


def _rest_of_character(text: bytes, following: bytes) -> bytes:
    """What of the following bytes belongs to a UTF-8 character that began in the text."""
    continued = len(following) - len(following.lstrip(bytes(range(0x80, 0xC0))))
    return following[:continued] if text[-1:] >= b"\x80" else b""


def _python_files(root: Path, skipped: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in skipped and not name.startswith("config-")]
        files |= {
            Path(folder, name).relative_to(root).as_posix(): Path(folder, name)
            for name in names
            if name.endswith(".py") and Path(folder, name).is_file()  # a link may lead nowhere
        }
    return files


def _library(root: Path) -> dict[str, Path]:
    """Source files of the standard library by relative name; packages installed beside it are never walked."""
    files = _python_files(root, SKIPPED)
    # _sysconfigdata holds paths and flags of the machine that built Python
    return {name: path for name, path in files.items() if not path.name.startswith("_sysconfigdata")}


def _packages(source: str) -> Corpus:
    """Python source of every package that is installed beside this interpreter, each distinct file once."""
    files: dict[str, Path] = {}
    for root in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):  # in one order
        files |= _python_files(Path(root), ("__pycache__",))
    ranked, _ = _held_names(files)

    def texts() -> Iterator[bytes]:
        seen: set[bytes] = set()
        for name in ranked:
            text = files[name].read_bytes()
            if text and digest(text) not in seen:
                seen.add(digest(text))
                yield text

    origin = f"{len(files)} files of Python {platform.python_version()}"
    return Corpus(source, origin, *listing(files.values()), True, lambda: by_content(texts()))


def _parquet(source: str, place: str) -> Corpus:
    """Rows of a text column, in the order of the shards' names."""
    name, column = table_source(place)
    path = Path(name).expanduser()
    shards = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not shards or not shards[0].is_file():
        raise DataError(f"no Parquet file at {str(path)!r}", remedy='write "parquet:PATH#COLUMN", a file or a folder')
    for shard in shards:
        _check_column(shard, column)

    def texts() -> Iterator[bytes]:
        for shard in shards:
            with _table(shard) as file, _reading(shard):
                for batch in file.iter_batches(ROWS, columns=[column]):
                    yield from filter(None, plain_texts(batch.column(0)))

    held, _ = listing(shards)
    return Corpus(source, f"{path.name}#{column}", f"{held} {column}", None, True, lambda: by_content(texts()))


def plain_texts(column: Any) -> list[bytes | None]:
    """The texts of an Arrow array, as UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    found: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return found


@contextlib.contextmanager
def _reading(shard: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into an error that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = escaped((str(error) or type(error).__name__).splitlines()[0], 100)
        raise DataError(
            f"{escaped(shard.name)} cannot be read: {said}",
            where=escaped(str(shard.parent), 200),
            remedy="it is no Parquet file, or damaged: copy it again",
        ) from error


def _table(shard: Path) -> Any:
    import pyarrow.parquet as pq

    with _reading(shard):
        return pq.ParquetFile(shard)


def _check_column(shard: Path, column: str) -> None:
    with _table(shard) as file:
        schema = file.schema_arrow
    texts = [field.name for field in schema if _is_text(field.type)]
    if column not in schema.names:
        said = f"{escaped(shard.name)} has no column {shown(column)}"
        raise DataError(said, remedy=did_you_mean(column, texts) or "it has no column of text")
    if column not in texts:
        kind = schema.field(column).type
        remedy = f"columns of text: {escaped(', '.join(texts), 200)}" if texts else "it has no column of text"
        raise DataError(f"column {shown(column)} of {escaped(shard.name)} holds {kind}, not text", remedy=remedy)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
                                             pa.types.is_large_binary))  # fmt: skip
