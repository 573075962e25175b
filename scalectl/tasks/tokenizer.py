"""Tokenisers: bytes as they are, or a `tokenizers` JSON file.

Between two documents stands a separator: the tokeniser's own end of text, or one symbol beyond its vocabulary. It
counts as one byte of text, as the zero byte does that stands there in bytes, so that bits per byte of one text compare
across tokenisers. Where a tokeniser puts a space of its own before a document, that space is the byte, and the
separator none.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import DataError
from scalectl.core.names import escaped, meant, shown

BYTES = "bytes"
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "<EOS>", "<|im_end|>", "[EOS]")
SMALLEST_VOCAB = 257  # of a trained tokeniser: every byte, and the end of a text
EXTRA = "pip install 'scalectl[hf]'"

Ids = npt.NDArray[Any]


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes tokens.

    name: for people; digest: of its whole content, "" for bytes; vocab: symbols, the separator among them;
    token_bytes: bytes of text of each symbol, shape (vocab,), None where a symbol is not a fixed piece of text;
    encode: documents -> the tokens of each; faithful: whether tokens give a document back.
    """

    name: str
    digest: str
    vocab: int
    separator: int
    token_bytes: npt.NDArray[np.uint16] | None
    encode: Callable[[Sequence[bytes]], list[Ids]]
    faithful: Callable[[bytes, Ids], bool]

    @property
    def dtype(self) -> str:
        """The smallest unsigned integers that hold every symbol."""
        return "uint8" if self.vocab <= 1 << 8 else "uint16" if self.vocab <= 1 << 16 else "uint32"


def _raw(documents: Sequence[bytes]) -> list[Ids]:
    return [np.frombuffer(text, np.uint8) for text in documents]


def _always(text: bytes, ids: Ids) -> bool:
    return True


AS_BYTES = Tokenizer(BYTES, "", 256, 0, np.ones(256, np.uint16), _raw, _always)


def open_tokenizer(name: str) -> Tokenizer:
    """`bytes`, or the path of a `tokenizers` JSON file.

    Raises: DataError if there is no such file, it is no tokeniser, or the library is missing.
    """
    if name == BYTES:
        return AS_BYTES
    path = Path(name).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        guess = f"did you mean {BYTES}?" if meant(name, (BYTES,)) else 'give a `tokenizers` JSON file, or "bytes"'
        raise DataError(f"no tokeniser at {shown(name)}: {error.strerror}", remedy=guess, key="tokenizer") from None
    return _from_json(content, path.name)


def library() -> Any:
    """The `tokenizers` package.

    Raises: DataError with the line that installs it.
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise DataError("the package tokenizers is not installed", remedy=EXTRA, key="tokenizer") from None


@functools.lru_cache(maxsize=4)
def _from_json(content: bytes, name: str) -> Tokenizer:
    package = library()
    try:
        about = json.loads(content)
        held = package.Tokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001 the library raises bare Exceptions
        said = f"{escaped(name)} is not a `tokenizers` JSON file: {escaped(str(error), 80)}"
        raise DataError(
            said, remedy="save it with tokenizer.save(PATH) of the package tokenizers", key="tokenizer"
        ) from None
    held.no_truncation()
    held.no_padding()
    held.encode_special_tokens = True  # a special token's name in a text is text
    symbols = held.get_vocab(with_added_tokens=True)
    if not symbols:
        raise DataError(f"{escaped(name)} has no vocabulary", remedy="train it first", key="tokenizer")
    vocab = max(symbols.values()) + 1
    separator = next((symbols[word] for word in END_OF_TEXT if word in symbols), vocab)
    vocab = max(vocab, separator + 1)
    kind = np.min_scalar_type(vocab - 1)

    def encode(documents: Sequence[bytes]) -> list[Ids]:
        texts = [text.decode("utf-8", "replace") for text in documents]
        return [np.array(e.ids, kind) for e in held.encode_batch_fast(texts, add_special_tokens=False)]

    table = _token_bytes(about, symbols, held.get_added_tokens_decoder(), vocab, separator)
    if table is not None and table[encode([b"a"])[0]].sum() == len(" a"):
        table[separator] = 0

    def faithful(text: bytes, ids: Ids) -> bool:
        """Equal text, and as many bytes as the table says; a space that the tokeniser puts in front is its own."""
        whole = text.decode("utf-8", "replace")
        back = held.decode(ids.tolist(), skip_special_tokens=False)
        counted = 0 if table is None else int(table[ids].sum()) - len(whole.encode())
        return back.removeprefix(" ") == whole.removeprefix(" ") and 0 <= counted <= 1

    return Tokenizer(name, f"sha256:{hashlib.sha256(content).hexdigest()}", vocab, separator, table, encode, faithful)


def _token_bytes(
    about: dict[str, Any], symbols: dict[str, int], added: dict[int, Any], vocab: int, separator: int
) -> npt.NDArray[np.uint16] | None:
    """Bytes of text of each symbol: of byte-level pieces their length, of others that of their text; else None.

    Byte-level pieces write each byte as one character; pieces with ▁ for a space write bytes as <0xAB>. Pieces that
    mark the inside of a word in another way (##ing) do not say how much text they stand for.
    """
    parts = {
        held.get("type"): held for key in ("pre_tokenizer", "decoder", "normalizer") for held in _parts(about.get(key))
    }
    table = np.zeros(vocab, np.uint16)
    for piece, symbol in symbols.items():
        if symbol in added:
            size = len(str(added[symbol].content).encode())
        elif "ByteLevel" in parts:
            size = len(piece)
        elif "ByteFallback" in parts or "Metaspace" in parts:
            size = 1 if len(piece) == 6 and piece.startswith("<0x") else len(piece.replace("▁", " ").encode())
        else:
            return None
        table[symbol] = min(size, 65_535)
    table[separator] = 1
    return table


def _parts(held: Any) -> Iterator[dict[str, Any]]:
    """A component of a tokeniser's JSON and those inside it."""
    if isinstance(held, dict):
        yield held
        for inner in (*held.get("pretokenizers", ()), *held.get("decoders", ()), *held.get("normalizers", ())):
            yield from _parts(inner)


def train_tokenizer(documents: Iterable[bytes], vocab: int) -> bytes:
    """A byte-level BPE tokeniser of `vocab` symbols, as the content of a JSON file.

    Every byte is a symbol, so no text is lost. Source: Sennrich et al. 2016, arXiv 1508.07909; bytes: Radford et al.
    2019.
    Raises: DataError if the vocabulary is too small, or the text does not give that many symbols.
    """
    if vocab < SMALLEST_VOCAB:
        raise DataError(f"a vocabulary of {vocab} is too small", remedy=f"at least {SMALLEST_VOCAB}", key="tokenizer")
    package = library()
    level = package.pre_tokenizers.ByteLevel
    held = package.Tokenizer(package.models.BPE())
    held.pre_tokenizer = level(add_prefix_space=False)
    held.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT[0]], initial_alphabet=level.alphabet(), show_progress=False
    )
    held.train_from_iterator((text.decode("utf-8", "replace") for text in documents), trainer)
    if held.get_vocab_size() < vocab:
        raise DataError(
            f"the text gives {held.get_vocab_size()} symbols, fewer than {vocab}",
            remedy="give it more text, or ask for a smaller vocabulary",
            key="tokenizer",
        )
    content: str = held.to_str(pretty=False)
    return content.encode()
