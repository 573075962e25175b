"""The best value of a setting in each cell of a grid, and what that choice adds to the uncertainty of a fit.

A cell is one place (N, D): all its runs differ by the setting and the seed alone. Seeds are pooled to choose and kept
apart to fit: the minimum of k noisy losses lies below the loss of the best value, the more so the noisier they are, so
that choosing by the mean over S seeds is off by about 1/√S of what choosing seed by seed would be; and each seed's loss
at the common choice is a point of its own, from which the noise between seeds is read as everywhere else.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scalectl.core.errors import UsageError
from scalectl.core.names import escaped
from scalectl.core.rows import Floats, Points
from scalectl.store.points import places, settings, vary

Ints = npt.NDArray[np.int64]

# A parabola through the best value and its neighbours is believed where neither neighbour's loss is more than 5 % above
# the best. Ours: a loss over ln(learning rate) is a parabola near its minimum and a cliff beyond; across a cliff of
# 46 % (width 128 of stdlib-rates) the parabola would put the minimum 4.5 % below any loss that was measured.
STEEP = 0.05


@dataclass(frozen=True)
class Choice:
    """What was chosen in one cell.

    value: of the setting, between grid values where a parabola was used; loss: mean over seeds (of logs) there
    [nats/token]; method: "parabola", "minimum", or "only" where the cell has one value; edge: "lowest" or "highest"
    where nothing worse was tried on that side and the value is not 0, of which there is no less; values and
    losses: of the grid, ascending, diverged ones left out; diverged: values at which a run diverged, which are no
    candidates; seeds, runs: how many; filled: losses missing in the grid of values and seeds, taken from the others.
    """

    value: Any
    loss: float
    method: Literal["parabola", "minimum", "only"]
    edge: Literal["", "lowest", "highest"]
    values: tuple[Any, ...]
    losses: tuple[float, ...]
    diverged: tuple[Any, ...]
    seeds: int
    runs: int
    filled: int


@dataclass(frozen=True)
class _Cell:
    """What is known of one cell.

    logs: of the losses, (seeds, values), without gaps; position: of the values, their logs where a parabola may be used
    (`interpolated`), else their order; ordered: whether they are numbers; rows: of the runs, (seeds, values), -1 for a
    gap; diverged: values at which a run diverged.
    """

    logs: Floats
    position: Floats
    interpolated: bool
    ordered: bool
    rows: Ints
    values: tuple[Any, ...]
    diverged: tuple[Any, ...]

    def select(self, weights: Floats) -> tuple[Ints, Floats, Floats]:
        """The best of the weighted means over seeds.

        Args: weights: (B, seeds), not all zero in any row.
        Returns: index of the best grid value (B,); the position chosen (B,); log loss of each seed there (B, seeds).
        """
        mean = weights @ self.logs / weights.sum(1, keepdims=True)
        best = mean.argmin(1)
        if not self.interpolated or mean.shape[1] < 3:
            return best, self.position[best], self.logs.T[best]
        middle = np.clip(best, 1, mean.shape[1] - 2)
        three = middle[:, None] + np.array([-1, 0, 1])
        m, x = np.take_along_axis(mean, three, axis=1), self.position[three]
        left, right = x[:, 1] - x[:, 0], x[:, 2] - x[:, 1]
        rise = m[:, [0, 2]] - m[:, [1]]
        # Of the parabola: its minimum lies between the midpoints of the two intervals, since m[1] is the lowest.
        bend = left * rise[:, 1] + right * rise[:, 0]
        usable = (best == middle) & (rise.max(1) <= STEEP) & (bend > 0) & self._beside(best)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = (right**2 * rise[:, 0] - left**2 * rise[:, 1]) / (2 * bend)
        chosen = np.where(usable, x[:, 1] + np.where(usable, step, 0.0), self.position[best])
        share = _lagrange(x, np.where(usable, chosen, x[:, 1]))
        there = np.einsum("bk,sbk->bs", share, self.logs[:, three])
        return best, chosen, np.where(usable[:, None], there, self.logs.T[best])

    def _beside(self, best: Ints) -> npt.NDArray[np.bool_]:
        """Whether no value at which runs diverged lies between the best value and its neighbours."""
        lost = np.array([np.log(value) for value in self.diverged])
        if not lost.size:
            return np.ones(len(best), dtype=bool)
        at = np.clip(best, 1, len(self.position) - 2)
        inside = (lost > self.position[at - 1][:, None]) & (lost < self.position[at + 1][:, None])
        return np.asarray(~inside.any(1))


@dataclass(frozen=True)
class Best:
    """The best of a setting: points to fit, and how to choose again.

    column: the setting; points: one per cell and seed, at the value chosen; choices: one per cell; runs: how many were
    chosen from.
    """

    column: str
    points: Points
    choices: tuple[Choice, ...]
    runs: int
    cells: tuple[_Cell, ...]
    index: Ints  # cell of each point, (n,); the points of a cell are in the order of its seeds

    def again(self, weights: Floats) -> Floats:
        """Losses (B, n) of the points with each cell's choice made again by how often its runs count, (B, n)."""
        losses = np.repeat(self.points.L[None], len(weights), axis=0)
        for number, cell in enumerate(self.cells):
            inside = self.index == number
            part = weights[:, inside]
            drawn = part.sum(1) > 0
            losses[np.ix_(drawn, inside)] = np.exp(cell.select(part[drawn])[2])
        return losses


def best_over(points: Points, column: str) -> Best:
    """Chooses the best value of a setting in each cell.

    Args: points: a grid whose cells vary in the setting and the seed alone (`vary(points, within=column)` is empty).
    Points without seeds are numbered in their order within a cell and value.
    Raises: UsageError where no cell has two values of the setting, or a run has none.
    """
    values = points.columns[column]
    place = places(points)
    empty = [value is None or value != value for value in values.tolist()]
    if any(empty):
        raise UsageError(
            f"{sum(empty)} of {len(points)} runs have no {escaped(column)}, so that nobody knows which is best",
            remedy=f"leave them out with --where, as in '`{escaped(column)}` > 0'",
        )
    if all(len(set(values[place == cell].tolist())) < 2 for cell in range(place.max() + 1)):
        raise UsageError(
            f"there is nothing to choose: {escaped(column)} takes one value at each N and D",
            remedy="--best-over names a setting that leaves N and D as they are, such as train.lr",
        )
    lost = _diverged(points, column, place)
    cells, choices, rows, losses, index, chosen = [], [], [], [], [], []
    for number in range(place.max() + 1):
        members = np.flatnonzero(place == number)
        cell = _cell(points, column, members, lost.get(number, ()))
        everyone = np.ones((1, len(cell.logs)))
        best, position, there = cell.select(everyone)
        choices.append(_choice(cell, int(best[0]), float(position[0]), float(there[0].mean()), len(members)))
        for seed in range(len(cell.logs)):
            own = cell.rows[seed]
            near = np.flatnonzero(own >= 0)
            rows.append(own[near[np.abs(near - best[0]).argmin()]])
            losses.append(there[0, seed])
            index.append(number)
            chosen.append(choices[-1].value)
        cells.append(cell)
    kept = points.take(np.array(rows))
    typed = np.array(chosen, dtype=object if values.dtype == object else None)
    return Best(
        column=column,
        points=replace(kept, L=np.exp(losses), columns={**kept.columns, column: typed}),
        choices=tuple(choices),
        runs=len(points),
        cells=tuple(cells),
        index=np.array(index),
    )


def _cell(points: Points, column: str, members: Ints, lost: tuple[Any, ...]) -> _Cell:
    """One cell from the rows of its points. lost: values at which a run diverged."""
    values = points.columns[column]
    tried = [value for value in dict.fromkeys(values[members].tolist()) if value not in lost]
    tried = tried or list(dict.fromkeys(values[members].tolist()))  # runs diverged at every value
    ordered = all(isinstance(value, int | float) for value in tried)
    tried = sorted(tried) if ordered else tried
    held: dict[tuple[Any, Any], list[int]] = {}
    for row in members:
        value = values[row].tolist() if isinstance(values[row], np.generic) else values[row]
        if value in tried:
            repeat = sum(other == value for _, other in held)
            seed = repeat if points.seed is None else points.seed[row].item()
            held.setdefault((seed, value), []).append(int(row))
    seeds = list(dict.fromkeys(seed for seed, _ in held))
    logs = np.full((len(seeds), len(tried)), np.nan)
    rows = np.full(logs.shape, -1, dtype=np.int64)
    for (seed, value), own in held.items():
        at = seeds.index(seed), tried.index(value)
        logs[at], rows[at] = np.log(points.L[own]).mean(), own[0]
    positive = ordered and min(tried) > 0 and all(isinstance(value, int | float) and value > 0 for value in lost)
    position = np.log(np.array(tried, dtype=np.float64)) if positive else np.arange(len(tried), dtype=np.float64)
    return _Cell(_filled(logs), position, positive, ordered, rows, tuple(tried), lost if ordered else ())


def _filled(logs: Floats) -> Floats:
    """Gaps (NaN) as value effect + seed effect, by least squares over what is there."""
    if np.isfinite(logs).all():
        return logs
    seed, value = np.nonzero(np.isfinite(logs))
    design = np.zeros((len(seed), sum(logs.shape)))
    design[np.arange(len(seed)), seed] = 1.0
    design[np.arange(len(seed)), len(logs) + value] = 1.0
    effect = np.linalg.lstsq(design, logs[seed, value], rcond=None)[0]
    return np.where(np.isfinite(logs), logs, effect[: len(logs), None] + effect[None, len(logs) :])


def _choice(cell: _Cell, best: int, position: float, log_loss: float, runs: int) -> Choice:
    between = cell.interpolated and position != cell.position[best]
    last = len(cell.values) - 1
    edge: Literal["", "lowest", "highest"] = ""
    if cell.ordered and last > 0:
        if best == 0 and cell.values[0] != 0 and not any(value < cell.values[0] for value in cell.diverged):
            edge = "lowest"
        elif best == last and not any(value > cell.values[last] for value in cell.diverged):
            edge = "highest"
    return Choice(
        value=float(np.exp(position)) if between else cell.values[best],
        loss=float(np.exp(log_loss)),
        method="only" if last == 0 else "parabola" if between else "minimum",
        edge=edge,
        values=cell.values,
        losses=tuple(np.exp(cell.logs.mean(0)).tolist()),
        diverged=cell.diverged,
        seeds=len(cell.logs),
        runs=runs,
        filled=int((cell.rows < 0).sum()),
    )


def _lagrange(x: Floats, at: Floats) -> Floats:
    """Weights (B, 3) with which values at x (B, 3) give the parabola's value at `at` (B,)."""
    parts = []
    for own, one, other in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        top = (at - x[:, one]) * (at - x[:, other])
        parts.append(top / ((x[:, own] - x[:, one]) * (x[:, own] - x[:, other])))
    return np.stack(parts, axis=1)


def _diverged(points: Points, column: str, place: Ints) -> dict[int, tuple[Any, ...]]:
    """Values at which a run of a cell diverged, ascending, by cell.

    A diverged run belongs to the cell with whose runs it shares every setting but this one; its D ends where it broke.
    """
    gone = points.diverged
    if not gone or not len(gone["run_id"]):
        return {}
    follows = {column, *vary(points)}  # what changes with the setting inside a cell does not tell cells apart
    names = [name for name in settings(points) if name not in follows and name in gone]
    names += [name for name in ("train.steps", "train.tokens") if name in points.columns and name in gone]

    def key(columns: dict[str, npt.NDArray[Any]], row: int) -> Hashable:
        return tuple(str(columns[name][row]) for name in names)

    home = {key(points.columns, row): int(place[row]) for row in range(len(points))}
    found: dict[int, set[Any]] = {}
    for row in range(len(gone["run_id"])):
        cell = home.get(key(gone, row))
        if cell is not None:
            found.setdefault(cell, set()).add(gone[column][row].item())
    return {cell: tuple(sorted(values)) for cell, values in found.items()}
