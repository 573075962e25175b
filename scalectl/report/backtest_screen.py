"""The screen of `scalectl backtest`: which law would have foretold the end of the curves."""

from __future__ import annotations

import math

from rich.text import Text

from scalectl.core import units
from scalectl.core.units import counted
from scalectl.report.look import Look
from scalectl.report.table import Across, Column, Row, paragraph, table
from scalectl.report.views import BacktestView
from scalectl.report.words import ADVICE, CONTEXT, CONVENTION, ESTIMATE, Lines


def backtest_lines(view: BacktestView, look: Look) -> Lines:
    """One row per law, best first, then why a law could not be fitted and where the best one was furthest off."""
    lines = paragraph(view.opening, look, style=CONTEXT) if view.opening else []
    along = " and ".join(view.axis.split())
    counted_by = f", N {CONVENTION[view.convention]}" if view.convention and "N" in view.axis else ""
    lines += paragraph(
        f"{view.target}: {counted(view.curves, 'curve')} along {along}{counted_by}; each fitted to the first "
        f"{100 * view.early:g} % of its places and scored on the rest, up to {_furthest(view)} further",
        look,
    )
    columns = [
        Column("law", wrap=True),
        Column("curves fitted", "right"),
        Column("best on", "right"),
        Column("median error", "decimal", ESTIMATE),
        Column("9 of 10 within", "decimal"),
        Column("worst", "decimal"),
    ]
    rows: list[Row] = []
    for score in view.scores:
        known = [units.percent(x) if math.isfinite(x) else "-" for x in (score.median, score.tenth, score.worst)]
        rows.append([score.formula, str(score.fitted), str(score.best), *known])
        refused = {trial.refused for trial in view.trials if trial.law == score.law and trial.refused}
        if refused:
            more = f", and {counted(len(refused) - 1, 'other reason')}" if len(refused) > 1 else ""
            missing = sum(bool(trial.refused) for trial in view.trials if trial.law == score.law)
            rows.append(Across(f"not fitted to {counted(missing, 'curve')}: {min(refused)}{more}", CONTEXT))
    lines += [Text(), *table(columns, rows, look)]
    if view.scores and view.scores[0].fitted > 1:
        mine = [trial for trial in view.trials if trial.law == view.scores[0].law and not trial.refused]
        worst = max(mine, key=lambda trial: trial.error)
        side = "above" if worst.bias > 0 else "below"
        lines += paragraph(
            f"{view.scores[0].formula} is furthest off on {worst.curve}: {units.percent(worst.error)}, "
            f"{side} what was measured",
            look,
            indent=2,
            style=ADVICE,
        )
    for note in view.notes:
        lines += paragraph(note, look, style=CONTEXT)
    return lines


def _furthest(view: BacktestView) -> str:
    return f"{units.count(max(trial.beyond for trial in view.trials), 2).replace(' ', '')}×"
