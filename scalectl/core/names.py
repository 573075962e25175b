"""Names: which are allowed, which one was meant, and how foreign text is quoted back safely."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PUBLISHED = "ref:"  # before the name of a published table, where a TARGET is asked for
SHOWN = 60  # characters of foreign text in a message; ours: with its key it still fits a line of 80


def is_name(text: str) -> bool:
    """Whether the text may name a sweep: it is safe as a folder, in a shell and in a terminal."""
    return NAME.fullmatch(text) is not None


def shown(value: object, limit: int = SHOWN) -> str:
    """Show a foreign value in a message: text quoted, all shortened, no character that a terminal obeys."""
    if isinstance(value, str):
        return f'"{escaped(value, limit)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 4 * limit:  # str() of a huge integer raises ValueError
        return "a huge integer"
    if isinstance(value, list | tuple):
        return escaped("[" + ", ".join(shown(item, limit) for item in value[:limit]) + "]", limit)
    if isinstance(value, dict):
        return escaped("{ " + ", ".join(list(map(str, value))[:limit]) + " }", limit)
    return escaped(str(value), limit)


def escaped(text: str, limit: int = SHOWN) -> str:
    """Cut the text to one line of about `limit` printable characters: escape codes and line ends become visible."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def meant(word: str, known: Iterable[str]) -> str | None:
    """Guess the known name that was meant, None if nothing is close.

    Source: difflib's ratio; its default cutoff of 0.6 is kept. Words beyond any name's length are not compared.
    """
    if len(word) > 2 * SHOWN:
        return None
    names = list(known)
    # whole, and without their table: `lerning` for train.learning and the like
    folded = {name.rsplit(".", 1)[-1].lower(): name for name in names} | {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(folded), n=1)
    return folded[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Say which name was probably meant by an unknown word, or what is allowed if that is short."""
    names = sorted(known)
    guess = meant(word, names)
    if guess is not None:
        return f"did you mean {guess}?"
    if names and sum(map(len, names)) <= 4 * SHOWN:
        return f"known: {', '.join(names)}"
    return None
