"""What a sweep file in a store remembers, as comments at its end: its overrides (`--set`), and where its code was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

RECORDED = "#: --set "  # begins a line that remembers an override
BESIDE = "#: beside "  # begins the line that remembers a folder


def with_overrides_recorded(text: str, overrides: Sequence[str], folder: str = "") -> str:
    """A sweep file that remembers its overrides, as comments at its end; `recorded_overrides` reads them back.

    Args: text: of the file; what it remembered before is replaced; overrides: `KEY=VALUE` each; folder: of the script
    or the model that it names, which is not beside the file in the store; "" for none.
    """
    lines = _without_recorded(text)
    if folder:
        lines.append(BESIDE + json.dumps(folder))
    last = dict.fromkeys(reversed(overrides))  # one given twice counts where it stands last
    for override in reversed(last):
        plain = override == override.strip() != "" and override.isprintable() and not override.startswith('"')
        lines.append(RECORDED + (override if plain else json.dumps(override).replace("\x7f", "\\u007f")))
    return "\n".join(lines) + "\n"


def recorded_overrides(text: str) -> tuple[str, ...]:
    """The overrides that a sweep file of a store remembers, in the order in which they were given."""
    found = []
    for line in _lines(text)[len(_without_recorded(text)) :]:
        if line.startswith(BESIDE):
            continue
        held = line.removeprefix(RECORDED)
        with contextlib.suppress(ValueError):
            held = json.loads(held) if held.startswith('"') else held
        found.append(held)
    return tuple(found)


def recorded_folder(text: str) -> str:
    """Where the code of a sweep file of a store was found, "" if it does not say."""
    for line in _lines(text)[len(_without_recorded(text)) :]:
        if line.startswith(BESIDE):
            with contextlib.suppress(ValueError):
                held = json.loads(line.removeprefix(BESIDE))
                return held if isinstance(held, str) else ""
    return ""


def _lines(text: str) -> list[str]:
    return text.rstrip().replace("\r\n", "\n").split("\n")


def _without_recorded(text: str) -> list[str]:
    lines = _lines(text)
    while lines and lines[-1].startswith((RECORDED, BESIDE)):
        lines.pop()
    return lines
