"""Views and reports as terminal screens.

Bold is an estimate, dim context, yellow advice, red failure. Curves of different sizes differ by mark as well as by
colour, so that nothing is lost without colour. Data never reach the console as markup.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from scalectl.core import units
from scalectl.core.job import State
from scalectl.fit.summary import Interval, Summary
from scalectl.report.advice import Advice, limit_of
from scalectl.report.build import SHORT_ID, Ending, Group, Report, label, short_names, show
from scalectl.report.look import Look
from scalectl.report.plot import MARKS, Axis, Band, Layer, Line, Marks, draw
from scalectl.report.table import MOST_COLUMNS, Across, Cell, Column, Row, paragraph, table
from scalectl.report.views import FitView, PlanGroup, PlanView, PredictView, StatusView

ESTIMATE, CONTEXT, ADVICE, FAILURE = "bold", "dim", "yellow", "red"
CURVE_STYLES = ("cyan", "green", "blue", "magenta", "bright_cyan", "bright_green", "bright_blue", "bright_magenta")
INSIDE = 1.005  # factor beyond the data up to which a point is inside them: N and D are rounded when typed (ours)
MOST_CURVES = 8  # as many marks as MARKS holds; more curves than that are not told apart by eye
MOST_GROUPS = 30  # ours: a screen; the smallest and the largest are shown
TWO_PLOTS = 110  # columns from which two plots stand side by side
FLOPS = {"exact": "C with attention and head", "6nd": "C = 6 N D"}
CONVENTION = {"non_embedding": "non-embedding", "total": "total", "matmul": "matmul"}
UNIT_OF = {"L": "nats/token", "N": "parameters", "D": "tokens", "C": "FLOP"}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ"}
PROFILE = "profile"
RESAMPLED = {"size": "sizes", "run": "runs", "residual": "residuals"}

_NAMED = re.compile(rf"\b({'|'.join(GREEK)})\b")

Lines = list[Text]


def emit(lines: Sequence[Text], console: Console) -> None:
    """Prints finished lines as they are: nothing is wrapped, cropped, highlighted or read as markup."""
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False, highlight=False, markup=False, emoji=False)


def to_text(lines: Sequence[Text], look: Look, *, color: bool) -> str:
    """The lines as one string, with escape sequences if `color`; for files and golden tests."""
    console = Console(
        file=io.StringIO(),
        width=look.width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        _environ={},
    )
    emit(lines, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


# The report of a sweep


def report_lines(report: Report, look: Look) -> Lines:
    """Question, grid, curves, the law with its plot and estimates, what went wrong, what to do next."""
    lines = _opening(report.name, _states(report.counts), report.question, look)
    if report.reference:
        lines += paragraph("From the results shipped with scalectl, not from runs of yours.", look, style=CONTEXT)
    if report.axes or report.shared:
        lines += [Text(), *_grid_lines(report, look)]
    lines += [Text(), *_size_table(report, look)]
    lines += _curve_section(report, look)
    lines += _law_section(report, look)
    lines += _ending_section(report, look)
    lines += _advice_lines(report.advice, look)
    foot = [*report.notes, *([report.provenance] if report.provenance else [])]
    if foot:
        lines.append(Text())
    for note in foot:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _opening(name: str, right: str, question: str, look: Look) -> Lines:
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


def _states(counts: Mapping[State, int]) -> str:
    total = sum(counts.values())
    parts = [f"{counts[state]} {state}" for state in State if counts.get(state)]
    if len(parts) == 1 and counts.get(State.DONE):
        return f"{_n(total, 'run')}, all done"
    return f"{_n(total, 'run')}: {', '.join(parts)}" if parts else "no runs"


def _grid_lines(report: Report, look: Look) -> Lines:
    names = short_names(tuple(axis.key for axis in report.axes))
    grid = " × ".join(f"{names[axis.key]} {{{', '.join(map(show, axis.values))}}}" for axis in report.axes)
    lines = paragraph(f"grid    {grid}", look, indent=2, hanging=8) if grid else []
    shared = ", ".join(f"{key} {value}" for key, value in report.shared)
    if shared:
        lines += paragraph(f"shared  {shared}", look, indent=2, hanging=8, style=CONTEXT)
    return lines


def _size_table(report: Report, look: Look) -> Lines:
    groups = report.groups
    varied = _varying([group.cell for group in groups])
    # Token budgets that are D itself would stand in the table twice.
    varied = {k: v for k, v in varied.items() if any(group.cell.get(k) != group.D for group in groups)} or varied
    one_d = len({group.D for group in groups}) == 1
    several = {group.n for group in groups if group.n}
    over = {group.over for group in groups if group.over}
    n = f"n = {several.pop()}" if len(several) == 1 else "n in brackets"
    spread = f"± standard error over {' or '.join(sorted(over))}, {n}" if over else "nothing finished yet"
    title = f"Held-out loss by size [nats/token], {spread}"
    title += f"; D = {units.count(groups[0].D)} tokens" if one_d and groups else ""
    title += f"; {FLOPS[report.flops]}"
    seconds = any(group.seconds is not None for group in groups)
    bits = any(group.bits_per_byte is not None for group in groups)
    labels = 1 if len(varied) + 3 + (not one_d) + bits + seconds > 7 else len(varied)
    columns = [Column(", ".join(varied.values()))] if labels == 1 else [Column(n, "decimal") for n in varied.values()]
    columns += [
        Column(f"N {CONVENTION[report.convention]}", "decimal"),
        *([] if one_d else [Column("D tokens", "decimal")]),
    ]
    columns += [Column("C [FLOP]", "decimal"), Column("loss", "decimal", ESTIMATE)]
    columns += [Column("bits/byte", "decimal")] if bits else []
    columns += [Column("time", "right")] if seconds else []
    rows: list[Row] = []
    half = MOST_GROUPS // 2
    for i, group in enumerate(groups):
        if len(groups) > MOST_GROUPS and i == half:
            rows.append(
                Across(f"… {len(groups) - 2 * half} more, see scalectl export {report.name}", CONTEXT, indent=0)
            )
        if len(groups) > MOST_GROUPS and half <= i < len(groups) - half:
            continue
        values = [_value(group.cell, key) for key in varied]
        row: list[str | Cell] = [", ".join(values)] if labels == 1 else list(values)
        row += [units.count(group.N), *([] if one_d else [units.count(group.D)]), units.si(group.C)]
        row.append(_loss(group, several=n == "n in brackets"))
        row += [f"{group.bits_per_byte:.3f}" if group.bits_per_byte is not None else ""] if bits else []
        row += [units.duration(group.seconds) if group.seconds is not None else ""] if seconds else []
        rows.append(row)
    return [*paragraph(title, look), *table(columns, rows, look)]


def _loss(group: Group, *, several: bool) -> str | Cell:
    if group.loss is None:
        return Cell("none finished", CONTEXT)
    value, error = units.measured(group.loss, group.error) if group.error else (f"{group.loss:.4f}", "")
    return f"{value}{f' ± {error}' if error else ''}{f' ({group.n})' if several else ''}"


def _varying(cells: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """Keys that differ between the cells (all keys if none does), each with its name without the table."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell))
    varied = [key for key in keys if len({repr(cell.get(key)) for cell in cells}) > 1]
    names = short_names(tuple(keys))
    return {key: names[key] for key in varied or keys}


def _value(cell: Mapping[str, object], key: str) -> str:
    return show(cell[key]) if key in cell else ""


def _curve_section(report: Report, look: Look) -> Lines:
    drawn = [group for group in report.groups if group.curve is not None and len(group.curve.loss) > 1]
    if not drawn:
        return [Text(), *paragraph("No loss curves yet: no run has been evaluated twice.", look, style=CONTEXT)]
    shown = drawn
    if len(drawn) > MOST_CURVES:
        shown = [drawn[i] for i in np.unique(np.linspace(0, len(drawn) - 1, MOST_CURVES).round().astype(int))]
    varied = _varying([group.cell for group in drawn])
    width = (look.width - 4) // 2 if look.width >= TWO_PLOTS else look.width
    plots = []
    for by, unit in (("tokens", "training tokens"), ("flops", "training FLOP, attention and head counted")):
        layers: list[Layer] = []
        for i, group in enumerate(shown):
            assert group.curve is not None
            x, y = getattr(group.curve, by), group.curve.loss
            style = CURVE_STYLES[i % len(CURVE_STYLES)]
            name = ",".join(_value(group.cell, key) for key in varied)
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
    return [*lines, *_fit_lines(report.fits, report.chosen, report.because, report.seeds, look)]


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
        legend.append(f"{pale} {_level(fit)} over {RESAMPLED.get(fit.unit, fit.unit)}")
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


# Fits


def fit_lines(view: FitView, look: Look) -> Lines:
    """The screen of `scalectl fit`: what was fitted, one block per law, which one to trust and why."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    if not view.fits:
        lines += paragraph(f"{view.target}: {view.because or 'no law was fitted'}", look, style=ADVICE)
        return lines
    first = view.fits[0]
    per = f"{_n(first.sizes, 'size')} × {_n(view.seeds, 'seed')}" if view.seeds else _n(first.sizes, "size")
    left = f"{_n(first.n, 'run')}: {per}"
    left += f", N {CONVENTION.get(first.convention, first.convention)}" if first.convention else ""
    left += "".join(
        f", {axis} = {units.si(value, 'FLOP') if axis == 'C' else units.count(value) + ' ' + UNIT_OF[axis]}"
        for axis, value in view.fixed.items()
    )
    if view.derived:
        left += f", {view.derived} from C = 6 N D"
    if first.flops and any("C" in fit.axis for fit in view.fits):
        left += f", {FLOPS.get(first.flops, f'C {first.flops}')}"
    drawn = f"bootstrap over {RESAMPLED.get(first.unit, first.unit)}, {first.draws} draws"
    right = f"{_objective(first)}, {drawn if first.draws else 'no bootstrap'}"
    if cell_len(left) + cell_len(right) + 3 <= look.width:
        gap = " " * (look.width - cell_len(left) - cell_len(right))
        line = Text(look.text(left) + gap)
        lines.append(line.append(look.text(right), style=CONTEXT))
    else:
        lines += [*paragraph(left, look), *paragraph(right, look, style=CONTEXT)]
    lines.append(Text())
    chosen = next((fit for fit in view.fits if fit.law == view.chosen), None)
    lines += _fit_lines(view.fits, chosen, view.because, view.seeds or 1, look, certified=True)
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


FORMULA_BESIDE = 16  # characters; a longer formula stands above its parameters, or the intervals would not fit. Ours.


def _fit_lines(
    fits: Sequence[Summary],
    chosen: Summary | None,
    because: str,
    seeds: int,
    look: Look,
    *,
    certified: bool = False,
) -> Lines:
    """One block per law: estimates with their intervals, then what they say in words.

    Args: certified: whether to say how sure the search is to have found the optimum.
    """
    resampled = [unit for unit in RESAMPLED if any(_bounds(fit, unit) for fit in fits)]
    resampled.sort(key=lambda unit: unit != fits[0].unit)  # first the one that the fit believes
    resampled = resampled or [PROFILE]  # without a bootstrap, what the objective itself says
    stacked = any(len(fit.formula) > FORMULA_BESIDE for fit in fits)
    columns = [] if stacked else [Column("law")]
    columns += [Column(""), Column("estimate", "decimal")]
    columns += [Column(f"{_level(fits[0])} {_resampled(fits[0], unit)}", "interval") for unit in resampled]
    rows: list[Row] = []
    for fit in fits:
        rows += [Across(fit.formula, indent=0)] if stacked else []
        for i, name in enumerate(fit.params):
            free = name in fit.identified
            known = fit.identified.get(name, True)
            bounds = [_bounds(fit, unit).get(name) for unit in resampled]
            value = _digits(fit.params[name], bounds[0] if bounds else None)
            style = CONTEXT if not known else ESTIMATE if fit is chosen else ""
            row: list[str | Cell] = [] if stacked else [Cell(fit.formula if i == 0 else "")]
            row += [GREEK.get(name, name), Cell(value, style)]
            for pair in bounds:
                text = _interval(fit.params[name], pair) if free else "fixed"
                row.append(Cell(text, CONTEXT if not (known and free) else ""))
            rows.append(row)
        rows += [Across(sentence, style) for sentence, style in _sentences(fit, seeds)]
        rows += [Across(_certificate(fit), CONTEXT)] if certified else []
    lines = table(columns, rows, look)
    if chosen is not None and because:
        lines += paragraph(f"chosen: {chosen.formula}, {_greek(because)}", look, indent=2, hanging=2)
    elif because:
        lines += paragraph(f"no law chosen: {_greek(because)}", look, indent=2, hanging=2, style=ADVICE)
    named = [name for name in ("E", "A", "B") if any(name in fit.params for fit in fits)]
    if named:
        lines += paragraph(f"{_and(named)} in nats/token", look, indent=2, style=CONTEXT)
    return lines


def _greek(sentence: str) -> str:
    return _NAMED.sub(lambda match: GREEK[match[0]], sentence)


def _bounds(fit: Summary, unit: str) -> Mapping[str, Interval]:
    if unit == PROFILE:
        return fit.profile
    return fit.intervals_by_unit.get(unit) or (fit.intervals if fit.unit == unit else {})


def _resampled(fit: Summary, unit: str) -> str:
    if unit == PROFILE:
        return "profile likelihood"
    return f"over {_n(fit.sizes if unit == 'size' else fit.n, unit)}"


def _certificate(fit: Summary) -> str:
    """What makes the optimum believable: starts that met in it, and the gradient there."""
    starts = f"{fit.starts_at_optimum}/{fit.starts} starts met here"
    return f"{starts}, objective {fit.value:.5g}, gradient {fit.gradient_norm:.0e}, AICc {fit.aicc:.1f}"


def _sentences(fit: Summary, seeds: int) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    if fit.doubling is not None:
        share, low, high = (100 * part for part in fit.doubling)
        known = math.isfinite(low) and math.isfinite(high)
        value, down, up = units.estimate(share, low, high)
        span = f"{down} … {up}" if known else "no interval"
        said.append((f"doubling {fit.axis} lowers the loss by {value} % ({span})", ""))
    for name, exponent in fit.optimal.items():
        pair = fit.optimal_intervals.get(name)
        of = {"a": "N* ~ C^a", "b": "D* ~ C^b"}.get(name, name)
        said.append((f"compute-optimal {of}: {name} = {_digits(exponent, pair)} ({_interval(exponent, pair)})", ""))
    missing = [name for name, known in fit.identified.items() if not known]
    if missing and not fit.advice:
        said.append((f"{_and(missing)} not identified by these runs", ADVICE))
    if fit.advice:
        said.append((_greek(fit.advice), ADVICE))
    said += [
        (f"held out: {held.where}, error {units.percent(held.relative_error)} (n = {held.n})", "")
        for held in fit.holdout
    ]
    if fit.misfit is not None or fit.seed_noise is not None:
        parts = [f"between seeds {units.percent(fit.seed_noise)}"] if fit.seed_noise is not None else []
        parts += [f"misfit {units.percent(fit.misfit)}"] if fit.misfit is not None else []
        verdict = {"law": ": the law, not the noise, limits this fit", "noise": ": noise between seeds limits this fit"}
        said.append((", ".join(parts) + verdict.get(limit_of(fit, seeds), ""), ""))
    if fit.outliers:
        shown = ", ".join(fit.outliers[:5]) + (", …" if len(fit.outliers) > 5 else "")
        said.append((f"{_n(len(fit.outliers), 'point')} beyond 5 robust deviations: {shown}", ADVICE))
    if fit.status != "converged" and not fit.advice:
        said.append((f"the search ended {fit.status}", ADVICE))
    return said


def _digits(value: float, pair: Interval | None) -> str:
    if pair is None or not (math.isfinite(pair[0]) and math.isfinite(pair[1])):
        return f"{value:.3g}"
    return units.estimate(value, *pair)[0]


def _interval(value: float, pair: Interval | None) -> str:
    if pair is None or math.isnan(pair[0]) or math.isnan(pair[1]):
        return "not computed"
    low, high = pair
    _, down, up = units.estimate(value, low, high)
    return _unbounded(f"{down} … {up}")


def _objective(fit: Summary) -> str:
    name = {"huber": "Huber", "lad": "LAD", "mse": "MSE", "log-mse": "log-MSE"}.get(fit.objective, fit.objective)
    if fit.delta is None or ":" in name:
        return name
    mantissa, _, exponent = f"{fit.delta:.0e}".partition("e")
    return f"{name} {mantissa}e{int(exponent)}"


def _level(fit: Summary) -> str:
    return f"{100 * fit.level:g} %"


# Predictions


def predict_lines(view: PredictView, look: Look) -> Lines:
    """The screen of `scalectl predict`."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    convention = f", N {CONVENTION[view.convention]}" if view.convention else ""
    lines += paragraph(
        f"{view.target}: {view.formula} from {_n(view.n, 'run')}{convention}; "
        f"{100 * view.level:g} % over {RESAMPLED.get(view.unit, view.unit)}, {view.draws} draws",
        look,
    )
    columns = [
        Column("asked", wrap=True),
        Column("predicted", "decimal", ESTIMATE),
        Column(f"{100 * view.level:g} % interval", "interval"),
        Column("unit"),
        Column("beyond data", wrap=True),
    ]
    rows: list[Row] = []
    for answer in view.answers:
        low, high = answer.interval
        if answer.what == "L":
            value, down, up = units.estimate(answer.value, low, high)
        else:
            shown = units.si if answer.what == "C" else units.count
            value, down, up = units.estimate_scaled(answer.value, low, high, shown)
        far = {axis: factor for axis, factor in answer.extrapolation.items() if factor > INSIDE}
        beyond = ", ".join(f"{axis} {_factor(factor)}" for axis, factor in far.items()) or "inside"
        pair = _unbounded(f"{down} … {up}")
        rows.append([answer.asked, _unbounded(value), pair, UNIT_OF[answer.what], Cell(beyond, ADVICE if far else "")])
        if answer.impossible > 0:
            share = units.percent(answer.impossible)
            rows.append(Across(f"{share} of the draws never get there: their floor lies above", ADVICE))
    lines += [Text(), *table(columns, rows, look)]
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _unbounded(text: str) -> str:
    return text.replace("inf", "∞")


def _factor(factor: float) -> str:
    return f"{units.count(factor, 2).replace(' ', '')}×"


# Plans and states


def plan_lines(view: PlanView, look: Look) -> Lines:
    """The screen of `scalectl plan`: one row per cell, totals, what constraints drop, warnings."""
    lines = _opening(view.name, f"{_n(view.runs, 'run')}, {view.done} done", view.question, look)
    shared = ", ".join(f"{key} {value}" for key, value in view.shared)
    if shared:
        lines += paragraph(f"all runs: {shared}", look, style=CONTEXT)
    if view.groups:
        lines += [Text(), *_plan_table(view, look), Text()]
    left = view.runs - view.done
    if left:
        time = f"about {units.duration(view.seconds)}" if view.seconds is not None else "time unknown"
        source = "measured" if view.measured else "estimated from shapes"
        disk = f", {units.size(view.disk)} on disk" if view.disk is not None else ""
        total = (
            f"to train: {_n(left, 'run')}, {units.si(view.flops, 'FLOP')}, {time} on {view.devices} ({source}){disk}"
        )
        lines += paragraph(total, look)
    else:
        done = f"Nothing to do: {view.done}/{view.runs} done.  Next:  scalectl fit {view.name}"
        lines += paragraph(done, look)
    for constraint, dropped in view.dropped:
        lines += paragraph(f"dropped by {constraint}: {_n(dropped, 'run')}", look, hanging=2)
    if view.older:
        lines += paragraph(
            f"{_n(view.older, 'older run')} of this sweep kept, not part of the plan", look, style=CONTEXT
        )
    for warning in view.warnings:
        lines += paragraph(f"warning: {warning}", look, hanging=2, style=ADVICE)
    return lines


def _plan_table(view: PlanView, look: Look) -> Lines:
    """One row per cell; what is the same in all of them, or says nothing new, stands in the title."""
    groups = view.groups
    varied = _varying([group.cell for group in groups])
    cell = ", ".join(varied.values()) or "cell"
    one_d = len({(group.D, group.epochs) for group in groups}) == 1
    repeats = any(group.epochs > 1 for group in groups)
    packs = {group.pack for group in groups}
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
        "pack": (Column("pack", "decimal"), [str(group.pack or "") for group in groups]),
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
        named = ", ".join(_value(group.cell, key) for key in varied)
        rows.append([Cell(text, style) for text in (named, *(texts[i] for _, texts in kept))])
    return [
        *paragraph(", ".join(shared), look, style=CONTEXT),
        *table([Column(cell), *(column for column, _ in kept)], rows, look),
    ]


def _plan_runs(group: PlanGroup) -> str:
    done = "" if not group.done else ", done" if group.done == group.runs else f", {group.done} done"
    return f"{group.runs}{done}"


def _epochs(group: PlanGroup) -> str:
    return f"{group.epochs:.2g} epoch{'s' * (group.epochs != 1)}"


def status_lines(view: StatusView, look: Look) -> Lines:
    """The screen of `scalectl status`: counts of the whole sweep, then the runs that were selected."""
    lines = _opening(view.name, _states(view.counts), "", look)
    if not view.rows:
        return [*lines, *paragraph(f"No {view.selection}.", look, style=CONTEXT)]
    varied = _varying([row.cell for row in view.rows])
    columns = [
        Column("run"),
        Column("cell", wrap=True),
        Column("state"),
        Column("since", "right"),
        Column("step", "right"),
        Column("message", wrap=True),
    ]
    rows: list[Row] = []
    for row in view.rows:
        since = units.duration(row.seconds_ago) if row.seconds_ago is not None else ""
        step = f"{row.step}/{row.steps}" if row.step is not None else ""
        cell = label({name: row.cell[key] for key, name in varied.items() if key in row.cell})
        rows.append([row.run_id[:SHORT_ID], cell, _state(row.state), Cell(since, CONTEXT), step, row.message])
    return [*lines, Text(), *paragraph(f"{view.selection}:", look, style=CONTEXT), *table(columns, rows, look)]


def _state(state: State) -> Cell:
    return Cell(state.value, FAILURE if state in (State.FAILED, State.DIVERGED, State.OOM) else "")


# Shared parts


def _ending_section(report: Report, look: Look) -> Lines:
    lines: Lines = []
    for title, endings in (
        ("Diverged, left out of every fit", report.diverged),
        ("Failed", report.failed),
        ("Not finished", report.unfinished),
    ):
        if not endings:
            continue
        lines += [Text(), *paragraph(f"{title} ({_n(len(endings), 'run')})", look)]
        lines += table([Column(""), Column(""), Column(""), Column("", wrap=True)], _ending_rows(endings), look)
    return lines


MOST_ENDINGS = 12  # ours: half a screen; `status` lists them all


def _ending_rows(endings: Sequence[Ending]) -> list[Row]:
    rows: list[Row] = [
        [ending.run_id[:SHORT_ID], label(ending.cell), _state(ending.state), ending.message]
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


def _n(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
