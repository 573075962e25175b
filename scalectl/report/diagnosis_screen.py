"""What stands below a fit when it is asked what it rests on: residuals, influence, and the profile of a parameter."""

from __future__ import annotations

import math

import numpy as np
from rich.text import Text

from scalectl.core.units import counted
from scalectl.fit.diagnose import FAR, Diagnosis, Influence
from scalectl.fit.profile import Curve
from scalectl.report.look import Look
from scalectl.report.plot import Axis, Layer, Line, Marks, draw
from scalectl.report.table import Column, Row, paragraph, table
from scalectl.report.words import CONTEXT, ESTIMATE, GREEK, UNIT_OF, Lines

PROFILE_ROWS = 10  # of the plot
MOST_ROWS = 5  # of the most influential sizes, and of points


def diagnosis_lines(held: Diagnosis, look: Look) -> Lines:
    """Residuals by place on each axis, then the sizes and the points that move the law most."""
    lines: Lines = []
    for axis in dict.fromkeys(place.axis for place in held.places):
        lines += [Text(), *paragraph(f"Residuals by {axis}, predicted - measured", look)]
        columns = [
            Column(f"{axis} [{UNIT_OF[axis]}]"),
            Column("runs", "right"),
            Column("mean [%]", "decimal"),
            Column("least … most [%]", "interval"),
        ]
        rows: list[Row] = [
            [place.place, str(place.n), _percent(place.mean), f"{_percent(place.least)} … {_percent(place.most)}"]
            for place in held.places
            if place.axis == axis
        ]
        lines += table(columns, rows, look)
    for title, found in (("size", held.sizes), ("run", held.points)):
        if found:
            lines += [Text(), *_influence(title, found, look)]
    if held.alone:
        names = ", ".join(held.alone)
        lines += paragraph(f"without {names} nothing would be left to determine the law", look, indent=2, style=CONTEXT)
    if held.skipped:
        said = f"{counted(held.skipped, 'run')} near the law not left out one by one"
        lines += paragraph(said, look, indent=2, style=CONTEXT)
    return lines


def profile_lines(held: Curve, look: Look) -> Lines:
    """The profile of a parameter with the height that bounds its interval."""
    name, level = GREEK.get(held.name, held.name), f"{100 * held.level:g} %"
    ends = " … ".join(f"{x:.3g}" if math.isfinite(x) else "open" for x in held.interval)
    title = f"Profile of {name} in {held.law}: {level} interval {ends}, estimate {held.estimate:.3g}"
    span = held.x[[0, -1]]
    layers: list[Layer] = [
        Line(span, np.ones(2), dashed=True, label=level),
        Line(held.x, held.rise),
        Marks(np.array([held.estimate]), np.zeros(1), style=ESTIMATE),
    ]
    tall = Axis(f"rise of the objective, 1 bounds {level}", log=False)
    plot = draw(layers, x=Axis(name, log=held.log), y=tall, width=look.width, height=PROFILE_ROWS, look=look)
    return [*paragraph(title, look), *plot]


def _influence(what: str, found: tuple[Influence, ...], look: Look) -> Lines:
    exponents = [name for name in found[0].params if name in GREEK][:3]
    columns = [Column(f"without {what}"), Column("runs", "right")]
    columns += [Column(GREEK[name], "decimal") for name in exponents]
    columns.append(Column(f"loss at {FAR:g}× the largest [%]", "decimal"))
    rows: list[Row] = [
        [one.what[:16], str(one.n), *(f"{one.params[name]:.3f}" for name in exponents), _percent(one.far)]
        for one in found[:MOST_ROWS]
    ]
    more = f", {MOST_ROWS} most influential of {len(found)}" if len(found) > MOST_ROWS else ""
    return [*paragraph(f"The law without one {what}{more}", look), *table(columns, rows, look)]


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "-"
    rounded = float(np.round(100 * share, 2))
    return f"{rounded:+.2f}" if rounded else "0.00"
