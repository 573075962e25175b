"""Texts with places for values: `--width={width}`; `{{` and `}}` stand for the brackets themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


def placeholders(text: str) -> dict[str, int]:
    """Names in a template, each with the offset where it first stands."""
    found: dict[str, int] = {}
    for match in _PLACE.finditer(text):
        if match[1]:
            found.setdefault(match[1], match.start())
    return found


def put(text: str, values: Mapping[str, str]) -> str:
    """The template with these values in place; what they do not name stays, and brackets in a value mean themselves."""

    def one(match: re.Match[str]) -> str:
        value = values.get(match[1] or "")
        return match[0] if value is None else value.replace("{", "{{").replace("}", "}}")

    return _PLACE.sub(one, text)


def plain(text: str, values: Mapping[str, str]) -> str:
    """The text of a template. values: of every name that is left in it."""
    return _PLACE.sub(lambda match: values[match[1]] if match[1] else match[0][0], text)
