"""Tables as lines of text: at most seven columns, numbers aligned on the decimal point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from scalectl.report.look import Look

MOST_COLUMNS = 7  # design: a reader cannot hold more than seven columns at once
BETWEEN = "…"  # between the bounds of an interval
_GAP = 2
LEAST_WRAPPED = 16  # columns below which broken lines are harder to read than a row as a paragraph (ours)
_NUMBER = re.compile(r"([<>~≈≤≥]?\s*[-+−]?\d+)((?:\.\d+)?(?:e[-+]?\d+)?)(.*)", re.DOTALL)

Align = Literal["left", "right", "decimal", "interval"]


@dataclass(frozen=True)
class Column:
    """header: with its unit; style: of every cell; wrap: takes the room that is left and breaks its lines there."""

    header: str
    align: Align = "left"
    style: str = ""
    wrap: bool = False


@dataclass(frozen=True)
class Cell:
    """Text with a style of its own."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Across:
    """A row that is one sentence over the whole width, indented."""

    text: str
    style: str = ""
    indent: int = 2


Row = Sequence[str | Cell] | Across


def table(columns: Sequence[Column], rows: Sequence[Row], look: Look, *, indent: int = 2) -> list[Text]:
    """The table as lines of at most `look.width` columns.

    Where it does not fit, columns that may wrap do so, then headers break into lines; where even that is not enough,
    every row becomes a paragraph of its own with the headers inside. No number is ever cut.
    """
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"{len(columns)} columns; at most {MOST_COLUMNS} are readable")
    grid, aligned, headers = _texts(columns, rows, look)
    widths = _widths(columns, headers, aligned, look.width - indent)
    if widths is None:
        return _records(columns, headers, rows, look, indent)
    lines = _header(columns, headers, widths, indent) if any(headers) else []
    position = 0
    for row in rows:
        if isinstance(row, Across):
            lines += paragraph(row.text, look, style=row.style, indent=indent + row.indent)
        else:
            texts = [aligned[i][position] for i in range(len(columns))]
            styles = [grid[position][i].style or columns[i].style for i in range(len(columns))]
            blocks = [wrapped(text, widths[i]) if columns[i].wrap else [text] for i, text in enumerate(texts)]
            lines += _lines(columns, blocks, styles, widths, indent)
            position += 1
    return lines


def fits(columns: Sequence[Column], rows: Sequence[Row], look: Look, *, indent: int = 2) -> bool:
    """Whether `table` shows these columns side by side."""
    if len(columns) > MOST_COLUMNS:
        return False
    _, aligned, headers = _texts(columns, rows, look)
    return _widths(columns, headers, aligned, look.width - indent) is not None


def _texts(
    columns: Sequence[Column], rows: Sequence[Row], look: Look
) -> tuple[list[list[Cell]], list[list[str]], list[str]]:
    """Cells by row, their aligned texts by column, and the headers."""
    grid = [[_cell(cell, look) for cell in row] for row in rows if not isinstance(row, Across)]
    aligned = [_align([row[i].text for row in grid], column.align, look) for i, column in enumerate(columns)]
    return grid, aligned, [look.text(column.header) for column in columns]


def paragraph(text: str, look: Look, *, style: str = "", indent: int = 0, hanging: int = 0) -> list[Text]:
    """Prose broken at spaces into lines of at most `look.width` columns; a longer word is broken too."""
    clean, room = look.text(text), look.width - indent
    first = wrapped(clean, max(1, room))[0]
    rest = clean[len(first) :].lstrip(" ")
    later = wrapped(rest, max(1, room - hanging)) if rest else []
    return [Text(" " * indent + first, style=style), *(Text(" " * (indent + hanging) + t, style=style) for t in later)]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` terminal columns; wide characters count twice."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        candidate = f"{line} {word}" if line else word
        if cell_len(candidate) <= width:
            line = candidate
            continue
        if line:
            lines.append(line.rstrip())
        line = word
        while cell_len(line) > width:
            head = set_cell_size(line, width).rstrip(" ") or line[:1]
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line.rstrip()]


def _cell(cell: str | Cell, look: Look) -> Cell:
    if isinstance(cell, str):
        return Cell(look.text(cell))
    return Cell(look.text(cell.text), cell.style)


def _align(texts: list[str], align: Align, look: Look) -> list[str]:
    if align == "decimal":
        return _decimal(texts)
    if align == "interval":
        between = f" {look.text(BETWEEN)} "
        parts = [text.split(between, 1) for text in texts]
        pairs = [part for part in parts if len(part) == 2]
        lows, highs = iter(_decimal([pair[0] for pair in pairs])), iter(_decimal([pair[1] for pair in pairs]))
        return [f"{next(lows)}{between}{next(highs)}" if len(part) == 2 else part[0] for part in parts]
    return texts


def _decimal(texts: list[str]) -> list[str]:
    """The texts padded so that their decimal points stand in one column and what follows a number does too."""
    found = [_NUMBER.fullmatch(text) for text in texts]
    whole = max((len(m[1]) for m in found if m), default=0)
    fraction = max((len(m[2] or "") for m in found if m), default=0)
    return [
        m[1].rjust(whole) + (m[2] or "").ljust(fraction) + m[3] if m else text
        for m, text in zip(found, texts, strict=True)
    ]


def _widths(columns: Sequence[Column], headers: list[str], aligned: list[list[str]], room: int) -> list[int] | None:
    """Width of each column, None if the table does not fit the room."""
    cells = [max(map(cell_len, texts), default=0) for texts in aligned]
    least = [min(cells[i], LEAST_WRAPPED) if column.wrap else cells[i] for i, column in enumerate(columns)]
    gaps = _GAP * (len(columns) - 1)
    for heads in (
        [cell_len(header) for header in headers],
        [max(map(cell_len, header.split(" "))) for header in headers],
    ):
        widths = [max(cells[i], heads[i]) for i in range(len(columns))]
        excess = sum(widths) + gaps - room
        for i, column in reversed(list(enumerate(columns))):  # what names a row stands first and gives way last
            given = min(max(0, excess), widths[i] - max(heads[i], least[i])) if column.wrap else 0
            widths[i] -= given
            excess -= given
        if excess <= 0:
            return widths
    return None


def _header(columns: Sequence[Column], headers: list[str], widths: list[int], indent: int) -> list[Text]:
    blocks = [wrapped(header, widths[i]) for i, header in enumerate(headers)]
    height = max(map(len, blocks))
    blocks = [[""] * (height - len(block)) + block for block in blocks]
    return _lines(columns, blocks, ["dim"] * len(columns), widths, indent)


def _lines(
    columns: Sequence[Column], blocks: list[list[str]], styles: list[str], widths: list[int], indent: int
) -> list[Text]:
    lines = []
    for k in range(max(map(len, blocks))):
        line = Text(" " * indent)
        for i, block in enumerate(blocks):
            text = block[k] if k < len(block) else ""
            blank = " " * max(0, widths[i] - cell_len(text))
            line.append(blank + text if columns[i].align == "right" else text + blank, style=styles[i] or None)
            line.append(" " * _GAP)
        line.rstrip()
        lines.append(line)
    return lines


def _records(columns: Sequence[Column], headers: list[str], rows: Sequence[Row], look: Look, indent: int) -> list[Text]:
    lines: list[Text] = []
    for row in rows:
        if isinstance(row, Across):
            lines += paragraph(row.text, look, style=row.style, indent=indent + row.indent)
            continue
        cells = [_cell(cell, look) for cell in row]
        styles = {cell.style or column.style for cell, column in zip(cells, columns, strict=True)} - {""}
        parts = [f"{header} {cell.text}".strip() for header, cell in zip(headers, cells, strict=True) if cell.text]
        style = styles.pop() if len(styles) == 1 else ""
        lines += paragraph(", ".join(parts), look, style=style, indent=indent, hanging=2)
    return lines
