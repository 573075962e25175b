"""The screens beside a fit: the three approaches in one table, and published fits against the optimum of their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.fit.against import Comparison
from scalectl.fit.approaches import Approach
from scalectl.report.look import Look
from scalectl.report.table import Across, Cell, Column, Row, paragraph, table
from scalectl.report.views import FitView, StatedExponent
from scalectl.report.words import ADVICE, CONTEXT, CONVENTION, ESTIMATE, GREEK, Lines

DIGITS = 6  # of parameters beside published ones, which have three to ten


def approach_lines(view: FitView, look: Look) -> Lines:
    """The exponent of each approach with its interval, what it rests on, and how far they disagree."""
    held = view.approaches
    counts = view.fits[0].convention
    flops = {None: "as given", "6nd": "6 N D"}.get(view.fits[0].flops, str(view.fits[0].flops))
    columns = [
        Column("N* ~ C^a, D* ~ C^b"),
        Column("a", "decimal", ESTIMATE),
        Column(f"{100 * held[0].level:g} %", "interval"),
        Column("b", "decimal"),
        Column("over"),
        Column("N"),
        Column("C"),
    ]
    rows: list[Row] = []
    for one in held:
        known = all(map(math.isfinite, (*one.a_interval, *one.b_interval)))
        a, down, up = units.estimate(one.a, *one.a_interval) if known else (f"{one.a:.3f}", "", "")
        b = units.estimate(one.b, *one.b_interval)[0] if known else f"{one.b:.3f}"
        span = f"{down} … {up}" if known else "no interval"
        budget = "6 N D" if one.number == 3 else flops
        convention = CONVENTION[counts] if counts else "as given"
        rows.append([f"{one.number} {one.name}", a, span, b, counted(one.units, one.unit), convention, budget])
    lines = table(columns, rows, look)
    if len(held) > 1:
        lines += paragraph(_disagreement(held), look, indent=2, hanging=2)
    for one in held:
        for sentence in _about(one):
            lines += paragraph(f"{one.number}: {sentence}", look, indent=2, hanging=2, style=CONTEXT)
    for number, why in view.refused_approaches.items():
        lines += paragraph(f"{number}: {why}", look, indent=2, hanging=2, style=ADVICE)
    return lines


def _disagreement(held: Sequence[Approach]) -> str:
    lowest, highest = min(held, key=lambda one: one.a), max(held, key=lambda one: one.a)
    apart = highest.a - lowest.a
    shared = max(one.a_interval[0] for one in held) <= min(one.a_interval[1] for one in held)
    verdict = "all intervals share a range" if shared else "their intervals share no value: at least one is biased here"
    return f"they lie {apart:.3f} apart ({lowest.number} lowest, {highest.number} highest); {verdict}"


def _about(one: Approach) -> list[str]:
    said = []
    if one.bias is not None:
        way = "above" if one.bias > 0 else "below"
        said.append(
            f"on noise-free losses of the joint fit at the same places it ends {abs(one.bias):.3f} {way} that law's "
            "own a: its bias here"
        )
    if one.other is not None:
        value, (low, high) = one.other
        known = math.isfinite(low) and math.isfinite(high)
        a, down, up = units.estimate(value, low, high) if known else (f"{value:.3f}", "no", "interval")
        said.append(f"with interpolated minima in place of parabolas a = {a} ({down} {'… ' * known}{up})")
    if one.optima is not None and one.dropped:
        of = f"{one.dropped} of {one.dropped + one.optima} budgets"
        edge = "the best size there is the smallest or the largest that reaches it"
        said.append(f"{of} left out: {edge if one.number == 1 else 'no minimum inside the sizes tried'}")
    return said + ([one.note] if one.note else [])


def against_lines(view: FitView, look: Look) -> Lines:
    """Published fits beside the optimum of what they minimised, and published exponents beside ours."""
    lines: Lines = []
    if view.against:
        lines += _fit_table(view.against, look)
    if view.stated:
        lines += _stated_table(view, look)
    return lines


def _fit_table(held: Sequence[Comparison], look: Look) -> Lines:
    names = held[0].ours.law.names
    columns = [
        Column(""),
        *(Column(GREEK.get(name, name), "decimal") for name in names),
        Column("objective", "decimal"),
    ]
    rows: list[Row] = []
    for one in held:
        objective = str(one.ours.objective)
        rows.append(Across(f"{one.name}: {objective}, {one.where}", indent=0))
        theirs = [f"{one.theirs[name]:.{DIGITS}g}" for name in names]
        ours = [f"{one.ours.theta[name]:.{DIGITS}g}" for name in names]
        rows.append(["theirs", *theirs, f"{one.value:.8g}"])
        rows.append([Cell("ours", ESTIMATE), *ours, f"{one.ours.value:.8g}"])
        rows.append(Across(*_verdict(one)))
    lines = paragraph("Published fits, and the optimum of their objective on their rows", look)
    lines += table(columns, rows, look)
    off = [f"{one.name}, {one.where}" if one.where else one.name for one in held if not one.at_optimum]
    if off:
        of = f"{len(off)} of {counted(len(held), 'published fit')} not at the optimum"
        lines += paragraph(f"{of}: {'; '.join(off)}", look, indent=2, hanging=2, style=ADVICE)
    else:
        lines += paragraph(f"all {len(held)} are at the optimum", look, indent=2)
    return lines


def _verdict(one: Comparison) -> tuple[str, str]:
    raw = one.value / one.ours.value - 1
    if one.at_optimum:
        rounding = (
            f", {units.percent(raw)} above it as printed, within the rounding of their digits" if raw > 1e-6 else ""
        )
        return f"at its optimum{rounding}", CONTEXT
    best = (
        "" if one.excess > 0.9 * raw else f"; {units.percent(one.excess)} at best within the rounding of their digits"
    )
    return f"not at its optimum: {units.percent(raw)} above it{best}", ADVICE


def _stated_table(view: FitView, look: Look) -> Lines:
    ours = {one.number: one for one in view.approaches}
    rows: list[Row] = []
    for held in view.stated:
        mine = ours.get(held.approach)
        stated = [f"{held.a:.3f}", _span(held), f"{100 * held.level:g} %"]
        rows.append(
            [
                held.name,
                f"{held.approach}, interpolated" if held.interpolated else str(held.approach),
                *stated,
                *_own(mine, held),
            ]
        )
    columns = [
        Column("published", wrap=True),
        Column("approach"),
        Column("a", "decimal"),
        Column("stated", "interval"),
        Column("level"),
        Column("ours", "decimal", ESTIMATE),
        Column("apart", "decimal"),
    ]
    lines = paragraph("Published exponents of N* ~ C^a", look)
    lines += table(columns, rows, look)
    if not ours:
        lines += paragraph("--approach all puts ours beside them", look, indent=2, style=CONTEXT)
    return lines


def _span(held: StatedExponent) -> str:
    return f"{held.interval[0]:.3f} … {held.interval[1]:.3f}"


def _own(mine: Approach | None, held: StatedExponent) -> tuple[str, str]:
    if mine is None or (held.interpolated and mine.other is None):
        return "", ""
    a = mine.other[0] if held.interpolated and mine.other is not None else mine.a
    return f"{a:.3f}", f"{a - held.a:+.3f}"
