"""A sweep file while it is read: its text, where things stand in it, and the mistakes found so far."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from scalectl.core.errors import Problem, SweepFileError
from scalectl.core.names import escaped
from scalectl.sweep.locate import Path, Place, Places, locate, snippet

MAX_PROBLEMS = 50  # listed; ours: more is one mistake repeated
ENOUGH_PROBLEMS = 200  # reading ends here, so that a file of nonsense is answered at once
MAX_PARTS = 30  # of a dotted key; ours: tomllib takes quadratic time, and no key has more than four

_KEY_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_DOTTED = re.compile(rf"""(?<![\w"'-])(?:{_KEY_PART}){{{MAX_PARTS}}}""")


@dataclass(frozen=True)
class Entry:
    """A raw value and the path where it stands; a path that begins with --set is an override."""

    raw: Any
    path: Path


Tables = dict[str, dict[str, Entry]]
"""Entries by table and key."""


class Draft:
    """Problems are collected; a step that needs what is broken is left out. folder: where its code is looked for."""

    def __init__(self, text: str, path: str, overrides: tuple[str, ...], folder: str = "") -> None:
        self.text = text
        self.path = path
        self.folder = folder or os.path.dirname(os.path.abspath(path))
        self.overrides = overrides
        self.lines = text.replace("\r\n", "\n").split("\n")
        self.places = Places({}, {})
        self.problems: dict[tuple[int, str], Problem] = {}
        self.broken = False  # lines were left out, so that what is missing may stand there

    def problem(self, path: Path, what: str, remedy: str | None = None, *, key: bool = False, part: int = 0) -> None:
        """One mistake. key: point at the key, not at the value; part: 1-based column inside the text value."""
        if path and path[0] == "--set":
            drawn = f"--set {escaped(self.overrides[int(path[1])], 90)}"
            self.add(Problem(None, what, remedy, drawn))
            return
        place = self.places.key(path) if key else self.places.value(path)
        if place and part:
            raw = self.lines[place.line - 1][place.column - 1 : place.column - 1 + place.width]
            if raw[:1] in "\"'" and raw[:3] not in ('"""', "'''") and "\\" not in raw:
                place = Place(place.line, place.column + part, 1)
        self.add(Problem(place.line if place else None, what, remedy, snippet(self.lines, place) if place else None))

    def wrong(self, path: Path, label: str, error: ValueError) -> None:
        """A value that its field refused, in the field's words."""
        self.problem(path, f"{label}: {error.args[0]}", error.args[1] if len(error.args) > 1 else None)

    def add(self, problem: Problem) -> None:
        """Keep a mistake; the same one twice on a line is one. So many of them end the reading."""
        self.problems.setdefault((problem.line or 0, problem.what), problem)
        if len(self.problems) > ENOUGH_PROBLEMS:
            self.fail()

    def fail(self) -> None:
        """Raise what was found, in the file's order."""
        if self.problems:
            found = sorted(self.problems.values(), key=lambda p: p.line or 0)
            if len(found) > MAX_PROBLEMS:
                rest = Problem(None, f"and at least {len(found) - MAX_PROBLEMS} problems more")
                found = [*found[:MAX_PROBLEMS], rest]
            raise SweepFileError(self.path, tuple(found))

    def toml(self) -> dict[str, Any]:
        """Parse; a line that is wrong by itself is reported and left out, so that the rest is read too."""
        lines = list(self.lines)
        dotted = _DOTTED.search(self.text)
        if dotted:
            line = self.text.count("\n", 0, dotted.start()) + 1
            self.add(
                Problem(line, f"a key of more than {MAX_PARTS} parts", None, snippet(self.lines, Place(line, 1, 1)))
            )
            self.fail()
        for _ in range(MAX_PROBLEMS):
            text = "\n".join(lines)
            try:
                parsed = tomllib.loads(text)
                self.places = locate(text)
            except RecursionError:
                self.add(Problem(None, "brackets are nested too deep"))
                self.fail()
            except ValueError as error:
                line, what, alone = self._syntax(str(error), lines)
                self.broken = True
                shown_line = Place(line, 1, max(1, len(lines[line - 1].rstrip())))
                remedy = None if alone else "a bracket or quote may be left open above"
                self.add(Problem(line, what, remedy, snippet(self.lines, shown_line)))
                if not alone:
                    self.fail()
                lines[line - 1] = ""
            else:
                return parsed
        self.fail()
        raise AssertionError("unreachable: every round reported a problem")

    def _syntax(self, message: str, lines: list[str]) -> tuple[int, str, bool]:
        """Line, sentence, and whether that line is wrong whatever stands around it."""
        match = re.search(r"\(at line (\d+), column \d+\)", message)
        line = min(int(match[1]), len(lines)) if match else len(lines)
        what = re.sub(r" \(at [^)]*\)$", "", message)
        text = lines[line - 1]
        if what in ("Cannot overwrite a value", "Cannot mutate immutable namespace") or "twice" in what:
            key = text.split("=")[0].strip()
            return line, f"{escaped(key)} is given twice", True
        try:
            tomllib.loads(text)
        except RecursionError:
            return line, "brackets are nested too deep", True
        except ValueError:
            one_line = re.match(r"\s*(\[|[\w.\"'-]+\s*=)", text) is not None or "=" not in text
            opened = "'''" in text or '"""' in text or text.count("[") > text.count("]")
            return line, f"not TOML: {escaped(what[:1].lower() + what[1:], 80)}", one_line and not opened
        return line, f"not TOML: {escaped(what[:1].lower() + what[1:], 80)}", False
