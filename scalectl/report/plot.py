"""A small plot for terminals: marks, solid and dashed lines, pale bands, log axes, direct labels.

Braille dots in Unicode (2 x 4 per character), three levels per character in ASCII; nothing depends on colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

from scalectl.core.rows import Floats
from scalectl.report.look import Look
from scalectl.report.table import wrapped

MARKS = {True: "●○■□▲△◆◇", False: "ox+*#@%&"}
_BAND = {True: "░", False: ":"}
_FRAME = {True: tuple("│┤└─┬"), False: tuple("|+`-+")}  # side, tick on it, corner, bottom, tick on it
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of a dot by column and row in the character
_LEVELS = {1: "'", 2: "-", 3: "'", 4: ".", 5: "|", 6: ".", 7: "|"}  # ASCII by set of thirds: 1 top, 2 middle, 4 bottom


@dataclass(frozen=True)
class Axis:
    """label: with its unit; log: logarithmic scale."""

    label: str
    log: bool = True


@dataclass(frozen=True)
class Marks:
    """Measured points; x and y of shape (n,). glyph: index into MARKS."""

    x: Floats
    y: Floats
    glyph: int = 0
    style: str = ""


@dataclass(frozen=True)
class Line:
    """A curve through x and y of shape (n,), x ascending. label: written at its right end."""

    x: Floats
    y: Floats
    dashed: bool = False
    style: str = ""
    label: str = ""


@dataclass(frozen=True)
class Band:
    """The area between low and high; arrays of shape (n,), x ascending."""

    x: Floats
    low: Floats
    high: Floats
    style: str = "dim"


Layer = Marks | Line | Band


@dataclass(frozen=True)
class _Scale:
    low: float  # in transformed units
    high: float
    log: bool

    def position(self, values: Floats) -> Floats:
        """0 at the low end, 1 at the high end, NaN for what a log axis cannot show."""
        values = np.asarray(values, dtype=float)
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
        return (values - self.low) / (self.high - self.low)


def draw(layers: Sequence[Layer], *, x: Axis, y: Axis, width: int, height: int, look: Look) -> list[Text]:
    """The plot as lines of at most `width` columns.

    Args: layers: drawn in the order bands, lines, marks, so that data are never hidden by a fit;
    height: rows of the plotting area; the axis and its labels take three more.
    """
    horizontal = _scale([p for layer in layers for p in _extent(layer, "x")], x.log)
    vertical = _scale(_vertical_extent(layers), y.log)
    y_ticks = [(p, label) for p, label in _ticks(vertical, max(3, height // 3), look)]
    gutter = max((len(label) for _, label in y_ticks), default=1) + 1
    names = [layer.label for layer in layers if isinstance(layer, Line) and layer.label]
    margin = max((len(look.text(name)) for name in names), default=0) + bool(names)
    columns = max(8, width - gutter - 1 - margin)
    canvas = _Canvas(columns, height, look.unicode)
    for layer in sorted(layers, key=lambda layer: (Band, Line, Marks).index(type(layer))):
        _put(canvas, layer, horizontal, vertical)
    labels = _place_labels(layers, horizontal, vertical, canvas, look)
    return _assemble(canvas, x, y, horizontal, y_ticks, gutter, labels, look)


class _Canvas:
    def __init__(self, columns: int, rows: int, unicode: bool) -> None:
        self.columns, self.rows, self.unicode = columns, rows, unicode
        self.fine = (2, 4) if unicode else (1, 3)
        self.dots = [[0] * columns for _ in range(rows)]
        self.characters = [[""] * columns for _ in range(rows)]
        self.styles = [[""] * columns for _ in range(rows)]

    def dot(self, fx: int, fy: int, style: str) -> None:
        column, row = fx // self.fine[0], fy // self.fine[1]
        if 0 <= column < self.columns and 0 <= row < self.rows:
            inner = fy % self.fine[1]
            self.dots[row][column] |= _BRAILLE[fx % 2][inner] if self.unicode else 1 << inner
            self.characters[row][column] = ""
            self.styles[row][column] = style

    def character(self, column: int, row: int, character: str, style: str) -> None:
        if 0 <= column < self.columns and 0 <= row < self.rows:
            self.characters[row][column] = character
            self.styles[row][column] = style

    def cell(self, row: int, column: int) -> tuple[str, str]:
        if self.characters[row][column]:
            return self.characters[row][column], self.styles[row][column]
        if dots := self.dots[row][column]:
            return (chr(0x2800 + dots) if self.unicode else _LEVELS[dots]), self.styles[row][column]
        return " ", ""


def _put(canvas: _Canvas, layer: Layer, horizontal: _Scale, vertical: _Scale) -> None:
    if isinstance(layer, Band):
        at = (np.arange(canvas.columns) + 0.5) / canvas.columns
        x, bounds = horizontal.position(layer.x), [vertical.position(layer.low), vertical.position(layer.high)]
        usable = np.isfinite(x) & np.isfinite(bounds[0]) & np.isfinite(bounds[1])
        if not usable.any():
            return
        low, high = (np.interp(at, x[usable], bound[usable], left=np.nan, right=np.nan) for bound in bounds)
        for column in range(canvas.columns):
            if not (math.isfinite(low[column]) and math.isfinite(high[column])):
                continue
            for row in range(canvas.rows):
                middle = 1 - (row + 0.5) / canvas.rows
                if low[column] <= middle <= high[column]:
                    canvas.character(column, row, _BAND[canvas.unicode], layer.style)
        return
    xs, ys = horizontal.position(layer.x), vertical.position(layer.y)
    seen = np.isfinite(xs) & np.isfinite(ys)
    if isinstance(layer, Marks):
        glyph = MARKS[canvas.unicode][layer.glyph % len(MARKS[canvas.unicode])]
        for px, py in zip(xs[seen], ys[seen], strict=True):
            canvas.character(_cell(px, canvas.columns), _cell(1 - py, canvas.rows), glyph, layer.style)
        return
    for fx, fy in _trace(xs[seen], ys[seen], canvas):
        # ours: dashes of three characters with gaps of two stay readable when the line is steep and in ASCII
        if not layer.dashed or (fx // canvas.fine[0]) % 5 < 3:
            canvas.dot(fx, fy, layer.style)


def _trace(xs: Floats, ys: Floats, canvas: _Canvas) -> Iterator[tuple[int, int]]:
    """Dots along the polyline, in fine coordinates."""
    across, down = canvas.columns * canvas.fine[0], canvas.rows * canvas.fine[1]
    fx, fy = xs * across - 0.5, (1 - ys) * down - 0.5
    for i in range(len(fx) - 1):
        steps = max(1, math.ceil(max(abs(fx[i + 1] - fx[i]), abs(fy[i + 1] - fy[i]))))
        for k in range(steps + 1):
            share = k / steps
            yield (
                min(across - 1, max(0, round(fx[i] + share * (fx[i + 1] - fx[i])))),
                round(fy[i] + share * (fy[i + 1] - fy[i])),
            )


def _cell(position: float, cells: int) -> int:
    return min(cells - 1, max(0, math.floor(position * cells)))


def _extent(layer: Layer, axis: str) -> list[float]:
    values = np.asarray(layer.x if axis == "x" or isinstance(layer, Band) else layer.y, dtype=float)
    values = values[np.isfinite(values)]
    return [float(values.min()), float(values.max())] if len(values) else []


def _vertical_extent(layers: Sequence[Layer]) -> list[float]:
    """Marks and lines in full; bands only up to half the span of those, so that a wide band cannot flatten the data."""
    firm = [p for layer in layers if not isinstance(layer, Band) for p in _extent(layer, "y")]
    if not firm:
        return [float(p) for layer in layers if isinstance(layer, Band) for p in (*layer.low, *layer.high)]
    low, high = min(firm), max(firm)
    span = high - low
    for layer in layers:
        if isinstance(layer, Band):
            inside = np.isfinite(layer.low) & np.isfinite(layer.high)
            if inside.any():
                firm.append(max(float(layer.low[inside].min()), low - span / 2, low / 2))
                firm.append(min(float(layer.high[inside].max()), high + span / 2))
    return firm


def _scale(values: Sequence[float], log: bool) -> _Scale:
    usable = [math.log10(v) if log else v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(usable), max(usable)) if usable else (0.0, 1.0)
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.05, high + 0.05
    pad = 0.03 * (high - low)  # keeps extreme marks off the frame
    return _Scale(low - pad, high + pad, log)


def _ticks(scale: _Scale, most: int, look: Look) -> list[tuple[float, str]]:
    """Positions in [0, 1] with labels: powers of ten where at least two are in range, round numbers otherwise."""
    if scale.log:
        decades = list(range(math.ceil(scale.low - 1e-9), math.floor(scale.high + 1e-9) + 1))
        if len(decades) >= 2:
            stride = math.ceil(len(decades) / most)
            return [
                (float((d - scale.low) / (scale.high - scale.low)), look.power(d)) for d in decades if d % stride == 0
            ]
        low, high = 10**scale.low, 10**scale.high
        if high / low > 5:  # ours: from here on steps of equal size crowd at the right end of a log axis
            return _one_two_five(scale, look)
    else:
        low, high = scale.low, scale.high
    step, values = _round_steps(low, high, most)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if _is_quarter(step) else 0)
    positions = scale.position(np.array(values))
    return [(float(p), _plain(v, decimals)) for p, v in zip(positions, values, strict=True)]


def _one_two_five(scale: _Scale, look: Look) -> list[tuple[float, str]]:
    ticks = []
    for power in range(math.floor(scale.low), math.ceil(scale.high) + 1):
        for digit in (1, 2, 5):
            position = (power + math.log10(digit) - scale.low) / (scale.high - scale.low)
            if 0 <= position <= 1:
                text = f"{digit * 10.0**power:g}" if -2 <= power <= 2 else look.power(power, digit)
                ticks.append((position, text))  # small numbers in full, a 1 between .5 and 2 too
    return ticks


def _round_steps(low: float, high: float, most: int) -> tuple[float, list[float]]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, as many as fit."""
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return step, [k * step for k in range(first, last + 1)]


def _is_quarter(step: float) -> bool:
    return f"{step:e}".startswith("2.5")


def _plain(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if 1e-4 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def _place_labels(
    layers: Sequence[Layer], horizontal: _Scale, vertical: _Scale, canvas: _Canvas, look: Look
) -> dict[int, Text]:
    """Row -> label of the line that ends there; neighbours move apart rather than overwrite one another."""
    wanted: list[tuple[float, Text]] = []
    for layer in layers:
        if isinstance(layer, Line) and layer.label:
            ends = vertical.position(layer.y)
            ends = ends[np.isfinite(ends) & np.isfinite(horizontal.position(layer.x))]
            if len(ends):
                text = Text(look.text(layer.label), style=layer.style)
                wanted.append((float((1 - ends[-1]) * canvas.rows - 0.5), text))
    wanted = sorted(wanted, key=lambda item: item[0])[: canvas.rows]
    placed: list[int] = []
    for at, _ in wanted:
        placed.append(max(_clamp(round(at), canvas.rows), placed[-1] + 1 if placed else 0))
    limit = canvas.rows - 1
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - 1
    return {row: text for row, (_, text) in zip(placed, wanted, strict=True)}


def _clamp(row: int, rows: int) -> int:
    return min(rows - 1, max(0, row))


def _assemble(
    canvas: _Canvas,
    x: Axis,
    y: Axis,
    horizontal: _Scale,
    y_ticks: list[tuple[float, str]],
    gutter: int,
    labels: dict[int, Text],
    look: Look,
) -> list[Text]:
    bar, tee, corner, dash, tick = _FRAME[look.unicode]
    at_row = {_cell(1 - p, canvas.rows): label for p, label in y_ticks if 0 <= p <= 1}
    room = gutter + 1 + canvas.columns
    lines = [Text(line, style="dim") for line in wrapped(look.text(y.label), room)]
    for row in range(canvas.rows):
        label = at_row.get(row, "")
        line = Text(f"{label:>{gutter - 1}} {tee if label else bar}", style="")
        line.stylize("dim")
        for column in range(canvas.columns):
            character, style = canvas.cell(row, column)
            line.append(character, style=style or None)
        if row in labels:
            line.append(" ")
            line.append_text(labels[row])
        line.rstrip()
        lines.append(line)
    return [*lines, *_bottom(canvas, x, horizontal, gutter, (corner, dash, tick), look)]


def _bottom(
    canvas: _Canvas, x: Axis, horizontal: _Scale, gutter: int, frame: tuple[str, str, str], look: Look
) -> list[Text]:
    corner, dash, tick = frame
    rule = [dash] * canvas.columns
    below = [" "] * (canvas.columns + 1)
    free = 0
    for position, label in _ticks(horizontal, max(2, canvas.columns // 10), look):
        if not 0 <= position <= 1:
            continue
        column = _cell(position, canvas.columns)
        start = min(max(0, column - len(label) // 2), canvas.columns - len(label))
        if start < free:
            continue
        rule[column] = tick
        below[start : start + len(label)] = label
        free = start + len(label) + 1
    lines = [Text(" " * gutter + corner + "".join(rule), style="dim")]
    lines.append(Text((" " * (gutter + 1) + "".join(below)).rstrip(), style="dim"))
    room = gutter + 1 + canvas.columns
    lines += [Text(line.rjust(room), style="dim") for line in wrapped(look.text(x.label), room)]
    return lines
