from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from scalectl.report.look import Look
from scalectl.report.table import MOST_COLUMNS, Across, Column, paragraph, table, wrapped


def plain(columns: list[Column], rows: list[list[str] | Across], width: int = 80) -> list[str]:
    return [line.plain for line in table(columns, rows, Look(width), indent=0)]


def test_numbers_stand_on_their_decimal_points() -> None:
    lines = plain([Column("N", "decimal")], [["1.9 k"], ["26 k"], ["399 k"], ["-0.25"], ["2e5"], ["none"]])
    points = {line.index(".") for line in lines if "." in line}
    assert points == {3}
    assert lines[2] == " 26    k"
    assert lines[3] == "399    k"
    assert lines[5] == "  2e5"


def test_both_bounds_of_intervals_stand_on_their_points() -> None:
    lines = plain([Column("", "interval")], [["0.063 … 0.096"], ["3.9 … 12.5"], ["not computed"]])
    assert lines == ["0.063 …  0.096", "3.9   … 12.5", "not computed"]


def test_a_message_takes_the_room_that_is_left_and_breaks_there() -> None:
    lines = plain([Column("run"), Column("message", wrap=True)], [["4f1c9e", "one two three four five six"]], 26)
    assert lines == ["run     message", "4f1c9e  one two three four", "        five six"]


def test_headers_break_before_rows_are_taken_apart() -> None:
    columns = [Column("a long header"), Column("another header", "right")]
    assert plain(columns, [["1", "2"]], 20) == ["a long  another", "header   header", "1             2"]
    assert plain(columns, [["1", "2"]], 14) == ["a long header", "  1, another", "  header 2"]


def test_a_sentence_spans_the_table() -> None:
    lines = plain([Column("x"), Column("y")], [["1", "2"], Across("this is so"), ["3", "4"]])
    assert lines == ["x  y", "1  2", "  this is so", "3  4"]


def test_more_columns_than_can_be_read_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="8 columns"):
        table([Column("x")] * (MOST_COLUMNS + 1), [], Look())


CELL = st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N", "P", "Z", "Cc")), max_size=60)


@given(
    st.lists(st.tuples(CELL, CELL, CELL), max_size=6),
    st.integers(min_value=40, max_value=120),
    st.sampled_from(["left", "right", "decimal", "interval"]),
    st.booleans(),
)
def test_no_line_of_any_table_is_wider_than_the_terminal(rows, width, align, unicode) -> None:  # type: ignore[no-untyped-def]
    columns = [Column("id"), Column("value [unit]", align), Column("message", wrap=True)]
    for line in table(columns, rows, Look(width, unicode)):
        assert cell_len(line.plain) <= width


@given(CELL, st.integers(min_value=24, max_value=80), st.integers(0, 4), st.integers(0, 4))
def test_no_line_of_prose_is_wider_than_the_terminal(text: str, width: int, indent: int, hanging: int) -> None:
    for line in paragraph(text, Look(width), indent=indent, hanging=hanging):
        assert cell_len(line.plain) <= width


@given(st.text(alphabet="ab 日", max_size=80), st.integers(min_value=2, max_value=30))
def test_breaking_lines_loses_no_letter(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) <= width for line in lines)
