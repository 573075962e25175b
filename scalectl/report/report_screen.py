"""The screen of `scalectl report`: everything known about a sweep.

Curves of different sizes differ by mark as well as by colour, so that nothing is lost without colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.fit.summary import Summary
from scalectl.report.advice import Advice
from scalectl.report.best_screen import best_lines, short_name
from scalectl.report.build import Ending, Group, Report
from scalectl.report.cells import SHORT_ID, label, short_names, show
from scalectl.report.fit_screen import law_block, level_words
from scalectl.report.look import Look
from scalectl.report.loss_table import loss_table
from scalectl.report.plot import MARKS, Axis, Band, Layer, Line, Marks, draw
from scalectl.report.score_screen import threshold_lines
from scalectl.report.table import Across, Column, Row, paragraph, table
from scalectl.report.views import GridAxis
from scalectl.report.words import (
    ADVICE,
    CONTEXT,
    CONVENTION,
    ESTIMATE,
    RESAMPLED,
    UNIT_OF,
    Lines,
    cell_value,
    opening,
    state_cell,
    state_counts,
    varying_keys,
)

CURVE_STYLES = ("cyan", "green", "blue", "magenta", "bright_cyan", "bright_green", "bright_blue", "bright_magenta")
MOST_VALUES = 24  # of an axis of the grid; a ladder has them all shown, hundreds of seeds have not
MOST_CURVES = 8  # as many marks as MARKS holds; more curves than that are not told apart by eye
TWO_PLOTS = 110  # columns from which two plots stand side by side


def report_lines(report: Report, look: Look) -> Lines:
    """Question, grid, curves, the law with its plot and estimates, what went wrong, what to do next."""
    lines = opening(report.name, state_counts(report.counts), report.question, look)
    if report.reference:
        lines += paragraph("From the results shipped with scalectl, not from runs of yours.", look, style=CONTEXT)
    if report.axes or report.shared:
        lines += [Text(), *_grid_lines(report, look)]
    lines += [Text(), *loss_table(report, look)]
    lines += _curve_section(report, look)
    lines += _law_section(report, look)
    if report.thresholds is not None:
        lines += [Text(), *threshold_lines(report.thresholds, look)]
    lines += _ending_section(report, look)
    lines += _advice_lines(report.advice, look)
    foot = [*report.notes, *([report.provenance] if report.provenance else [])]
    if foot:
        lines.append(Text())
    for note in foot:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _grid_lines(report: Report, look: Look) -> Lines:
    names = short_names(tuple(axis.key for axis in report.axes))
    grid = " × ".join(f"{names[axis.key]} {{{_values(axis)}}}" for axis in report.axes)
    lines = paragraph(f"grid    {grid}", look, indent=2, hanging=8) if grid else []
    shared = ", ".join(f"{key} {value}" for key, value in report.shared)
    if shared:
        lines += paragraph(f"shared  {shared}", look, indent=2, hanging=8, style=CONTEXT)
    return lines


def _values(axis: GridAxis) -> str:
    """The values of an axis, or of very many the first, the last and how many they are."""
    shown = [show(value, axis.key) for value in axis.values]
    if len(shown) > MOST_VALUES:
        return f"{', '.join(shown[:3])}, …, {shown[-1]}: {len(shown)} values"
    return ", ".join(shown)


def _curve_section(report: Report, look: Look) -> Lines:
    drawn = [group for group in report.groups if group.curve is not None and len(group.curve.loss) > 1]
    if not drawn:
        return [Text(), *paragraph("No loss curves yet: no run has been evaluated twice.", look, style=CONTEXT)]
    shown = drawn
    if len(drawn) > MOST_CURVES:
        shown = [drawn[i] for i in np.unique(np.linspace(0, len(drawn) - 1, MOST_CURVES).round().astype(int))]
    varied = varying_keys([group.cell for group in drawn])
    width = (look.width - 4) // 2 if look.width >= TWO_PLOTS else look.width
    plots = []
    for by, unit in (("tokens", "training tokens"), ("flops", "training FLOP of all matrix products")):
        layers: list[Layer] = []
        for i, group in enumerate(shown):
            assert group.curve is not None
            x, y = getattr(group.curve, by), group.curve.loss
            style = CURVE_STYLES[i % len(CURVE_STYLES)]
            name = ",".join(cell_value(group.cell, key) for key in varied)
            layers += [Line(x, y, style=style), Marks(x, y, glyph=i, style=style)]
            layers.append(Line(x[-1:], y[-1:], style=style, label=f"{MARKS[look.unicode][i % MOST_CURVES]} {name}"))
        half = Look(width, look.unicode)
        plots.append(
            draw(layers, x=Axis(unit), y=Axis("held-out loss [nats/token]"), width=width, height=12, look=half)
        )
    several = any(group.n > 1 for group in shown)
    title = f"Loss curves by {', '.join(varied.values()) or 'run'}" + (", mean over seeds" if several else "")
    if len(shown) < len(drawn):
        title += f"; {len(shown)} of {len(drawn)} shown"
    lines = [Text(), *paragraph(title, look)]
    return [*lines, *(_beside(plots[0], plots[1], width) if width < look.width else [*plots[0], *plots[1]])]


def _beside(left: Lines, right: Lines, width: int) -> Lines:
    lines = []
    for a, b in zip(left, right, strict=True):
        line = a.copy()
        line.append(" " * (width + 4 - cell_len(a.plain)))
        lines.append(line.append_text(b))
        line.rstrip()
    return lines


def _law_section(report: Report, look: Look) -> Lines:
    lines = [Text()]
    if not report.fits:
        reason = report.because or "no law was fitted"
        return [*lines, *paragraph(f"No law yet: {reason}.".replace("..", "."), look, style=ADVICE)]
    if report.chosen is not None:
        lines += _law_plot(report, report.chosen, look)
        lines.append(Text())
    if report.best_over is not None:
        lines += [*best_lines(report.best_over, look), Text()]
    return [*lines, *law_block(report.fits, report.chosen, report.because, report.seeds, look)]


def _law_plot(report: Report, fit: Summary, look: Look) -> Lines:
    """Means of the sizes with the law and its band; a joint law is drawn along its compute-optimal runs."""
    joint = " " in fit.axis
    axis = "C" if joint else fit.axis
    done = [group for group in report.groups if group.loss is not None]
    lanes = sorted({group.D for group in done}) if axis == "N" else sorted({group.N for group in done})
    apart = 1 < len(lanes) <= MOST_CURVES
    layers: list[Layer] = []
    legend = []
    for i, lane in enumerate(lanes if apart else [None]):
        members = [group for group in done if lane is None or (group.D if axis == "N" else group.N) == lane]
        x = np.array([_abscissa(group, axis, joint=joint) for group in members], dtype=float)
        layers.append(Marks(x, np.array([group.loss for group in members], dtype=float), glyph=i, style=ESTIMATE))
        fixed = f"{'D' if axis == 'N' else 'N'} = {units.count(lane)}" if lane is not None else "measured"
        legend.append(f"{MARKS[look.unicode][i]} {fixed}")
    best = report.best_over
    if best is not None and axis == "N" and not apart:
        x = np.array([cell.cell["N"] for cell in best.cells], dtype=float)
        layers.append(Marks(x, np.array([cell.loss for cell in best.cells]), glyph=1, style=ESTIMATE))
        legend.append(f"{MARKS[look.unicode][1]} best {short_name(best.column)}")
    curve = fit.curve
    if curve is not None:
        least, most = curve.data
        below, above = curve.x <= least * (1 + 1e-9), curve.x >= most * (1 - 1e-9)
        inside = (curve.x >= least * (1 - 1e-9)) & (curve.x <= most * (1 + 1e-9))
        layers.append(Band(curve.x, curve.low, curve.high, style=CONTEXT))
        layers.append(Line(curve.x[inside], curve.y[inside], style=ESTIMATE))
        beyond = [Line(curve.x[part], curve.y[part], dashed=True) for part in (below, above) if part.sum() > 1]
        layers += beyond
        solid, dashes, pale = ("⠒⠒", "⠒ ⠒", "░") if look.unicode else ("--", "- -", ":")
        legend.append(f"{solid} {fit.law}{' at its optimum' if joint else ''}")
        legend += [f"{dashes} beyond the data"] if beyond else []
        legend.append(f"{pale} {level_words(fit)} over {RESAMPLED.get(fit.unit, fit.unit)}")
    name = f"{axis} {CONVENTION.get(fit.convention or '', '')}".strip() if axis == "N" else "6 N D" if joint else axis
    drawn = draw(
        layers,
        x=Axis(f"{name} [{UNIT_OF[axis]}]"),
        y=Axis("held-out loss [nats/token]"),
        width=look.width,
        height=16,
        look=look,
    )
    return [*_legend(f"L({axis})", legend, look), *drawn]


def _legend(head: str, items: Sequence[str], look: Look) -> Lines:
    """Items side by side, broken between items only."""
    lines = [look.text(head)]
    for item in map(look.text, items):
        if cell_len(lines[-1]) + 3 + cell_len(item) <= look.width:
            lines[-1] += f"   {item}"
        else:
            lines.append(" " * (len(head) + 3) + item)
    return [Text(line) for line in lines]


def _abscissa(group: Group, axis: str, *, joint: bool) -> float:
    """Where a group stands on an axis; joint laws count compute as 6 N D."""
    if joint:
        return 6.0 * group.N * group.D
    return float({"N": group.N, "D": group.D, "C": group.C}[axis])


def _ending_section(report: Report, look: Look) -> Lines:
    lines: Lines = []
    for title, endings in (
        ("Diverged, left out of every fit", report.diverged),
        ("Failed", report.failed),
        ("Not finished", report.unfinished),
    ):
        if not endings:
            continue
        lines += [Text(), *paragraph(f"{title} ({counted(len(endings), 'run')})", look)]
        lines += table([Column(""), Column(""), Column(""), Column("", wrap=True)], _ending_rows(endings), look)
    return lines


MOST_ENDINGS = 12  # ours: half a screen; `status` lists them all


def _ending_rows(endings: Sequence[Ending]) -> list[Row]:
    rows: list[Row] = [
        [ending.run_id[:SHORT_ID], label(ending.cell), state_cell(ending.state), ending.message]
        for ending in endings[:MOST_ENDINGS]
    ]
    if len(endings) > MOST_ENDINGS:
        rows.append(Across(f"and {len(endings) - MOST_ENDINGS} more: scalectl status", CONTEXT, indent=0))
    return rows


def _advice_lines(advice: Sequence[Advice], look: Look) -> Lines:
    if not advice:
        return []
    lines = [Text(), Text("What to do next")]
    for item in advice:
        lines += paragraph(f"{item.seen}: {item.cause}", look, indent=2, hanging=2)
        lines += paragraph(f"→ {item.remedy}", look, indent=4, hanging=2, style=ADVICE)
    return lines
