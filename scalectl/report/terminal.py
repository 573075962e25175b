"""Finished lines onto a terminal, or into a string. Data never reach the console as markup."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from scalectl.report.look import Look


def emit(lines: Sequence[Text], console: Console) -> None:
    """Prints finished lines as they are: nothing is wrapped, cropped, highlighted or read as markup."""
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False, highlight=False, markup=False, emoji=False)


def to_text(lines: Sequence[Text], look: Look, *, color: bool) -> str:
    """The lines as one string, with escape sequences if `color`; for files and golden tests."""
    console = Console(
        file=io.StringIO(),
        width=look.width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        _environ={},
    )
    emit(lines, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
