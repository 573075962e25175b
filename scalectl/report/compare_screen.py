"""The screen of `scalectl compare`: what the second recipe saves at some losses, and what it takes to show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.fit.summary import Interval
from scalectl.report.best_screen import best_lines, short_name
from scalectl.report.fit_screen import INSIDE, objective_words, times, unbounded
from scalectl.report.look import Look
from scalectl.report.table import Cell, Column, Row, paragraph, table
from scalectl.report.views import ArmView, CompareView, ComparisonView, SavingView
from scalectl.report.words import ADVICE, CONTEXT, CONVENTION, ESTIMATE, FLOPS, RESAMPLED, Lines

SMALLEST, LARGEST = 0.01, 1e3  # savings beyond which a bound says nothing more than none or no end. Ours.
NARROWER = 0.95  # ratio of widths below which an interval is narrower; a thousand draws know a width to 3 %. Ours.
WHAT = {"C": "compute", "N": "parameters", "D": "tokens"}


def compare_lines(view: CompareView, look: Look) -> Lines:
    """One block for each recipe beside the first."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    for number, held in enumerate(view.comparisons):
        lines += [*([Text()] if number else []), *_block(view, held, look)]
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _block(view: CompareView, held: ComparisonView, look: Look) -> Lines:
    first, second = held.first, held.second
    lines = paragraph(f"{second.name} against {first.name}: {_design(view, held)}", look)
    pairs = f"paired by {short_name(held.paired_by)} and seed, " if held.paired_by else "not paired, "
    resampled = f"bootstrap over {RESAMPLED.get(held.unit, held.unit)}, {counted(view.draws, 'draw')}"
    lines += paragraph(
        f"{view.formula} for each, {objective_words(view.objective, view.delta)}; {pairs}{resampled}",
        look,
        style=CONTEXT,
    )
    for arm in (first, second):
        if arm.best_over is not None:
            lines += [Text(), *paragraph(f"{arm.name}:", look), *best_lines(arm.best_over, look)]
    ways = [way for way in ("paired", "unpaired") if way == "unpaired" or held.paired_by]
    columns = [
        Column("at loss", "decimal"),
        Column(f"{second.name} saves", "decimal", ESTIMATE),
        *(Column(f"{100 * view.level:g} % {way}", "interval") for way in ways),
        Column(f"{first.name} needs", "decimal"),
        Column(f"{second.name} needs", "decimal"),
        Column("beyond data", wrap=True),
    ]
    rows: list[Row] = [_row(saving, ways, held, view.axis) for saving in held.savings]
    if held.one_shape is not None:
        rows.append(_row(held.one_shape, ways, held, view.axis))
    lines += [Text(), *table(columns, rows, look)]
    for text, style in _sentences(view, held):
        lines += paragraph(text, look, indent=2, hanging=2, style=style)
    return lines


def _design(view: CompareView, held: ComparisonView) -> str:
    first, second = held.first, held.second
    same = first.runs == second.runs and first.sizes == second.sizes
    runs = f"{first.runs} + {second.runs} runs"
    text = f"{runs}: {_of(first)}, {counted(held.seeds, 'seed')}" if same else f"{runs}: {_of(first)} + {_of(second)}"
    text += f", D = {units.count(first.D)} tokens" if first.D and first.D == second.D and view.axis != "D" else ""
    if view.axis == "C" and view.flops:
        return f"{text}, {FLOPS.get(view.flops, view.flops)}"
    return f"{text}, N {CONVENTION[view.convention]}" if view.axis == "N" and view.convention else text


def _of(arm: ArmView) -> str:
    return counted(arm.sizes, "size")


def _row(saving: SavingView, ways: list[str], held: ComparisonView, axis: str) -> Row:
    pairs: list[Interval | None] = [getattr(saving, way) for way in ways]
    value, _ = _times(saving.value, pairs[0])
    intervals = [_times(saving.value, pair)[1] for pair in pairs]
    if saving.loss is None or saving.needs is None or saving.beyond is None:
        return [Cell("one shape", CONTEXT), value, *intervals, "", "", ""]
    shown: Callable[[float], str] = units.si if axis == "C" else units.count
    needs = [shown(part) if math.isfinite(part) else "never" for part in saving.needs]
    far = [
        f"{arm.name} {times(beyond)}"
        for arm, beyond in zip((held.first, held.second), saving.beyond, strict=True)
        if beyond > INSIDE
    ]
    return [f"{saving.loss:g}", value, *intervals, *needs, Cell(", ".join(far) or "inside", ADVICE if far else "")]


def _times(value: float, pair: Interval | None) -> tuple[str, str]:
    """A factor and its interval, "1.31×" and "1.20 … 1.42"; bounds beyond all sense are none and no end."""
    if pair is None or any(map(math.isnan, pair)):
        return f"{value:.3g}×", "not computed"
    low, high = 0.0 if pair[0] < SMALLEST else pair[0], math.inf if pair[1] > LARGEST else pair[1]
    estimate, down, up = units.estimate(value, low, high)
    return unbounded(f"{estimate}×"), unbounded(f"{down} … {up}")


def _sentences(view: CompareView, held: ComparisonView) -> list[tuple[str, str]]:
    first, second, what = held.first.name, held.second.name, WHAT[view.axis]
    said = [_verdict(held, what)]
    if held.unpaired_because:
        said.append((f"not paired: {held.unpaired_because}", CONTEXT))
    noises = [(name, noise) for name, noise in ((first, held.first.noise), (second, held.second.noise)) if noise]
    if noises:
        text = "between seeds " + ", ".join(f"{name} {units.percent(noise)}" for name, noise in noises)
        if held.noise_of_pairs is not None:
            text += f"; the difference of a pair {units.percent(held.noise_of_pairs)}"
        said.append((text, ""))
    said += [(pairing, CONTEXT)] if (pairing := _pairing(held)) else []
    said.append(_needed(held, what))
    arms = [arm for arm in (held.first, held.second) if arm.status != "converged"]
    return said + [(f"the fit of {arm.name} ended {arm.status}", ADVICE) for arm in arms]


def _verdict(held: ComparisonView, what: str) -> tuple[str, str]:
    """What the intervals show, at every stated loss, at some, or only if both curves have one shape."""
    above, below = _clear([saving.paired or saving.unpaired for saving in held.savings])
    shape = held.one_shape
    (more,), (less,) = _clear([None if shape is None else shape.paired or shape.unpaired])
    first, second = held.first.name, held.second.name
    said = []
    for winner, loser, shown in ((second, first, above), (first, second, below)):
        if any(shown):
            where = "" if all(shown) else f" at {sum(shown)} of {counted(len(shown), 'loss')[:-1]}es"
            said.append(f"{winner} saves {what} over {loser}{where}")
    if said:
        crossed = (
            ": the curves cross, and the interval excludes 1 on both sides"
            if len(said) > 1
            else ": the interval excludes 1"
        )
        alone = "; with one shape for both curves it holds 1" if held.one_shape and not (more or less) else ""
        return " and ".join(said) + crossed + alone, ADVICE if len(said) > 1 or alone else ""
    if more or less:
        winner, loser = (second, first) if more else (first, second)
        return (
            f"no saving is shown at any one loss; {winner} saves {what} over {loser} if both curves have one shape: "
            "that interval alone excludes 1",
            ADVICE,
        )
    return f"no saving is shown: every interval holds 1, where both need the same {what}", ADVICE


def _clear(intervals: Sequence[Interval | None]) -> tuple[list[bool], list[bool]]:
    """Which intervals lie above 1, and which below."""
    known = [pair if pair is not None else (0.0, math.inf) for pair in intervals]
    return [pair[0] > 1 for pair in known], [pair[1] < 1 for pair in known]


def _pairing(held: ComparisonView) -> str:
    """What pairing does not do, if anything: pairs share the luck of their seeds, and what is off at their size."""
    if not held.paired_by:
        return ""
    both = [(saving.paired, saving.unpaired) for saving in held.savings]
    widths = [(_width(paired), _width(unpaired)) for paired, unpaired in both]
    helps = any(paired < NARROWER * unpaired for paired, unpaired in widths)
    pair, first, second = held.noise_of_pairs, held.first.noise, held.second.noise
    apart = pair is not None and first is not None and second is not None and pair >= math.hypot(first, second)
    luck = "runs of one seed do not share their luck"
    if helps:
        return f"pairing helps by the sizes alone: {luck}" if apart else ""
    return "pairing does not help: its intervals are no narrower" + (f", and {luck}" if apart else "")


def _width(pair: Interval | None) -> float:
    return math.inf if pair is None or not 0 < pair[0] < pair[1] < math.inf else math.log(pair[1] / pair[0])


def _needed(held: ComparisonView, what: str) -> tuple[str, str]:
    claim = f"a saving of {units.percent(held.claim)} of {what}"
    if held.seeds_needed is None and held.seeds_needed_unpaired is None:
        return f"{claim}: no size has two seeds, so that the noise is unknown; add seeds", ADVICE
    loss = units.percent(held.slope * math.log1p(held.claim))
    ways = [
        f"{count} seeds a size {way}"
        for count, way in ((held.seeds_needed, "paired"), (held.seeds_needed_unpaired, "unpaired"))
        if count is not None
    ]
    return f"{claim} is {loss} of loss here; to show it takes {' or '.join(ways)}, now {held.seeds}", ""
