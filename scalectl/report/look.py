"""How text looks on one terminal: its width, its alphabet, and what data may never do to it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Spellings where the encoding is not UTF-8. Everything else outside ASCII is printed as its code point.
ASCII = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "σ": "sigma",
    "…": "..",
    "×": "x",
    "·": ",",
    "±": "+-",
    "≈": "~",
    "≤": "<=",
    "≥": ">=",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "✔": "*",
    "✘": "x",
    "›": ">",
    "∞": "inf",
    "′": "'",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "²": "^2",
    "³": "^3",
}
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Control, format (direction overrides, zero-width), surrogate, private and unassigned code points, and line
# separators: they move the cursor, hide or reorder text, or cannot be encoded.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def harmless(text: str) -> str:
    r"""The text with every character that could act on a terminal spelt out: ESC -> ``\x1b``.

    Square brackets stay as they are: nothing here is ever parsed as markup.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


@dataclass(frozen=True)
class Look:
    """Width [columns] and alphabet of one terminal."""

    width: int = 80
    unicode: bool = True

    def text(self, text: str) -> str:
        """Data or prose as this terminal can show it."""
        text = harmless(text)
        if self.unicode or text.isascii():
            return text
        return "".join(c if c.isascii() else ASCII.get(c, _spelt(c)) for c in text)

    def power(self, exponent: int, digit: int = 1) -> str:
        """`digit` x 10^exponent as an axis label: 10³ and 2·10³, or 1e3 and 2e3 in ASCII."""
        if not self.unicode:
            return f"{digit}e{exponent}"
        return f"{f'{digit}·' if digit > 1 else ''}10{str(exponent).translate(SUPERSCRIPT)}"


def look_of(console: Console, environ: Mapping[str, str]) -> Look:
    """The look of a console: plain ASCII where its encoding is not UTF-8 or TERM is `dumb`."""
    utf8 = console.encoding.lower().replace("-", "").startswith("utf8")
    return Look(width=max(MIN_WIDTH, console.width), unicode=utf8 and environ.get("TERM") != "dumb")


MIN_WIDTH = 40  # ours: below it no table holds a run id, a value and its interval


def open_console(file: IO[str], environ: Mapping[str, str], *, width: int | None = None) -> Console:
    """A console whose width and colour follow the flag, then the environment, then what the file is.

    Escapes go to terminals only, unless FORCE_COLOR is set; NO_COLOR (any value but empty, no-color.org) and
    TERM=dumb end them altogether. Without a width from the caller, COLUMNS or a terminal, lines have 80 columns.
    """
    from rich.console import Console as Rich  # 35 ms that a module importing only the views does not pay

    class Console(Rich):
        def on_broken_pipe(self) -> None:
            """Leave it to the caller: rich would exit with code 1, and `| head -1` is no failure."""
            raise BrokenPipeError

    forced = environ.get("FORCE_COLOR", "") not in ("", "0")
    dumb = environ.get("TERM") == "dumb"
    plain = bool(environ.get("NO_COLOR")) or dumb or not (forced or file.isatty())
    columns = environ.get("COLUMNS", "")
    if width is None and columns.isdigit() and int(columns) > 0:
        width = int(columns)
    elif width is None and not file.isatty():
        width = 80
    return Console(
        file=file,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=True if forced and not plain else None,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
        _environ=environ,
    )
