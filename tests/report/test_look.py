from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from scalectl.report.look import Look, harmless, look_of, open_console
from scalectl.report.terminal import emit


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"


@given(st.text())
def test_no_text_reaches_the_terminal_with_a_control_character(text: str) -> None:
    shown = harmless(text)
    assert all(c.isprintable() or c.isspace() for c in shown)
    assert not set(shown) & set("\x1b\x9b\r\n\t\x00\u202e\u2066")
    shown.encode("utf-8")


@given(st.text())
def test_ascii_looks_print_ascii_whatever_the_data(text: str) -> None:
    assert Look(80, unicode=False).text(text).isascii()


def test_ordinary_text_stays_as_it_is() -> None:
    assert Look(80, unicode=True).text("größer [bold] α ≥ 3 日本") == "größer [bold] α ≥ 3 日本"
    assert Look(80, unicode=False).text("α ≥ 3, 5 × 2 … ü") == "alpha >= 3, 5 x 2 .. \\xfc"


@pytest.mark.parametrize(
    ("stream", "environ", "escapes"),
    [
        (Screen, {"TERM": "xterm-256color"}, True),
        (Screen, {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        (Screen, {"TERM": "xterm-256color", "NO_COLOR": ""}, True),
        (Screen, {"TERM": "dumb"}, False),
        (Screen, {"TERM": "dumb", "FORCE_COLOR": "1"}, False),
        (Pipe, {"TERM": "xterm-256color"}, False),
        (Pipe, {"TERM": "xterm-256color", "FORCE_COLOR": "1"}, True),
        (Pipe, {"TERM": "xterm-256color", "FORCE_COLOR": "0"}, False),
        (Pipe, {"TERM": "xterm-256color", "FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_escapes_go_where_they_are_wanted(stream: type[io.StringIO], environ: dict[str, str], escapes: bool) -> None:
    file = stream()
    emit([Text("word", style="bold")], open_console(file, environ))
    assert ("\x1b" in file.getvalue()) is escapes


@pytest.mark.parametrize(
    ("environ", "width", "expected"),
    [({}, None, 80), ({"COLUMNS": "101"}, None, 101), ({"COLUMNS": "101"}, 66, 66), ({"COLUMNS": "wide"}, None, 80)],
)
def test_a_flag_beats_the_environment_and_pipes_have_80_columns(
    environ: dict[str, str], width: int | None, expected: int
) -> None:
    assert open_console(Pipe(), environ, width=width).width == expected


@pytest.mark.parametrize(
    ("encoding", "term", "unicode"),
    [
        ("utf-8", "xterm", True),
        ("UTF8", "xterm", True),
        ("latin-1", "xterm", False),
        ("ascii", "xterm", False),
        ("utf-8", "dumb", False),
    ],
)
def test_terminals_that_cannot_show_unicode_get_ascii(encoding: str, term: str, unicode: bool) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert look_of(open_console(file, {"TERM": term}), {"TERM": term}).unicode is unicode


def test_what_is_printed_is_the_line_and_nothing_else() -> None:
    file = Pipe()
    line = "http://x.y/z [red]1e-3[/red] :tada: " + "w" * 200
    emit([Text(line)], open_console(file, {}))
    assert file.getvalue() == line + "\n"
