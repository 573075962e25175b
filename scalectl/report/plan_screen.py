"""The screens of `scalectl plan` and `scalectl status`: what there is to do, and how every run stands."""

from __future__ import annotations

from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.report.build import SHORT_ID, label, short_names
from scalectl.report.look import Look
from scalectl.report.table import MOST_COLUMNS, Cell, Column, Row, paragraph, table
from scalectl.report.views import PlanGroup, PlanView, StatusView
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


def plan_lines(view: PlanView, look: Look) -> Lines:
    """The screen of `scalectl plan`: one row per cell, totals, what constraints drop, warnings."""
    lines = opening(view.name, f"{counted(view.runs, 'run')}, {view.done} done", view.question, look)
    shared = ", ".join(f"{key} {value}" for key, value in view.shared)
    if shared:
        lines += paragraph(f"all runs: {shared}", look, style=CONTEXT)
    if view.groups:
        lines += [Text(), *_plan_table(view, look), Text()]
    if view.todo:
        time = f"about {units.duration(view.seconds)}" if view.seconds is not None else "time unknown"
        disk = f", {units.size(view.disk)} on disk" if view.disk is not None else ""
        packed = f" in {counted(view.jobs, 'job')}" if 0 < view.jobs < view.todo else ""
        total = f"to train: {counted(view.todo, 'run')}{packed}, {units.si(view.flops, 'FLOP')}, {time}"
        lines += paragraph(f"{total} on {view.devices} ({_speeds(view)}){disk}", look)
        if view.alone is not None:
            flops, seconds = view.alone
            trained = f"{counted(view.trunks, 'trunk')} with a branch for every length; each run by itself:"
            factor = f"{units.si(flops, 'FLOP')} ({flops / view.flops:.2f} times), about {units.duration(seconds)}"
            lines += paragraph(f"{trained} {factor}", look)
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


def _speeds(view: PlanView) -> str:
    if not view.measured:
        return "estimated from shapes"
    if view.measured < view.shapes:
        return f"{view.measured} of {view.shapes} shapes measured here, the others estimated"
    return "measured here"


def _plan_table(view: PlanView, look: Look) -> Lines:
    """One row per cell; what is the same in all of them, or says nothing new, stands in the title."""
    groups = view.groups
    varied = varying_keys([group.cell for group in groups])
    cell = ", ".join(varied.values()) or "cell"
    one_d = len({(group.D, group.epochs) for group in groups}) == 1
    repeats = any(group.epochs > 1 for group in groups)
    packs = {(group.pack, group.pack > 1 and group.jobs) for group in groups}
    shared = [f"per run, N {CONVENTION[view.convention]}"]
    if one_d:
        shared.append(f"D = {units.count(groups[0].D)} tokens ({_epochs(groups[0])})")
    elif not repeats:
        shared.append("D under one epoch")
    if len(packs) == 1:
        shared.append(f"packs of {groups[0].pack} train in one step" if groups[0].pack > 1 else "trained one by one")
    shared.append(FLOPS[view.flops_by])
    facts: dict[str, tuple[Column, list[str]]] = {
        "runs": (Column("runs", "decimal"), [_plan_runs(group) for group in groups]),
        "pack": (Column("pack", "decimal"), [_pack(group) for group in groups]),
        "N": (Column("N", "decimal"), [units.count(group.N) for group in groups]),
        "D": (
            Column("D tokens (epochs)" if repeats else "D [tokens]", "decimal"),
            [units.count(g.D) + (f" ({_epochs(g)})" if repeats else "") for g in groups],
        ),
        "C": (Column("C [FLOP]", "decimal"), [units.si(group.flops) for group in groups]),
        "memory": (Column("memory", "decimal"), ["" if g.memory is None else units.size(g.memory) for g in groups]),
        "time": (Column("time", "right"), ["?" if g.seconds is None else units.duration(g.seconds) for g in groups]),
    }
    known = {
        "runs": set(facts["runs"][1]) != {"1"},
        "pack": len(packs) > 1,
        "D": not one_d,
        "C": "train.flops" not in varied,  # the axis says it already
        "memory": any(group.memory is not None for group in groups),
        "time": any(group.seconds is not None for group in groups),
    }
    if known["memory"] and sum(known.values()) > MOST_COLUMNS - 2:  # the cell and N always stand
        known["memory"] = False
        shared.append(f"memory up to {units.size(max(group.memory or 0 for group in groups))} a pack")
    elif known["memory"]:
        shared.append("memory per pack")
    kept = [fact for name, fact in facts.items() if known.get(name, True)]
    rows: list[Row] = []
    for i, group in enumerate(groups):
        style = CONTEXT if group.done == group.runs else ""
        named = ", ".join(cell_value(group.cell, key) for key in varied)
        rows.append([Cell(text, style) for text in (named, *(texts[i] for _, texts in kept))])
    return [
        *paragraph(", ".join(shared), look, style=CONTEXT),
        *table([Column(cell), *(column for column, _ in kept)], rows, look),
    ]


def _pack(group: PlanGroup) -> str:
    if group.pack > 1 and group.jobs > 1:
        return f"{group.jobs} × {group.pack}"
    return str(group.pack or "")


def _plan_runs(group: PlanGroup) -> str:
    done = "" if not group.done else ", done" if group.done == group.runs else f", {group.done} done"
    return f"{group.runs}{done}"


def _epochs(group: PlanGroup) -> str:
    return f"{group.epochs:.2g} epoch{'s' * (group.epochs != 1)}"


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
        step = f"{row.step}/{row.steps}" if row.step is not None else ""
        cell = label({name: row.cell[key] for key, name in names.items() if key in row.cell})
        facts = (Cell(since, CONTEXT), Cell(step), Cell(row.message))
        rows.append([Cell(row.run_id[:SHORT_ID]), Cell(cell), state_cell(row.state), *facts])
    told = [i for i in range(len(columns)) if any(row[i].text for row in rows)]
    listed = table([columns[i] for i in told], [[row[i] for i in told] for row in rows], look)
    return [*lines, Text(), *paragraph(f"{view.selection}:", look, style=CONTEXT), *listed]
