"""Words, styles and small parts that several screens share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from scalectl.core.job import State
from scalectl.core.units import counted
from scalectl.report.cells import short_names, show
from scalectl.report.look import Look
from scalectl.report.table import Cell, paragraph

ESTIMATE, CONTEXT, ADVICE, FAILURE = "bold", "dim", "yellow", "red"
FLOPS = {"exact": "C of all matrix products", "6nd": "C = 6 N D"}
CONVENTION = {"non_embedding": "non-embedding", "total": "total", "matmul": "matmul"}
UNIT_OF = {"L": "nats/token", "N": "parameters", "D": "tokens", "C": "FLOP", "S": "", "loss": "nats/token"}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε"}
PROFILE = "profile"
RESAMPLED = {"size": "sizes", "run": "runs", "residual": "residuals"}
NAMED = re.compile(rf"\b({'|'.join(GREEK)})\b")
Lines = list[Text]


def opening(name: str, right: str, question: str, look: Look) -> Lines:
    """The first lines of a screen: the name in bold, a fact at the right edge, the question below."""
    head = Text(look.text(name), style=ESTIMATE)
    beside = look.text(right)
    gap = look.width - cell_len(head.plain) - cell_len(beside)
    if gap >= 3:
        lines = [head.append(" " * gap + beside, style="not bold")]
    else:
        lines = [*_bold(paragraph(name, look)), *paragraph(right, look)]
    return [*lines, *(paragraph(question, look) if question else [])]


def _bold(lines: Lines) -> Lines:
    for line in lines:
        line.stylize(ESTIMATE)
    return lines


def state_counts(counts: Mapping[State, int]) -> str:
    """How many runs are in which state: "15 runs: 9 done, 6 pending"."""
    total = sum(counts.values())
    parts = [f"{counts[state]} {state}" for state in State if counts.get(state)]
    if len(parts) == 1 and counts.get(State.DONE):
        return f"{counted(total, 'run')}, all done"
    return f"{counted(total, 'run')}: {', '.join(parts)}" if parts else "no runs"


def varying_keys(cells: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Keys that differ between the cells (all keys if none does), each with its name without the table."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell))
    varied = [key for key in keys if len({repr(cell.get(key)) for cell in cells}) > 1]
    names = short_names(tuple(keys))
    return {key: names[key] for key in varied or keys}


def cell_value(cell: Mapping[str, object], key: str) -> str:
    """One value of a cell as people write it, empty where the cell does not have the key."""
    return show(cell[key], key) if key in cell else ""


def state_cell(state: State) -> Cell:
    """A state in a table, in red where something broke."""
    return Cell(state.value, FAILURE if state in (State.FAILED, State.DIVERGED, State.OOM) else "")
