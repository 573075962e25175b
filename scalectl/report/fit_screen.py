"""The screens of `scalectl fit` and `scalectl predict`: estimates with their intervals, and what they rest on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted, listed
from scalectl.fit.summary import Interval, Summary
from scalectl.report.advice import limit_of
from scalectl.report.beside_screen import against_lines, approach_lines
from scalectl.report.best_screen import best_lines, short_name
from scalectl.report.diagnosis_screen import diagnosis_lines, profile_lines
from scalectl.report.look import Look
from scalectl.report.table import Across, Cell, Column, Row, paragraph, table
from scalectl.report.views import FitView, PredictView
from scalectl.report.words import (
    ADVICE,
    CONTEXT,
    CONVENTION,
    ESTIMATE,
    FLOPS,
    GREEK,
    NAMED,
    PROFILE,
    RESAMPLED,
    UNIT_OF,
    Lines,
)

MOVED = 0.05  # relative change of a parameter that is worth a word beside outliers. Ours.
INSIDE = 1.005  # factor beyond the data up to which a point is inside them: N and D are rounded when typed (ours)


def fit_lines(view: FitView, look: Look) -> Lines:
    """The screen of `scalectl fit`: what was fitted, one block per law, which one to trust and why."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    if not view.fits:
        lines += paragraph(f"{view.target}: {view.because or 'no law was fitted'}", look, style=ADVICE)
        return lines
    first = view.fits[0]
    best = view.best_over
    left = f"{counted(best.runs if best else first.n, 'run')}: {_grid(view)}"
    left += f", each at its best {short_name(best.column)}" if best else ""
    left += f", N {CONVENTION.get(first.convention, first.convention)}" if first.convention else ""
    left += "".join(
        f", {axis} = {units.si(value, 'FLOP') if axis == 'C' else units.count(value) + ' ' + UNIT_OF[axis]}"
        for axis, value in view.fixed.items()
    )
    if view.derived:
        left += f", {view.derived} from C = 6 N D"
    if first.flops and any("C" in fit.axis for fit in view.fits):
        left += f", {FLOPS.get(first.flops, f'C {first.flops}')}"
    drawn = f"bootstrap over {RESAMPLED.get(first.unit, first.unit)}, {counted(first.draws, 'draw')}"
    drawn += ", each choosing again" if best else ""
    right = f"{objective_words(first.objective, first.delta)}, {drawn if first.draws else 'no bootstrap'}"
    if cell_len(left) + cell_len(right) + 3 <= look.width:
        gap = " " * (look.width - cell_len(left) - cell_len(right))
        line = Text(look.text(left) + gap)
        lines.append(line.append(look.text(right), style=CONTEXT))
    else:
        lines += [*paragraph(left, look), *paragraph(right, look, style=CONTEXT)]
    lines += [Text(), *best_lines(best, look)] if best else []
    lines.append(Text())
    if view.approaches:
        lines += approach_lines(view, look)
    else:
        chosen = next((fit for fit in view.fits if fit.law == view.chosen), None)
        lines += law_block(view.fits, chosen, view.because, view.seeds or 1, look, certified=True, seeded=view.seeded)
    for held in view.profiles:
        lines += [Text(), *profile_lines(held, look)]
    if view.diagnosis is not None:
        lines += diagnosis_lines(view.diagnosis, look)
    if view.against or view.stated:
        lines += [Text(), *against_lines(view, look)]
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _grid(view: FitView) -> str:
    """What was varied: 5 sizes × 4 budgets × 3 seeds, or 10 sizes in 25 cells of N and D × 3 seeds."""
    sizes = view.fits[0].sizes
    text = counted(sizes, "size")
    if view.budgets is not None and view.budgets * sizes == view.places:
        text += f" × {counted(view.budgets, 'budget')}" if view.budgets > 1 else ""
    elif view.places > sizes:
        text += f" in {view.places} cells of N and D"
    if not view.seeds:
        return text
    return (
        f"{text} × {counted(view.seeds, 'seed' if view.seeded else 'run')}" if view.seeded or view.seeds > 1 else text
    )


LARGE = 1e5  # from here on a number of a table is written with a power of ten; ours
FORMULA_BESIDE = 16  # characters; a longer formula stands above its parameters, or the intervals would not fit. Ours.


def law_block(
    fits: Sequence[Summary],
    chosen: Summary | None,
    because: str,
    seeds: int,
    look: Look,
    *,
    certified: bool = False,
    seeded: bool = True,
) -> Lines:
    """One block per law: estimates with their intervals, then what they say in words.

    Args: seeds: runs per place; certified: whether to say how sure the search is to have found the optimum; seeded:
    whether seeds tell the runs of a place apart.
    """
    resampled = [unit for unit in RESAMPLED if any(_bounds(fit, unit) for fit in fits)]
    resampled.sort(key=lambda unit: unit != fits[0].unit)  # first the one that the fit believes
    resampled = resampled or [PROFILE]  # without a bootstrap, what the objective itself says
    stacked = any(len(fit.formula) > FORMULA_BESIDE for fit in fits)
    columns = [] if stacked else [Column("law")]
    columns += [Column(""), Column("estimate", "decimal")]
    columns += [Column(f"{level_words(fits[0])} {_resampled(fits[0], unit)}", "interval") for unit in resampled]
    rows: list[Row] = []
    for fit in fits:
        rows += [Across(fit.formula, indent=0)] if stacked else []
        for i, name in enumerate(fit.params):
            free = name in fit.identified
            known = fit.identified.get(name, True) or not fit.draws
            bounds = [_bounds(fit, unit).get(name) for unit in resampled]
            powers = _powers(fit.params[name], bounds)
            value = _digits(fit.params[name], bounds[0] if bounds else None, powers=powers)
            style = CONTEXT if not known else ESTIMATE if fit is chosen else ""
            row: list[str | Cell] = [] if stacked else [Cell(fit.formula if i == 0 else "")]
            row += [GREEK.get(name, name), Cell(value, style)]
            for pair in bounds:
                text = _interval(fit.params[name], pair, name in fit.signed, powers=powers) if free else "fixed"
                text = f"= {GREEK.get(fit.tied[name], fit.tied[name])}" if name in fit.tied else text
                row.append(Cell(text, CONTEXT if not (known and free) else ""))
            rows.append(row)
        rows += [Across(sentence, style) for sentence, style in _sentences(fit, seeds, seeded=seeded)]
        rows += [Across(_certificate(fit), CONTEXT)] if certified else []
    lines = table(columns, rows, look)
    if chosen is not None and because:
        lines += paragraph(f"chosen: {chosen.formula}, {_greek(because)}", look, indent=2, hanging=2)
    elif because:
        lines += paragraph(f"no law chosen: {_greek(because)}", look, indent=2, hanging=2, style=ADVICE)
    said = {fit.law: _units(fit) for fit in fits}
    if _agree(said.values()):
        longest_first = sorted(said.values(), key=len, reverse=True)
        said = {"": {name: unit for held in longest_first for name, unit in held.items()}}
    for law, held in said.items():
        if held:
            named = ", ".join(f"{listed(_named(held, unit))} in {unit}" for unit in dict.fromkeys(held.values()))
            lines += paragraph(f"{law}: {named}" if law else named, look, indent=2, style=CONTEXT)
    return lines


def _units(fit: Summary) -> dict[str, str]:
    return {GREEK.get(name, name): unit for name, unit in fit.units.items()}


def _agree(said: Iterable[Mapping[str, str]]) -> bool:
    """Whether no name has different units in different laws."""
    pairs = {pair for held in said for pair in held.items()}
    return len({name for name, _ in pairs}) == len(pairs)


def _named(units_of: Mapping[str, str], unit: str) -> list[str]:
    return [name for name, held in units_of.items() if held == unit]


def _greek(sentence: str) -> str:
    return NAMED.sub(lambda match: GREEK[match[0]], sentence)


def _bounds(fit: Summary, unit: str) -> Mapping[str, Interval]:
    if unit == PROFILE:
        return fit.profile
    return fit.intervals_by_unit.get(unit) or (fit.intervals if fit.unit == unit else {})


def _resampled(fit: Summary, unit: str) -> str:
    if unit == PROFILE:
        return "profile likelihood"
    return f"over {counted(fit.sizes if unit == 'size' else fit.n, unit)}"


def _certificate(fit: Summary) -> str:
    """What makes the optimum believable: starts that met in it, and the gradient there."""
    starts = f"{fit.starts_at_optimum}/{fit.starts} starts met here"
    aicc = f"AICc {fit.aicc:.1f}" if math.isfinite(fit.aicc) else "too few runs for an AICc"
    return f"{starts}, objective {fit.value:.5g}, gradient {fit.gradient_norm:.0e}, {aicc}"


def _sentences(fit: Summary, seeds: int, *, seeded: bool) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    if fit.doubling is not None:
        share, low, high = (100 * part for part in fit.doubling)
        known = math.isfinite(low) and math.isfinite(high) and low < high
        value, down, up = units.estimate(share, low, high) if known else (f"{share:.2g}", "", "")
        span = f"{down} … {up}" if known else "α is fixed" if low == high else "no interval"
        said.append((f"doubling {fit.axis} lowers the loss by {value} % ({span})", ""))
    for name, exponent in fit.optimal.items():
        pair = fit.optimal_intervals.get(name)
        of = {"a": "N* ~ C^a", "b": "D* ~ C^b"}.get(name, name)
        said.append((f"compute-optimal {of}: {name} = {_digits(exponent, pair)} ({_interval(exponent, pair)})", ""))
    missing = [name for name, known in fit.identified.items() if not known]
    if missing and not fit.draws:
        said.append((f"{_greek(listed(missing))} not judged without the bootstrap", CONTEXT))
    elif missing and not fit.advice:
        said.append((f"{_greek(listed(missing))} not identified by these runs", ADVICE))
    if fit.advice:
        said.append((_greek(fit.advice), ADVICE))
    said += [(sentence, "") for sentence in _held_out(fit)]
    if fit.misfit is not None or fit.seed_noise is not None:
        between = f"between {'seeds' if seeded else 'repeats'}"
        parts = [f"{between} {units.percent(fit.seed_noise)}"] if fit.seed_noise is not None else []
        parts += [f"misfit {units.percent(fit.misfit)}"] if fit.misfit is not None else []
        verdict = {"law": ": the law, not the noise, limits this fit", "noise": f": noise {between} limits this fit"}
        said.append((", ".join(parts) + verdict.get(limit_of(fit, seeds), ""), ""))
    if fit.outliers:
        shown = ", ".join(fit.outliers[:5]) + (", …" if len(fit.outliers) > 5 else "")
        said.append((f"{counted(len(fit.outliers), 'point')} beyond 5 robust deviations: {shown}{_moved(fit)}", ADVICE))
    if fit.status != "converged" and not fit.advice:
        said.append((f"the search ended {fit.status}", ADVICE))
    return said


def _moved(fit: Summary) -> str:
    """What the outliers do to the parameters."""
    if not fit.without_outliers:
        return ""
    them = "it" if len(fit.outliers) == 1 else "them"
    moved = {
        name: value
        for name, value in fit.without_outliers.items()
        if name not in fit.tied and abs(value - fit.params[name]) > MOVED * abs(fit.params[name])
    }
    if not moved:
        return f"; without {them} no parameter moves by {100 * MOVED:.0f} %"
    pair = ", ".join(
        f"{GREEK.get(name, name)} {units.figures(value)}, not {units.figures(fit.params[name])}"
        for name, value in moved.items()
    )
    return f"; without {them} {pair}"


def _held_out(fit: Summary) -> list[str]:
    if len(fit.holdout) <= 1:
        return [
            f"held out: {one.where}, error {units.percent(one.relative_error)} (n = {one.n})" for one in fit.holdout
        ]
    each = ", ".join(f"{one.where}: {units.percent(one.relative_error)}" for one in fit.holdout)
    mean = units.percent(sum(one.relative_error for one in fit.holdout) / len(fit.holdout))
    return [f"rolled out: each step predicted from all below it, {mean} off on average: {each}"]


def _powers(value: float, bounds: Sequence[Interval | None]) -> bool:
    """Whether a row of a table needs powers of ten: then all of its numbers have them."""
    known = [value, *(bound for pair in bounds if pair is not None for bound in pair)]
    return any(math.isfinite(number) and abs(number) >= LARGE for number in known)


def _digits(value: float, pair: Interval | None, *, powers: bool = False) -> str:
    if pair is None or not (math.isfinite(pair[0]) and math.isfinite(pair[1])):
        return units.estimate(value, math.nan, math.nan, powers=True)[0] if powers else f"{value:.3g}"
    return units.estimate(value, *pair, powers=powers)[0]


def _interval(value: float, pair: Interval | None, signed: bool = False, *, powers: bool = False) -> str:
    if pair is None or math.isnan(pair[0]) or math.isnan(pair[1]):
        return "not computed"
    low, high = pair
    # What cannot be negative is at least 0: a profile that stays open below ends there.
    _, down, up = units.estimate(value, low if signed else max(low, 0.0), high, powers=powers)
    return unbounded(f"{down} … {up}")


def objective_words(objective: str, delta: float | None) -> str:
    """What was minimised: "Huber 1e-3"."""
    name = {"huber": "Huber", "lad": "LAD", "mse": "MSE", "log-mse": "log-MSE"}.get(objective, objective)
    if delta is None:
        return name
    if name.startswith("asym:"):
        name = f"over-estimates × {name.removeprefix('asym:')}, Huber"
    mantissa, _, exponent = f"{delta:.0e}".partition("e")
    return f"{name} {mantissa}e{int(exponent)}"


def level_words(fit: Summary) -> str:
    """The confidence of a fit's intervals: "95 %"."""
    return f"{100 * fit.level:g} %"


def predict_lines(view: PredictView, look: Look) -> Lines:
    """The screen of `scalectl predict`."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    convention = f", N {CONVENTION[view.convention]}" if view.convention else ""
    lines += paragraph(
        f"{view.target}: {view.formula} from {_from(view)}{convention}; "
        f"{100 * view.level:g} % over {RESAMPLED.get(view.unit, view.unit)}, {counted(view.draws, 'draw')}",
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
        beyond = ", ".join(f"{axis} {times(factor)}" for axis, factor in far.items()) or "inside"
        never = low == math.inf
        pair = "never reached" if never else unbounded(f"{down} … {up}")
        rows.append([answer.asked, unbounded(value), pair, UNIT_OF[answer.what], Cell(beyond, ADVICE if far else "")])
        if answer.impossible > 0:
            share = units.percent(answer.impossible)
            rows.append(Across(f"{share} of the draws never get there: their floor lies above", ADVICE))
    lines += [Text(), *table(columns, rows, look)]
    for note in view.notes:
        lines += paragraph(_greek(note), look, style=CONTEXT)
    return lines


def _from(view: PredictView) -> str:
    best = view.best_over
    return (
        counted(view.n, "run") if best is None else f"the best {short_name(best.column)} of {counted(best.runs, 'run')}"
    )


def unbounded(text: str) -> str:
    """The text with the sign for what has no end."""
    return text.replace("inf", "∞")


MOST_PREFIXED = 1e12  # times; nobody reads a factor of trillions as a number. Ours.


def times(factor: float) -> str:
    """A factor as people write it: 31×, 2.4k×, ∞×."""
    if MOST_PREFIXED <= factor < math.inf:
        return f"{units.exponential(factor)}×"
    return unbounded(f"{units.count(factor, 2).replace(' ', '')}×")
