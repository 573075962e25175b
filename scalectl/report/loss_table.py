"""The table of final losses.

A row for each cell of the grid, or, where those are too many to read, sizes against what varies beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from scalectl.core import units
from scalectl.report.build import Group, Report, size_keys
from scalectl.report.cells import show
from scalectl.report.look import Look
from scalectl.report.table import MOST_COLUMNS, Across, Cell, Column, Row, fits, paragraph, table
from scalectl.report.words import CONTEXT, CONVENTION, ESTIMATE, FLOPS, Lines, cell_value, varying_keys

MOST_LISTED = 16  # cells before sizes share a row; ours: the table and its title stay on one screen
MOST_GROUPS = 30  # ours: a screen; the smallest and the largest are shown
LEAST_FILLED = 0.5  # of a crossed table; ours: where less of it holds a loss, a list is shorter
GIVEN_UP = ("MFU", "time", "bits/byte", "C [FLOP]")  # columns that go, in this order, where a row has no room for all

Fact = tuple[Column, list[str | Cell]]  # a column with its text in each row


def loss_table(report: Report, look: Look) -> Lines:
    """Final losses with their standard errors, sorted by N, then D."""
    return _crossed(report, look) or _listed(report, look)


def _told(number: float, show: Callable[[float], str] = units.count) -> str:
    """A count, or nothing for one that a script has not said and its sweep file does not."""
    return show(number) if number else ""


def _listed(report: Report, look: Look) -> Lines:
    """A row for each group of runs that differ by seed alone, with all that is known about it."""
    groups = report.groups
    varied = varying_keys([group.cell for group in groups])
    # Token budgets that are D itself would stand in the table twice.
    varied = {k: v for k, v in varied.items() if any(group.cell.get(k) != group.D for group in groups)} or varied
    counts = {group.n for group in groups if group.n}
    n = f"n = {min(counts)}" if len(counts) == 1 else "n in brackets"
    facts: list[Fact] = [(Column(f"N {CONVENTION[report.convention]}", "decimal"), [_told(g.N) for g in groups])]
    if len({group.D for group in groups}) > 1:
        facts.append((Column("D tokens", "decimal"), [_told(g.D) for g in groups]))
    facts.append((Column("C [FLOP]", "decimal"), [_told(g.C, units.si) for g in groups]))
    facts.append((Column("loss", "decimal", ESTIMATE), [_loss(g, several=len(counts) != 1) for g in groups]))
    if any(group.bits_per_byte is not None for group in groups):
        bits = ["" if g.bits_per_byte is None else f"{g.bits_per_byte:.3f}" for g in groups]
        facts.append((Column("bits/byte", "decimal"), [*bits]))
    if any(group.seconds is not None for group in groups):
        times = ["" if g.seconds is None else units.duration(g.seconds) for g in groups]
        facts.append((Column("time", "right"), [*times]))
    if any(group.mfu is not None for group in groups):
        shares = ["" if g.mfu is None else units.percent(g.mfu) for g in groups]
        facts.append((Column("MFU", "decimal"), [*shares]))
    named: list[Fact] = [
        (Column(name, "decimal"), [cell_value(g.cell, key) for g in groups]) for key, name in varied.items()
    ]
    if len(named) == 1 or len(named) + len(facts) > MOST_COLUMNS:
        named = [(Column(", ".join(varied.values())), [_named(g.cell, varied) for g in groups])]
    gone: list[str] = []
    while not fits(*_table([*named, *facts]), look) and len(gone) < len(GIVEN_UP):
        gone.append(GIVEN_UP[len(gone)])
        facts = [fact for fact in facts if fact[0].header != gone[-1]]
    columns, rows = _table([*named, *facts])
    half = MOST_GROUPS // 2
    if len(rows) > MOST_GROUPS:
        more = f"… {len(rows) - 2 * half} more, see scalectl export {report.name}"
        rows = [*rows[:half], Across(more, CONTEXT, indent=0), *rows[-half:]]
    title = _title(report, "size", n, "" if "C [FLOP]" in gone else FLOPS[report.flops])
    return [*paragraph(title, look), *table(columns, rows, look), *_elsewhere(gone, report, look)]


def _crossed(report: Report, look: Look) -> Lines:
    """A row for each size, a column for each value of what varies beside them; empty where that is no table.

    Without room for all, errors stay before N, which the size implies.
    """
    groups = report.groups
    varied = varying_keys([group.cell for group in groups])
    others = [key for key in varied if key not in size_keys(groups)]
    if len(groups) <= MOST_LISTED or not others or len(varied) < 2:
        return []
    across = others[-1]
    beside = {key: name for key, name in varied.items() if key != across}
    rows: dict[str, dict[str, Group]] = {}
    for group in groups:
        row = rows.setdefault(repr([group.cell.get(key) for key in beside]), {})
        if repr(group.cell.get(across)) in row:  # cells of an imported table need not be told apart by their keys
            return []
        row[repr(group.cell.get(across))] = group
    heads = {repr(group.cell.get(across)): group for group in sorted(groups, key=lambda g: _order(g.cell.get(across)))}
    if len(rows) > MOST_GROUPS or len(heads) >= MOST_COLUMNS or len(groups) < LEAST_FILLED * len(rows) * len(heads):
        return []
    first = [next(iter(row.values())) for row in rows.values()]
    named: Fact = (Column(", ".join(beside.values()), "decimal"), [_named(g.cell, beside) for g in first])
    sizes: Fact = (Column(f"N {CONVENTION[report.convention]}", "decimal"), [_told(g.N) for g in first])
    one_n = all(len({group.N for group in row.values()}) == 1 for row in rows.values())
    largest = max((group.error or 0.0 for group in groups), default=0.0)
    decimals = min(6, max(0, 1 - math.floor(math.log10(largest)))) if 0 < largest < math.inf else 4
    tried = []
    for errors, with_n in ((True, True), (True, False), (False, True), (False, False)):
        losses = [
            (
                Column(_head(heads[value], across), "decimal", ESTIMATE),
                [_rounded(row.get(value), decimals, errors=errors) for row in rows.values()],
            )
            for value in heads
        ]
        tried.append((errors, _table([named, *([sizes] if with_n and one_n else []), *losses])))
    found = next(((errors, laid) for errors, laid in tried if fits(*laid, look)), None)
    if found is None:
        return []
    errors, (columns, texts) = found
    counts = {group.n for group in groups if group.n}
    n = f"n = {min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "") if counts else ""
    by = f"{', '.join(beside.values())} and, across, {varied[across]}"
    most = f"{math.ceil(largest * 10.0**decimals - 1e-9) / 10.0**decimals:.{decimals}f}"
    title = _title(report, by, n, most="" if errors or not largest else most)
    return [*paragraph(title, look), *table(columns, texts, look), *_elsewhere(("C", "time", "more"), report, look)]


def _title(report: Report, by: str, n: str, *more: str, most: str = "") -> str:
    """What all rows share. most: the largest standard error, where the cells do not show theirs."""
    groups = report.groups
    over = " or ".join(sorted({group.over for group in groups if group.over}))
    spread = f"standard error over {over} at most {most}, {n}" if most else f"± standard error over {over}, {n}"
    spread = (spread if over else n) if any(group.n for group in groups) else "nothing finished yet"
    one_d = f"D = {units.count(groups[0].D)} tokens" if len({group.D for group in groups}) == 1 else ""
    head = f"Held-out loss by {by} [nats/token], {spread}"
    return "; ".join(part for part in (head, one_d, *more) if part)


def _elsewhere(names: Sequence[str], report: Report, look: Look) -> Lines:
    """Where the columns are that had no room."""
    if not names:
        return []
    return paragraph(f"{units.listed(names)} of each: scalectl export {report.name}", look, indent=2, style=CONTEXT)


def _table(facts: Sequence[Fact]) -> tuple[list[Column], list[Row]]:
    return [column for column, _ in facts], [list(row) for row in zip(*(texts for _, texts in facts), strict=True)]


def _named(cell: Mapping[str, object], keys: Mapping[str, str]) -> str:
    return ", ".join(cell_value(cell, key) for key in keys)


def _head(group: Group, key: str) -> str:
    value = group.cell.get(key)
    return units.count(group.D) if value == group.D else show(value, key)


def _order(value: object) -> tuple[bool, float]:
    """Numbers ascending, before texts in the order in which they came."""
    return (False, float(value)) if isinstance(value, int | float) else (True, 0.0)


def _loss(group: Group, *, several: bool) -> str | Cell:
    if group.loss is None:
        return Cell("none finished", CONTEXT)
    value, error = units.measured(group.loss, group.error) if group.error else (f"{group.loss:.4f}", "")
    return f"{value}{f' ± {error}' if error else ''}{f' ({group.n})' if several else ''}"


def _rounded(group: Group | None, decimals: int, *, errors: bool) -> str | Cell:
    """A loss with the digits of the whole table, its error rounded up; nothing where no run was planned."""
    if group is None:
        return ""
    if group.loss is None:
        return Cell("none", CONTEXT)
    up = math.ceil((group.error or 0.0) * 10.0**decimals - 1e-9) / 10.0**decimals
    return f"{group.loss:.{decimals}f}" + (f" ± {up:.{decimals}f}" if errors and group.error else "")
