"""The screens of `scalectl plan` and `scalectl status`: what there is to do, and how every run stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.report.cells import SHORT_ID, label, short_names, show
from scalectl.report.look import Look
from scalectl.report.table import BETWEEN, MOST_COLUMNS, Align, Cell, Column, Row, fits, paragraph, table
from scalectl.report.views import PlanGroup, PlanView, RayView, SlurmView, StatusView
from scalectl.report.words import (
    ADVICE,
    CONTEXT,
    CONVENTION,
    FLOPS,
    Lines,
    cell_value,
    opening,
    state_cell,
    state_counts,
    varying_keys,
)

MOST_ROWS = 16  # of a plan before its lengths share a row; ours: the table and its totals fit on one screen


def plan_lines(view: PlanView, look: Look) -> Lines:
    """The screen of `scalectl plan`: its cells, totals, what constraints drop, warnings."""
    lines = opening(view.name, f"{counted(view.runs, 'run')}, {view.done} done", view.question, look)
    shared = ", ".join(f"{key} {value}" for key, value in view.shared)
    if shared:
        lines += paragraph(f"all runs: {shared}", look, style=CONTEXT)
    if view.groups:
        lines += [Text(), *(_script_table if view.script else _plan_table)(view, look), Text()]
    if view.todo:
        time = f"about {units.duration(view.seconds)}" if view.seconds is not None else "time unknown"
        disk = f", {units.size(view.disk)} on disk" if view.disk is not None else ""
        packed = f" in {counted(view.jobs, 'job')}" if 0 < view.jobs < view.todo else ""
        counted_flops = f", {units.si(view.flops, 'FLOP')}" if view.flops else ""
        total = f"to train: {counted(view.todo, 'run')}{packed}{counted_flops}, {time}"
        lines += paragraph(f"{total} on {view.devices} ({_speeds(view)}){disk}", look)
        if view.alone is not None:
            flops, seconds = view.alone
            trained = f"{counted(view.trunks, 'trunk')} with a branch for every length; each run by itself:"
            factor = f"{units.si(flops, 'FLOP')} ({flops / view.flops:.2f} times), about {units.duration(seconds)}"
            lines += paragraph(f"{trained} {factor}", look)
        if view.slurm is not None:
            lines += paragraph(f"on Slurm: {slurm_jobs(view.slurm)}", look, hanging=2)
        if view.ray is not None:
            said = f"on Ray: at most {ray_pilots(view.ray)}, as many as the cluster has room for"
            lines += paragraph(said, look, hanging=2)
    else:
        done = f"Nothing to do: {view.done}/{view.runs} done."
        done += f"  Next:  scalectl fit {view.name}" if view.done == view.runs else ""
        lines += paragraph(done, look)
    for constraint, dropped in view.dropped:
        lines += paragraph(f"dropped by {constraint}: {counted(dropped, 'run')}", look, hanging=2)
    if view.older:
        lines += paragraph(
            f"{counted(view.older, 'older run')} of this sweep kept, not part of the plan", look, style=CONTEXT
        )
    for warning in view.warnings:
        lines += paragraph(f"warning: {warning}", look, hanging=2, style=ADVICE)
    if view.advice:
        lines += paragraph(f"advice: {view.advice}", look, hanging=2, style=ADVICE)
    return lines


def ray_pilots(view: RayView) -> str:
    """Pilots of a Ray cluster, and what each takes."""
    held = [counted(view.gpus, "GPU")] * (view.gpus > 0) + [counted(view.cpus, "core")]
    held += [f"{units.size(view.memory)} of memory"] if view.memory is not None else []
    held += [f"{amount} {name}" for name, amount in view.resources.items()]
    return f"{counted(view.pilots, 'pilot')} with {', '.join(held)}{' each' if view.pilots > 1 else ''}"


def slurm_jobs(view: SlurmView) -> str:
    """The jobs of a cluster in a sentence."""
    each = " each" if view.jobs > 1 else ""
    what = counted(view.jobs, "pilot job" if view.pilot else "job")
    what = what if view.pilot or view.jobs == 1 else f"an array of {what}"
    limit = "" if view.walltime_seconds is None else f" of {units.duration(view.walltime_seconds)}"
    cores = [counted(view.gpus, "GPU")] * (view.gpus > 0) + ([counted(view.cpus, "core")] if view.cpus else [])
    held = f" with {' and '.join(cores)}{each}" if cores else ""
    where = f" on {view.partition}" if view.partition else ""
    if view.seconds is None:
        ends = ", queued again until all is done" if view.pilot else ", of unknown time"
    else:
        ends = f", done about {units.duration(view.seconds)} after {'they' if view.jobs > 1 else 'it'} began"
        rounds = view.pilot and view.walltime_seconds is not None and view.seconds > view.walltime_seconds
        ends += ", queued again when their time is over" if rounds else ""
    return f"{what}{limit}{held}{where}{ends}"


def _speeds(view: PlanView) -> str:
    if view.script:
        return "one run each" if view.seconds is None else "as the finished runs took"
    if not view.measured:
        return "estimated from shapes"
    if view.measured < view.shapes:
        return f"{view.measured} of {view.shapes} shapes measured here, the others estimated"
    return "measured here"


def _plan_table(view: PlanView, look: Look) -> Lines:
    """One row per cell, or per cell of all lengths; what is the same in all rows, or says nothing new, is the title."""
    groups = view.groups
    varied = varying_keys([group.cell for group in groups])
    rows, lengths = _plan_rows(view, varied)
    cell = ", ".join(name for key, name in varied.items() if key not in lengths) or "cell"
    one_d = len({(group.D, group.epochs) for group in groups}) == 1
    repeats = any(group.epochs > 1 for group in groups)
    passes = repeats and not lengths
    packs = {(group.pack, group.pack > 1 and group.jobs) for group in groups}
    ranged: Align = "interval" if lengths else "decimal"
    shared = [f"per run, N {CONVENTION[view.convention]}"]
    if lengths:
        out_of = " and ".join(f"{varied[key]} {_values(groups, key)}" for key in lengths)
        shared = [f"a row for {out_of}, time of all its runs on one slot, otherwise {shared[0]}"]
    if one_d:
        shared.append(f"D = {units.count(groups[0].D)} tokens ({_epochs(groups[0].epochs)})")
    elif not repeats:
        shared.append("D under one epoch")
    elif lengths:
        shared.append(f"D up to {_epochs(max(group.epochs for group in groups))}")
    left = any(group.pack for group in groups)
    if left and len(packs) == 1:
        shared.append(f"packs of {groups[0].pack} train in one step" if groups[0].pack > 1 else "trained one by one")
    if not lengths:
        shared.append(FLOPS[view.flops_by])
    facts: dict[str, tuple[Column, list[str]]] = {
        "runs": (Column("runs", "decimal"), [_plan_runs(row) for row in rows]),
        "pack": (Column("pack", ranged), [_pack(row) for row in rows]),
        "N": (Column("N", "decimal"), [units.count(row[0].N) for row in rows]),
        "D": (
            Column("D tokens (epochs)" if passes else "D [tokens]", ranged),
            [_span(row, lambda g: g.D, units.count) + f" ({_epochs(row[0].epochs)})" * passes for row in rows],
        ),
        "C": (Column("C [FLOP]", "decimal"), [units.si(row[0].flops) for row in rows]),
        "memory": (Column("memory", "decimal"), [_largest(row) for row in rows]),
        "time": (Column("time", "right"), [_time(row, whole=bool(lengths)) for row in rows]),
    }
    known = {
        "runs": set(facts["runs"][1]) != {"1"},
        "pack": len(packs) > 1,
        "D": not one_d,
        "C": "train.flops" not in varied and not lengths,  # the axis says it already, or N and D do
        "memory": left and any(group.memory is not None for group in groups),
        "time": any(group.seconds is not None for group in groups),
    }
    if known["memory"] and sum(known.values()) > MOST_COLUMNS - 2:  # the cell and N always stand
        known["memory"] = False
        shared.append(f"memory up to {units.size(max(group.memory or 0 for group in groups))} a pack")
    elif known["memory"]:
        shared.append("memory per pack")
    if "train.tokens_per_param" in varied:
        shared.append("tokens_per_param of all parameters")
    names = [", ".join(cell_value(row[0].cell, key) for key in varied if key not in lengths) for row in rows]
    styles = [CONTEXT if all(group.done == group.runs for group in row) else "" for row in rows]
    kept = {name: fact for name, fact in facts.items() if known.get(name, True)}
    columns, told = _side_by_side(cell, names, styles, kept)
    for name in ("memory", "C"):  # what a narrow terminal can do without
        if name in kept and not fits(columns, told, look):
            del kept[name]
            columns, told = _side_by_side(cell, names, styles, kept)
            shared = [held for held in shared if held != "memory per pack"]
            ends = [held(group.flops for group in groups) for held in (min, max)]
            shared.append(
                f"memory up to {units.size(max(group.memory or 0 for group in groups))} a pack"
                if name == "memory"
                else f"C {' to '.join(dict.fromkeys(units.si(end, 'FLOP') for end in ends))}"
            )
    return [*paragraph(", ".join(shared), look, style=CONTEXT), *table(columns, told, look)]


def _side_by_side(
    cell: str, names: Sequence[str], styles: Sequence[str], facts: Mapping[str, tuple[Column, list[str]]]
) -> tuple[list[Column], list[Row]]:
    """Columns and rows of a plan's table."""
    rows: list[Row] = [
        [Cell(text, style) for text in (name, *(texts[i] for _, texts in facts.values()))]
        for i, (name, style) in enumerate(zip(names, styles, strict=True))
    ]
    return [Column(cell), *(column for column, _ in facts.values())], rows


def _script_table(view: PlanView, look: Look) -> Lines:
    """One row per cell of a script's parameters, with what its sweep file says of it."""
    groups = view.groups
    varied = varying_keys([group.cell for group in groups])
    shared = "per run, as the sweep file counts them; what a script needs of memory is not known"
    known = [group.seconds for group in groups if group.seconds is not None]
    facts: list[tuple[Column, list[str], bool]] = [
        (Column("runs", "decimal"), [_plan_runs((group,)) for group in groups], True),
        (Column("N", "decimal"), [_told(group.N) for group in groups], True),
        (Column("D [tokens]", "decimal"), [_told(group.D) for group in groups], True),
        (Column("C [FLOP]", "decimal"), [units.si(g.flops) if g.flops == g.flops else "" for g in groups], True),
        (Column("time", "right"), [_time((group,), whole=False) for group in groups], bool(known)),
    ]
    kept = [(column, texts) for column, texts, always in facts if always and any(texts)]
    told: list[Row] = []
    for i, group in enumerate(groups):
        style = CONTEXT if group.done == group.runs else ""
        named = ", ".join(cell_value(group.cell, key) for key in varied)
        told.append([Cell(text, style) for text in (named, *(texts[i] for _, texts in kept))])
    columns = [Column(", ".join(varied.values()) or "cell"), *(column for column, _ in kept)]
    return [*paragraph(shared, look, style=CONTEXT), *table(columns, told, look)]


def _told(number: float) -> str:
    """A count that a sweep file gives; empty for one that it does not."""
    return units.count(number) if number == number else ""


def _plan_rows(view: PlanView, varied: Mapping[str, str]) -> tuple[list[tuple[PlanGroup, ...]], list[str]]:
    """The groups of each row, and the keys that differ inside of a row: lengths, where the cells are too many to read.

    One row a cell as long as they fit on a screen.
    """
    lengths = [key for key in varied if key in view.lengths]
    rows: dict[str, list[PlanGroup]] = {}
    for group in view.groups:
        rows.setdefault(repr([group.cell.get(key) for key in varied if key not in lengths]), []).append(group)
    if len(view.groups) <= MOST_ROWS or len(rows) == len(view.groups):
        return [(group,) for group in view.groups], []
    return [tuple(sorted(row, key=lambda group: group.D)) for row in rows.values()], lengths


def _values(groups: Sequence[PlanGroup], key: str) -> str:
    """The numbers that a key has, ascending."""
    held = {group.cell[key] for group in groups if key in group.cell}
    return ", ".join(map(show, sorted(held, key=lambda value: float(str(value)))))


def _span(row: Sequence[PlanGroup], of: Callable[[PlanGroup], float], shown: Callable[[float], str]) -> str:
    """A fact of a row: its only value, or the smallest and the largest."""
    low, high = (shown(bound(map(of, row))) for bound in (min, max))
    return low if low == high else f"{low} {BETWEEN} {high}"


def _largest(row: Sequence[PlanGroup]) -> str:
    known = [group.memory for group in row if group.memory is not None]
    return units.size(max(known)) if known else ""


def _time(row: Sequence[PlanGroup], *, whole: bool) -> str:
    """Of one run, or of whatever is left of a row."""
    if whole:
        return units.duration(sum(group.slot_seconds or 0.0 for group in row))
    return "?" if row[0].seconds is None else units.duration(row[0].seconds)


def _pack(row: Sequence[PlanGroup]) -> str:
    packs = [group for group in row if group.pack]
    if not packs:
        return ""
    if len(row) == 1 and row[0].pack > 1 and row[0].jobs > 1:
        return f"{row[0].jobs} × {row[0].pack}"
    return _span(packs, lambda group: group.pack, str)


def _plan_runs(row: Sequence[PlanGroup]) -> str:
    runs, ended = sum(group.runs for group in row), sum(group.done for group in row)
    done = "" if not ended else ", done" if ended == runs else f", {ended} done"
    return f"{runs}{done}"


def _epochs(epochs: float) -> str:
    return f"{units.figures(epochs, 2) if epochs >= 100 else f'{epochs:.2g}'} epoch{'s' * (epochs != 1)}"


def status_lines(view: StatusView, look: Look) -> Lines:
    """The screen of `scalectl status`: counts of the whole sweep, warnings, then the runs that were selected."""
    lines = opening(view.name, state_counts(view.counts), "", look)
    for note in view.notes:
        lines += paragraph(f"warning: {note}", look, hanging=2, style=ADVICE)
    if not view.rows:
        return [*lines, *paragraph(f"No {view.selection}.", look, style=CONTEXT)]
    names = short_names(tuple(dict.fromkeys(key for row in view.rows for key in row.cell)))
    columns = [
        Column("run"),
        Column("cell", wrap=True),
        Column("state"),
        Column("since", "right"),
        Column("step", "right"),
        Column("message", wrap=True),
    ]
    rows: list[list[Cell]] = []
    for row in view.rows:
        since = units.duration(row.seconds_ago) if row.seconds_ago is not None else ""
        step = "" if row.step is None else f"{row.step}/{row.steps}" if row.steps else str(row.step)
        cell = label({name: row.cell[key] for key, name in names.items() if key in row.cell})
        facts = (Cell(since, CONTEXT), Cell(step), Cell(row.message))
        rows.append([Cell(row.run_id[:SHORT_ID]), Cell(cell), state_cell(row.state), *facts])
    told = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    listed = table([columns[i] for i in told], [[row[i] for i in told] for row in rows], look)
    return [*lines, Text(), *paragraph(f"{view.selection}:", look, style=CONTEXT), *listed]
