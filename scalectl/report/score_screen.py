"""The screen of `scalectl fit` for scores: one line per task, and a small plot of each that jumps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.emergence.calibrate import ITEMS, SIZES, Rates
from scalectl.report.look import Look
from scalectl.report.plot import MARKS, Axis, Band, Layer, Line, Marks, draw
from scalectl.report.table import Across, Cell, Column, Row, paragraph, table
from scalectl.report.views import Place, TaskView, ThresholdView
from scalectl.report.words import ADVICE, CONTEXT, CONVENTION, ESTIMATE, Lines

# The labels of emergence.detector as a table has room for them.
SHORT = {"emergent (compatible with a smooth law)": "emergent", "emergent (break beyond a smooth law)": "break"}
AXES = {
    "N": "N [parameters]",
    "C": "C [FLOP]",
    "D": "D [tokens]",
    "step": "step",
    "loss": "loss [nats/token]",
}
MOST_PLOTS = 6  # ours: two screens of a terminal
FEW = 4  # tasks without a jump whose reason is told; more stand in --json. Ours.
PLOT_WIDTH, PLOT_HEIGHT = 72, 10


def threshold_lines(view: ThresholdView, look: Look) -> Lines:
    """What was tested, one line per task, then the tasks that jump."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    families = list(dict.fromkeys(task.family for task in view.tasks))
    flagged = [task for task in view.tasks if task.flagged]
    head = f"{counted(len(view.tasks), 'curve')}, {len(flagged)} with a jump along {AXES[view.axis]}"
    head += f", N {CONVENTION[view.convention]}" if view.convention and view.axis == "N" else ""
    lines += paragraph(head, look)
    how = f"binomial, likelihood ratios by parametric bootstrap ({view.draws} draws)" if view.draws else ""
    if view.measures == "loss":
        how = "a power law against one break, by parametric bootstrap"
    lines += paragraph(f"{how}, false discoveries at most 5 % of a family", look, style=CONTEXT) if how else []
    if len(families) == len(view.tasks):  # one task of each
        families = []
        lines += [Text(), *_table(view.tasks, view, look)]
    for family in families:
        members = [task for task in view.tasks if task.family == family]
        lines.append(Text())
        if family:
            lines.append(Text(look.text(family), style=ESTIMATE))
        lines += _table(members, view, look)
    drawn = [*flagged, *(task for task in view.tasks if not task.flagged and task.twin)]
    for task in drawn[:MOST_PLOTS]:
        lines += [Text(), *_jump(task, view, look)]
    if len(drawn) > MOST_PLOTS:
        rest = f"{len(drawn) - MOST_PLOTS} more are not drawn: --where picks, --json has all"
        lines += [Text(), *paragraph(rest, look, style=CONTEXT)]
    quiet = [task for task in view.tasks if task not in drawn]
    told = quiet if len(quiet) <= FEW else [task for task in quiet if task.label == "insufficient"][:FEW]
    lines += [Text()] if told else []
    for task in told:
        lines += paragraph(f"{_name(task)}: {task.label}, {task.because}", look, hanging=2)
    if view.notes:
        lines.append(Text())
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _table(tasks: Sequence[TaskView], view: ThresholdView, look: Look) -> Lines:
    apart = len({task.family for task in tasks}) > 1
    columns = [
        Column("family" if apart else "task", wrap=True),
        Column("label"),
        Column("gain", "decimal"),
        Column("q", "decimal"),
        Column("leaves the floor", "interval"),
        Column(f"half-way {100 * view.level:g} %", "interval"),
        Column("by the metric"),
    ]
    of_loss = view.measures == "loss"
    if of_loss:
        columns[2], columns[4] = Column("loses", "decimal"), Column("bends between", "interval")
    shown = [0, 1, 2, 3]
    if any(task.bracket is not None for task in tasks):
        shown += [4] if of_loss else [4, 5]
    shown += [6] * any(task.flagged and not of_loss for task in tasks)
    rows: list[Row] = []
    for task in sorted(tasks, key=lambda held: not held.flagged):
        style = ESTIMATE if task.flagged else ""
        cells: list[str | Cell] = [
            task.family if apart else task.task,
            Cell(SHORT.get(task.label, task.label), style),
            "" if math.isnan(task.gain) else f"{task.gain:.2f}",
            "" if task.q_value is None else _q(task.q_value),
            "" if task.bracket is None else _pair(task.bracket, view.axis),
            "" if task.interval is None else _pair(task.interval, view.axis),
            {"metric-driven": "yes", "genuine": "no"}.get(str(task.artefact), "unknown") if task.flagged else "",
        ]
        rows.append([cells[k] for k in shown])
    return table([columns[k] for k in shown], rows, look)


def _q(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"


def _pair(values: tuple[float, float], axis: str) -> str:
    low, high = (place_words(value, axis) for value in values)
    if math.isnan(values[0]):
        return f"below {high}"
    if math.isnan(values[1]):
        return f"above {low}"
    if low.partition(" ")[2] == high.partition(" ")[2]:  # one unit is enough, and a line of 80 has no room for two
        low = low.partition(" ")[0]
    return f"{low} … {high}"


def place_words(value: float, axis: str) -> str:
    """A place on an axis: "27 B", "3.1 EFLOP", "1.83"."""
    if axis == "C":
        return units.si(value, "FLOP")
    if axis == "loss":
        return f"{value:.3g}"
    return units.count(value)


def _jump(task: TaskView, view: ThresholdView, look: Look) -> Lines:
    lines = [Text(look.text(_name(task)), style=ESTIMATE)]
    lines += paragraph(f"{task.label}: {task.because}", look, indent=2)
    lines += [Text("  ").append_text(line) for line in _plot(task, view, look)]
    for sentence, style in _sentences(task, view):
        lines += paragraph(sentence, look, indent=2, style=style)
    return lines


def _changing(places: Sequence[Place]) -> Sequence[Place]:
    """At most four places in which the share of able seeds goes from none to all, ends included."""
    shares = [place.able or 0.0 for place in places]
    some = next((k for k, share in enumerate(shares) if share > 0), len(shares))
    every = next((k for k in range(len(shares), 0, -1) if shares[k - 1] < 1), 0)
    return places[max(0, some - 1) : every + 1][:4]


def _name(task: TaskView) -> str:
    return f"{task.family}: {task.task}" if task.family else task.task


def _plot(task: TaskView, view: ThresholdView, look: Look) -> Lines:
    """Score and twin on one axis from 0 to 1, Wilson's bounds as bars, the bracket shaded."""
    x = np.array([place.at for place in task.places])
    layers: list[Layer] = []
    if task.bracket is not None:
        low, high = (x.min() if math.isnan(task.bracket[0]) else task.bracket[0]), task.bracket[1]
        ends = np.array([low, high])
        layers.append(Band(ends, np.zeros(2), np.ones(2)))
    if view.measures == "loss":
        return _loss_plot(task, view, look)
    layers += [Line(np.array([p.at, p.at]), np.array([p.low, p.high]), style=CONTEXT) for p in task.places]
    order = np.argsort(x)
    floor = {"chance": "chance", "given": "floor", "auto": "floor"}[task.floor_from]
    layers.append(Line(x[order][[0, -1]], np.array([task.floor, task.floor]), dashed=True, style=CONTEXT, label=floor))
    layers.append(Line(x[order][[0, -1]], np.array([1.0, 1.0]), dashed=True, style=CONTEXT))
    layers.append(Marks(x, np.array([place.score for place in task.places])))
    label = "score"
    if task.twin is not None:
        shown = np.exp(-task.twin.loss) if task.twin.product is None else task.twin.product
        layers.append(Marks(task.twin.place, shown, glyph=1, style="cyan"))
        named = task.twin.name.rpartition("/")[2]
        what = f"{named} as a probability" if task.twin.product is None else "product of the per-position accuracies"
        label = f"{MARKS[look.unicode][0]} score, {MARKS[look.unicode][1]} {what}"
    room = Look(min(PLOT_WIDTH, look.width - 2), look.unicode)
    return draw(
        layers, x=Axis(AXES[view.axis]), y=Axis(label, log=False), width=room.width, height=PLOT_HEIGHT, look=room
    )


def _loss_plot(task: TaskView, view: ThresholdView, look: Look) -> Lines:
    x, y = np.array([place.at for place in task.places]), np.array([place.score for place in task.places])
    layers: list[Layer] = [Marks(x, y)]
    if task.bracket is not None:
        layers.append(Band(np.array(task.bracket), np.full(2, y.min()), np.full(2, y.max())))
    room = Look(min(PLOT_WIDTH, look.width - 2), look.unicode)
    return draw(layers, x=Axis(AXES[view.axis]), y=Axis("loss"), width=room.width, height=PLOT_HEIGHT, look=room)


def _sentences(task: TaskView, view: ThresholdView) -> list[tuple[str, str]]:
    said: list[tuple[str, str]] = []
    if task.midpoint is not None and task.interval is not None and not math.isnan(task.midpoint):
        said.append(
            (
                f"half of the rise at {place_words(task.midpoint, view.axis)} ({_pair(task.interval, view.axis)}, "
                f"{100 * view.level:g} %), from a tenth to nine tenths in {_width(task)} decades",
                "",
            )
        )
    facts = [f"q {task.q_value:.2g} against a line" if task.q_value is not None else ""]
    facts += [f"{task.smooth_q_value:.2g} against a smooth law" if task.smooth_q_value is not None else ""]
    if view.measures == "loss":
        return [(facts[0], CONTEXT)]
    facts += [f"over-dispersion {task.dispersion:.2g}", f"floor {task.floor:.3g} ({task.floor_from})"]
    said.append((", ".join(fact for fact in facts if fact), CONTEXT))
    able = [place for place in task.places if place.able is not None and place.able_interval is not None]
    if able and task.success_above is not None:
        shares = ", ".join(
            f"{place_words(place.at, view.axis)}: {place.able:.2f} ({place.able_interval[0]:.2f} … "
            f"{place.able_interval[1]:.2f}, {place.seeds} seed{'s' * (place.seeds != 1)})"
            for place in _changing(able)
            if place.able_interval is not None
        )
        said.append((f"P(success, a score above {task.success_above:.2g}) at {shares}", ""))
    return said


def _width(task: TaskView) -> str:
    assert task.width_decades is not None
    return f"{task.width_decades:.2g}" if task.width_resolved else f"at most {task.width_decades:.2g}"


def calibration_lines(rates: Sequence[Rates], look: Look) -> Lines:
    """The screen of `scalectl fit --calibrate`: error rates by how the floor is known and kind of curve."""
    columns = [
        Column("curve", wrap=True),
        Column("scatter φ", "decimal"),
        Column("flagged", "decimal"),
        Column("beyond smooth", "decimal"),
        Column("false alarms", "decimal"),
        Column("covered", "decimal"),
        Column("goal"),
    ]
    known = {"chance": "chance is known", "auto": "chance is not known"}
    rows: list[Row] = []
    for floor_from in dict.fromkeys(held.floor_from for held in rates):
        rows.append(Across(known[floor_from], ESTIMATE, indent=0))
        rows += [
            [
                held.kind,
                f"{held.dispersion:g}",
                f"{100 * held.flagged:.1f} %",
                f"{100 * held.beyond:.1f} %",
                "" if held.wrong is None else f"{100 * held.wrong:.1f} %",
                "" if held.covered is None else f"{100 * held.covered:.1f} %",
                Cell("met" if held.met else "missed", "" if held.met else ADVICE),
            ]
            for held in rates
            if held.floor_from == floor_from
        ]
    rows.append(Across(f"{rates[0].simulations} simulations each, {SIZES} sizes of {ITEMS} items", CONTEXT, indent=0))
    return table(columns, rows, look)
