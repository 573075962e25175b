from __future__ import annotations

import numpy as np
import pytest
from rich.cells import cell_len

from scalectl.report.look import Look
from scalectl.report.plot import MARKS, Axis, Band, Layer, Line, Marks, draw

X = np.geomspace(1e3, 1e6, 40)
LOOKS = [Look(80, True), Look(80, False)]


def plot(layers: list[Layer], look: Look, *, log: bool = True, width: int = 60, height: int = 12) -> list[str]:
    return [
        line.plain
        for line in draw(
            layers, x=Axis("N [parameters]", log), y=Axis("loss", log), width=width, height=height, look=look
        )
    ]


def area(lines: list[str], look: Look) -> list[str]:
    """The plotting area, right of the axis."""
    edge = "│┤" if look.unicode else "|+"
    rows = lines[1:13]
    cut = min(row.index(next(c for c in row if c in edge)) for row in rows)
    return [row[cut + 1 :].ljust(60) for row in rows]


@pytest.mark.parametrize("look", LOOKS)
def test_a_power_law_is_a_straight_line_on_log_axes(look: Look) -> None:
    rows = area(plot([Line(X, 4.5 * X**-0.1)], look), look)
    at = np.array([(c, r) for r, row in enumerate(rows) for c, character in enumerate(row) if character != " "])
    slope, offset = np.polyfit(at[:, 0], at[:, 1], 1)
    assert slope > 0
    assert np.abs(np.polyval((slope, offset), at[:, 0]) - at[:, 1]).max() < 1


@pytest.mark.parametrize("look", LOOKS)
def test_marks_stand_where_the_data_are(look: Look) -> None:
    x, y = np.array([1.0, 10.0, 100.0]), np.array([1.0, 10.0, 100.0])
    rows = area(plot([Marks(x, y)], look), look)
    glyph = MARKS[look.unicode][0]
    columns = sorted(row.index(glyph) for row in rows if glyph in row)
    lines = [r for r, row in enumerate(rows) if glyph in row]
    assert len(columns) == 3
    assert abs((columns[0] + columns[2]) / 2 - columns[1]) <= 1
    assert lines[0] <= 1
    assert abs(lines[1] - 6) <= 1
    assert lines[2] >= 10


@pytest.mark.parametrize("look", LOOKS)
def test_without_colour_marks_solid_dashed_and_band_still_differ(look: Look) -> None:
    y = 4.5 * X**-0.1
    half = len(X) // 2
    band = Band(X, y * 0.8, y * 1.2)
    solid, dashed = Line(X[: half + 1], y[: half + 1]), Line(X[half:], y[half:], dashed=True)
    rows = area(plot([Marks(X[:half:5], y[:half:5]), solid, dashed, band], look), look)
    columns = len(rows[0].rstrip()) or 1
    pale = "░" if look.unicode else ":"
    drawn = [
        any(row[c] not in (" ", pale) for row in rows if c < len(row))
        for c in range(2, max(map(len, map(str.rstrip, rows))) - 2)
    ]
    middle = len(drawn) // 2
    assert columns > 1
    assert all(drawn[: middle - 2])
    assert 0.4 < np.mean(drawn[middle + 2 :]) < 0.8
    assert any(pale in row for row in rows)
    assert any(MARKS[look.unicode][0] in row for row in rows)


@pytest.mark.parametrize(
    ("look", "labels"), [(LOOKS[0], ("10³", "10⁴", "10⁵", "10⁶")), (LOOKS[1], ("1e3", "1e4", "1e5", "1e6"))]
)
def test_log_axes_count_in_powers_of_ten(look: Look, labels: tuple[str, ...]) -> None:
    assert plot([Line(X, X**-0.1)], look)[-2].split() == list(labels)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2e4, 1.9e5, ["2·10⁴", "5·10⁴", "10⁵", "2·10⁵"]),
        (0.4, 2.3, ["0.5", "1", "2"]),
        (1.6, 2.5, ["1.6", "1.8", "2.0", "2.2", "2.4"]),
    ],
)
def test_less_than_a_decade_gets_round_numbers(low: float, high: float, labels: list[str]) -> None:
    x = np.array([low, high])
    assert plot([Line(x, x)], LOOKS[0])[-2].split() == labels


@pytest.mark.parametrize("look", LOOKS)
def test_labels_of_lines_that_end_together_do_not_overwrite_one_another(look: Look) -> None:
    names = [f"size {i}" for i in range(9)]
    lines = plot([Line(X, np.full(len(X), 2.0 + 1e-6 * i), label=name) for i, name in enumerate(names)], look)
    text = "\n".join(lines)
    assert all(text.count(name) == 1 for name in names)


@pytest.mark.parametrize("look", LOOKS)
def test_a_wide_band_does_not_flatten_the_data(look: Look) -> None:
    y = 4.5 * X**-0.1
    calm = area(plot([Marks(X, y)], look), look)
    wild = area(plot([Marks(X, y), Band(X, y * 1e-6, y * 1e6)], look), look)
    glyph = MARKS[look.unicode][0]

    def rows(drawn: list[str]) -> int:
        return sum(glyph in row for row in drawn)

    assert rows(wild) >= 0.4 * rows(calm)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [np.nan, 1.0], [0.0, 5.0], [-1.0, 3.0], [np.inf, 2.0], [1e-300, 1e300], []]
)
def test_awkward_numbers_are_drawn_or_left_out_but_never_break_the_plot(
    look: Look, log: bool, values: list[float]
) -> None:
    y = np.array(values, dtype=float)
    x = np.arange(1.0, len(y) + 1)
    with np.errstate(all="raise"):
        lines = plot([Marks(x, y), Line(x, y, label="end"), Band(x, y, y)], look, log=log)
    assert max(map(cell_len, lines)) <= 60
    assert all(line.isascii() for line in lines) or look.unicode
