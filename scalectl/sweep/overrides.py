"""Overrides (`--set`) that a sweep file in a store remembers, as comments at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

RECORDED = "#: --set "  # begins a line that remembers an override


def with_overrides_recorded(text: str, overrides: Sequence[str]) -> str:
    """A sweep file that remembers its overrides, as comments at its end; `recorded_overrides` reads them back.

    Args: text: of the file; what it remembered before is replaced; overrides: `KEY=VALUE` each.
    """
    lines = _without_recorded(text)
    last = dict.fromkeys(reversed(overrides))  # one given twice counts where it stands last
    for override in reversed(last):
        plain = override == override.strip() != "" and override.isprintable() and not override.startswith('"')
        lines.append(RECORDED + (override if plain else json.dumps(override).replace("\x7f", "\\u007f")))
    return "\n".join(lines) + "\n"


def recorded_overrides(text: str) -> tuple[str, ...]:
    """The overrides that a sweep file of a store remembers, in the order in which they were given."""
    found = []
    for line in _lines(text)[len(_without_recorded(text)) :]:
        held = line.removeprefix(RECORDED)
        with contextlib.suppress(ValueError):
            held = json.loads(held) if held.startswith('"') else held
        found.append(held)
    return tuple(found)


def _lines(text: str) -> list[str]:
    return text.rstrip().replace("\r\n", "\n").split("\n")


def _without_recorded(text: str) -> list[str]:
    lines = _lines(text)
    while lines and lines[-1].startswith(RECORDED):
        lines.pop()
    return lines
