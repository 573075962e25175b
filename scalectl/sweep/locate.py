"""Where things stand in a TOML text: tomllib gives values, and an error needs lines.

The text has already been read by tomllib, so this scanner only has to find its way, not to judge. Paths are tuples of
keys and indices: ("model", "d_model", "grid", 1), ("block", 0, "train", "lr").
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scalectl.core.names import escaped

Path = tuple[str | int, ...]

SNIPPET = 100  # characters of a line shown in an error; ours: a long grid stays one readable line


class Place(NamedTuple):
    """Where a key or a value begins: line and column (1-based) and the characters it takes on that line."""

    line: int
    column: int
    width: int


@dataclass(frozen=True)
class Places:
    """Places of the keys and of the values of one TOML text, by path."""

    keys: dict[Path, Place]
    values: dict[Path, Place]

    def key(self, path: Path) -> Place | None:
        """Where the key of `path` stands, or of the nearest part of the path that stands anywhere."""
        return self._nearest(path, (self.keys, self.values))

    def value(self, path: Path) -> Place | None:
        """Where the value of `path` begins, or what is nearest to it."""
        return self._nearest(path, (self.values, self.keys))

    @staticmethod
    def _nearest(path: Path, tables: Iterable[dict[Path, Place]]) -> Place | None:
        for length in range(len(path), 0, -1):
            for table in tables:
                if path[:length] in table:
                    return table[path[:length]]
        return None


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'")
_LONG = re.compile(r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}|' + r"'''(?:[^']|'{1,2}(?!'))*'{3,5}")
_SPACES = ("", " ", "\t", "\n", "#")
_OTHER = re.compile(r"[^,\]}#\r\n]*")


def locate(text: str) -> Places:
    """Scan a valid TOML text.

    Returns: the place of every key, table header, value and list item.
    """
    return _Scanner(text.replace("\r\n", "\n")).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.line_begin = 0
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.counts: dict[Path, int] = {}  # how often each [[table]] was opened

    def run(self) -> Places:
        table: Path = ()
        self.skip(_SPACE)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_SPACE)
        return Places(self.keys, self.values)

    def skip(self, pattern: re.Pattern[str]) -> str:
        if pattern is _SPACE and self.text[self.at : self.at + 1] not in _SPACES:
            return ""
        match = pattern.match(self.text, self.at)
        found = match.group() if match else ""
        self.at += len(found)
        lines = found.count("\n")
        if lines:
            self.line += lines
            self.line_begin = self.at - (len(found) - found.rfind("\n") - 1)
        return found

    def place(self, begin: int, line: int, line_begin: int) -> Place:
        end = self.text.find("\n", begin, self.at)
        return Place(line, begin - line_begin + 1, max(1, (self.at if end < 0 else end) - begin))

    def mark(self) -> tuple[int, int, int]:
        return self.at, self.line, self.line_begin

    def key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_BLANK)
            if self.text[self.at] in "\"'":
                parts.append(str(tomllib.loads(f"x = {self.skip(_QUOTED)}")["x"]))
            else:
                parts.append(self.skip(_BARE))
            end = self.at
            self.skip(_BLANK)
            if self.text[self.at : self.at + 1] != ".":
                self.at = end
                return parts
            self.at += 1

    def header(self) -> Path:
        begin = self.mark()
        many = self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        parts = self.key()
        self.skip(_BLANK)
        self.at += 2 if many else 1
        path: Path = ()
        for index, part in enumerate(parts):
            path = (*path, part)
            opens = many and index == len(parts) - 1
            if path in self.counts and not opens:  # a later header goes into the last [[table]] opened
                path = (*path, self.counts[path] - 1)
        if many:
            count = self.counts.get(path, 0)
            self.counts[path] = count + 1
            self.keys.setdefault(path, self.place(*begin))
            path = (*path, count)
        self.keys[path] = self.place(*begin)
        return path

    def pair(self, table: Path) -> None:
        self.skip(_BLANK)
        begin = self.mark()
        parts = self.key()
        place = self.place(*begin)
        path = table
        for part in parts:
            path = (*path, part)
            self.keys.setdefault(path, place)
        self.keys[path] = place
        self.skip(_BLANK)
        self.at += 1  # =
        self.skip(_BLANK)
        self.value(path)

    def value(self, path: Path) -> None:
        begin = self.mark()
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self.items(path)
        elif first == "{":
            self.inline(path)
        elif first in ("'", '"'):
            self.skip(_LONG if self.text[self.at : self.at + 3] == 3 * first else _QUOTED)
        else:
            other = self.skip(_OTHER)
            self.at -= len(other) - len(other.rstrip())
        self.values[path] = self.place(*begin)

    def items(self, path: Path) -> None:
        self.at += 1
        index = 0
        self.skip(_SPACE)
        while self.text[self.at] != "]":
            self.value((*path, index))
            index += 1
            self.skip(_SPACE)
            if self.text[self.at] == ",":
                self.at += 1
                self.skip(_SPACE)
        self.at += 1

    def inline(self, path: Path) -> None:
        self.at += 1
        self.skip(_SPACE)
        while self.text[self.at] != "}":
            self.pair(path)
            self.skip(_SPACE)
            if self.text[self.at] == ",":
                self.at += 1
                self.skip(_SPACE)
        self.at += 1


def snippet(lines: list[str], place: Place) -> str:
    """Draw the line of a place with carets under it.

          7 | n_layr = 4
            | ^^^^^^

    A long line is cut to a window around the place; whatever a terminal would obey is blotted out.
    """
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    begin = max(0, place.column - 1 - SNIPPET // 2) if len(line) > SNIPPET else 0
    seen = "".join(c if c.isprintable() else " " if c == "\t" else "�" for c in line[begin : begin + SNIPPET])
    carets = max(1, min(place.width, SNIPPET - (place.column - 1 - begin)))
    number = escaped(str(place.line))
    return f"{number} | {seen.rstrip()}\n{' ' * len(number)} | {' ' * (place.column - 1 - begin)}{'^' * carets}"
