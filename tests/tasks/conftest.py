"""Small corpora and a small tokeniser, trained once."""

import random

import pytest

from scalectl.tasks import text, tokens
from scalectl.tasks.tokenizer import train_tokenizer

WORDS = [
    "def",
    "class",
    "return",
    "self",
    "für",
    "naïve",
    "数据",
    "λ",
    "if",
    "None",
    "x",
    "value_of",
    "3.14",
    "->",
    "\n",
]


def prose(seed: int, size: int) -> str:
    """About `size` characters of made-up source, with characters of one to three bytes."""
    random_ = random.Random(seed)
    return " ".join(random_.choice(WORDS) for _ in range(size // 5))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Sixty documents."""
    place = tmp_path_factory.mktemp("folder")
    for i in range(60):
        (place / f"{i}.txt").write_text(prose(i, 3_000))
    return place


@pytest.fixture(scope="session")
def bpe(tmp_path_factory, folder):
    """Path of a byte-level BPE of 300 symbols."""
    path = tmp_path_factory.mktemp("bpe") / "bpe300.json"
    path.write_bytes(train_tokenizer((p.read_bytes() for p in sorted(folder.iterdir())), 300))
    return path


@pytest.fixture(autouse=True)
def _afresh():
    """What an earlier test opened in this process is read again."""
    yield
    text._opened.cache_clear()
    tokens._opened.cache_clear()
