"""What was chosen from a grid of settings: a table of the cells, and what a reader must not overlook in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.report.cells import short_names, show
from scalectl.report.look import Look
from scalectl.report.table import Cell, Column, Row, paragraph, table
from scalectl.report.views import BestCell, BestView
from scalectl.report.words import ADVICE, CONTEXT, ESTIMATE, Lines

MOST_CELLS = 12  # in a table; ours: with the laws below them they still are one screen
MOST_NAMED = 4  # cells in a sentence; ours


def best_lines(view: BestView, look: Look) -> Lines:
    """One row a cell: the value chosen, its loss, what was tried; then edges, divergence and gaps in words."""
    lines = []
    if len(view.cells) <= MOST_CELLS:
        keys = _keys(view)
        tried = {_tried(cell, view.column) for cell in view.cells}
        seeds = {cell.seeds for cell in view.cells}
        title = f"best {short_name(view.column)}" + (f" of {tried.copy().pop()}" if len(tried) == 1 else "")
        title += f", loss [nats/token] the mean over {counted(max(seeds), 'seed')}" if seeds != {1} else ""
        columns = [Column(name, "decimal") for name in keys.values()]
        columns += [Column(f"best {short_name(view.column)}", "decimal", ESTIMATE), Column("loss", "decimal")]
        columns += [Column("tried")] if len(tried) > 1 else []
        columns += [Column("found")]
        rows: list[Row] = []
        for cell in view.cells:
            row: list[str | Cell] = [_shown(key, cell.cell[key]) for key in keys]
            row += [_value(cell, view.column), f"{cell.loss:.4f}"]
            row += [_tried(cell, view.column)] if len(tried) > 1 else []
            rows.append([*row, Cell(_found(cell), ADVICE if cell.edge or cell.method == "only" else "")])
        lines += [*paragraph(title, look), *table(columns, rows, look)]
    for text, style in _sentences(view):
        lines += paragraph(text, look, indent=2, hanging=2, style=style)
    return lines


def short_name(column: str) -> str:
    """A column without its table: train.lr -> lr."""
    return column.rpartition(".")[2]


def _keys(view: BestView) -> dict[str, str]:
    """What tells the cells apart: keys that vary, with their names."""
    keys = list(dict.fromkeys(key for cell in view.cells for key in cell.cell))
    varied = [key for key in keys if len({repr(cell.cell.get(key)) for cell in view.cells}) > 1]
    return short_names(tuple(varied or keys[:1]))


def _shown(key: str, value: object) -> str:
    if key in ("N", "D") and isinstance(value, float):
        return units.count(value)
    return units.si(value) if key == "C" and isinstance(value, float) else show(value, key)


def _value(cell: BestCell, column: str) -> str:
    """A value that was tried in full, one between them to two digits: the grid knows no more."""
    if cell.method == "parabola" and isinstance(cell.value, float):
        return show(float(f"{cell.value:.2g}"), column)
    return show(cell.value, column)


def _tried(cell: BestCell, column: str) -> str:
    first, last = (show(value, column) for value in (cell.values[0], cell.values[-1]))
    numbers = all(isinstance(value, int | float) for value in cell.values)
    return f"{len(cell.values)} ({first} … {last})" if numbers and len(cell.values) > 1 else str(len(cell.values))


def _found(cell: BestCell) -> str:
    if cell.method == "only":
        return "not tuned"
    if cell.edge:
        return f"the {cell.edge} tried"
    return {"parabola": "parabola", "minimum": "minimum"}[cell.method]


def _sentences(view: BestView) -> list[tuple[str, str]]:
    name = view.column
    said = []
    for edge, way in (("highest", "higher"), ("lowest", "lower")):
        at = [cell for cell in view.cells if cell.edge == edge]
        if at:
            say = "their losses are upper bounds" if len(at) > 1 else "its loss is an upper bound"
            said.append((f"best {name} at the edge of its grid, {_named(at, view)}: {say}; add {way} ones", ADVICE))
    only = [cell for cell in view.cells if cell.method == "only"]
    if only:
        said.append((f"one {name} only, {_named(only, view)}: nothing was chosen there", ADVICE))
    lost = [cell for cell in view.cells if cell.diverged]
    if lost:
        said.append((f"runs diverged at some {name}, {_named(lost, view)}: those values are no candidates", CONTEXT))
    gaps = sum(cell.filled for cell in view.cells)
    if gaps:
        said.append((f"{counted(gaps, 'run')} of the grid missing, filled in from the other seeds and values", ADVICE))
    if all(cell.seeds == 1 for cell in view.cells):
        said.append(("one seed: what chance did to each choice shows between sizes alone, not within them", CONTEXT))
    return said


def _named(cells: Sequence[BestCell], view: BestView) -> str:
    """Cells by name: d_model=8, 16 and 3 more."""
    keys: Mapping[str, str] = _keys(view)
    if "N" in keys and len(keys) > 1 and any(key not in ("N", "D", "C") for key in keys):
        keys = {key: short for key, short in keys.items() if key != "N"}  # follows from the other
    texts = [" ".join(f"{short}={_shown(key, cell.cell[key])}" for key, short in keys.items()) for cell in cells]
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return f"{', '.join(texts[:MOST_NAMED])}{more}"
