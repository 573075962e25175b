"""`scalectl fit` and `scalectl predict`: from runs to a law, and from a law to what it says about other scales."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scalectl.commands import references
from scalectl.commands.target import Target, changed_note, find_target
from scalectl.core.cost import Convention
from scalectl.core.errors import FitError, NothingMatched, ScalectlError, UsageError
from scalectl.core.expression import full_name, parse
from scalectl.core.names import PUBLISHED, did_you_mean, escaped, shown
from scalectl.core.rows import Points
from scalectl.core.units import counted, listed, quantity
from scalectl.fit.best import Best, best_over
from scalectl.fit.bootstrap import Draws, Unit
from scalectl.fit.describe import describe
from scalectl.fit.diagnose import diagnose
from scalectl.fit.estimate import Fit, counting
from scalectl.fit.objective import parse_objective
from scalectl.fit.predict import Prediction, allocate, asks, predict_loss, reach
from scalectl.fit.profile import Curve, curve
from scalectl.fit.select import choose
from scalectl.fit.summary import Summary
from scalectl.laws import Law, default_laws, law_on, reads, tie, varying
from scalectl.report.views import Answer, BestCell, BestView, FitView, Flops, PredictView
from scalectl.store.points import columns_points, is_export, load_points, ordered, places, read_columns, settings, vary
from scalectl.tasks import TASKS

UNUSABLE = ("not converged",)  # a status whose numbers nobody should use; the command then exits 1

# As in core.rows.AXES; S is a score, and L then its loss; seed tells repeats apart.
MAPPED = ("N", "D", "C", "L", "U", "width", "depth", "S", "seed")

# Settings that vary are axes of the laws that read them.
SETTINGS = {"U": "data.unique_tokens", "width": "model.d_model", "depth": "model.n_layer"}

FEWEST_DRAWS = 100  # the ends of a 95 % interval are then the third draws from either end; ours

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """The flags of `fit`, `predict` and `report`; see `scalectl fit --help`."""

    target: str | None = None
    results: str | None = None
    metric: str = "held-out/loss"
    at: str = "last"
    laws: tuple[str, ...] = ()
    objective: str = "huber:1e-3"
    maps: tuple[str, ...] = ()
    where: str | None = None
    convention: Convention = "non_embedding"
    flops: Flops = "6nd"
    fix: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()
    weight: str | None = None
    group: str | None = None
    draws: int = 1000
    unit: Unit = "size"
    seed: int = 0
    level: float = 0.95
    holdout: str = "largest"
    best_over: str | None = None
    rows: int = 1000
    all: bool = False


@dataclass(frozen=True)
class Fitted:
    """A law on some points with everything that predictions need. draws: None without a bootstrap."""

    fit: Fit
    draws: Draws | None
    summary: Summary


@dataclass(frozen=True)
class Result:
    """What `fit` found on one set of points.

    refused: why a law could not be fitted, by law; best: how the points were chosen from a grid, None for all of it.
    """

    target: Target
    points: Points
    fitted: tuple[Fitted, ...]
    chosen: str
    because: str
    refused: Mapping[str, str] = field(default_factory=dict)
    best: Best | None = None

    @property
    def answer(self) -> Fitted:
        """The chosen law."""
        return next(held for held in self.fitted if held.summary.law == self.chosen)


# Metrics that are shares of right answers. The losses beside them stay with the laws.
SCORES = re.compile(r"(.*/)?(exact_match|generated_match|position_accuracy(_\d+)?|accuracy|acc)")


def is_score(metric: str) -> bool:
    """Whether a metric is a share of right answers, by its name."""
    return SCORES.fullmatch(metric) is not None


def means_score(request: Request) -> bool:
    """Whether a request that does not say so is of a score: its metric is one, or its published table holds scores."""
    if request.laws:
        return False
    named = request.target or ""
    if named.startswith(PUBLISHED):
        return references.choose(named.removeprefix(PUBLISHED)).table.holds == "scores"
    return is_score(request.metric)


def run(request: Request, *, choose_rate: bool = False) -> Result:
    """Fit the laws that were asked for, or those that suit the axes that vary.

    Args: choose_rate: whether a setting of training that alone varies is chosen from, unasked.
    Raises: UsageError for flags that do not fit the points, and for an axis that varies and was not named;
    NothingMatched if no run answers; FitError if no law can be fitted.
    """
    target = find_target(request.target, request.results)
    points = load(request, target)
    extra = unread(points, request.laws)
    if choose_rate and request.best_over is None and len(extra) == 1 and extra[0].startswith("train."):
        request = replace(request, best_over=extra[0])
    return _fit(request, target, thinned(points, most_rows(request, target)))


@dataclass(frozen=True)
class Groups:
    """What was asked of each group, "" where there is only one.

    views: of those that can be fitted; refused: why not, for the others; usable: whether every fit is worth using.
    """

    views: Mapping[str, FitView]
    refused: Mapping[str, ScalectlError]
    usable: bool


def run_by(request: Request, column: str, make: Callable[[Result], FitView]) -> Groups:
    """`run` for each value of a column, by `column=value`: one that cannot be fitted does not keep the others back.

    Args: make: what to say of a result.
    Raises: as `run`, and as the first group does if none can be fitted.
    """
    target = find_target(request.target, request.results)
    column, parts = split(request, target, column)
    most = most_rows(request, target)
    found: dict[str, Result] = {}
    views: dict[str, FitView] = {}
    refused: dict[str, ScalectlError] = {}
    for value, part in parts.items():
        name = f"{column}={value}"
        try:
            result = _fit(request, target, thinned(part, most))
            found[name], views[name] = result, make(result)
        except (FitError, UsageError, NothingMatched) as error:
            refused[name] = error
    if not views:
        raise next(iter(refused.values()))
    return Groups(views, refused, not refused and all(map(usable, found.values())))


def run_one(request: Request, make: Callable[[Result], FitView]) -> Groups:
    """`run` as the only group. Raises: as `run`."""
    result = run(request)
    return Groups({"": make(result)}, {}, usable(result))


def usable(result: Result) -> bool:
    """Whether the chosen law has numbers that anybody should use."""
    return result.answer.summary.status not in UNUSABLE


def split(request: Request, target: Target, column: str) -> tuple[str, dict[Any, Points]]:
    """The full name of a column, and the points of each of its values in ascending order; None for a missing value.

    Raises: as `load`; ExpressionError for a column that is not there.
    """
    points = load(request, target, by=column)
    name = full_name(column, tuple(points.columns))
    values = [None if held != held else held for held in points.columns[name].tolist()]  # NaN is a missing value
    parts = {}
    for value in sorted(set(values), key=lambda held: (str(type(held)), held or 0)):
        part = points.take(np.array([held == value for held in values]))
        parts[value] = part if target.published is None else references.with_convention(target.published, part)
    return name, parts


def load(request: Request, target: Target, by: str | None = None) -> Points:
    """The points of a request, with their weights and groups.

    Raises: UsageError, NothingMatched, StoreError.
    """
    points = _load(request, target, by)
    notes = []
    if request.weight is not None:
        name = full_name(request.weight, tuple(points.columns))
        try:
            weight = points.columns[name].astype(np.float64)
        except (TypeError, ValueError):
            said = f"--weight {shown(name)} holds what is no number"
            raise UsageError(said, remedy="name a column of numbers") from None
        counts = counting(points, weight)
        points = replace(points, weight=weight).take(counts)
        none = len(counts) - len(points)
        left = f"; {counted(none, 'row')} with 0 left out" if none else ""
        notes.append(f"a row counts as often as its {name} says{left}")
    if request.group is not None:
        name = full_name(request.group, tuple(points.columns))
        points = replace(points, group=points.columns[name])
        notes.append(f"sizes, as what is resampled together, are the groups of {name}")
    used = [full_name(held, tuple(points.columns)) for held in (request.weight, request.group) if held is not None]
    unnamed = tuple(held for held in points.unnamed if held not in used)
    return replace(points, unnamed=unnamed, notes=(*points.notes, *notes))


def _load(request: Request, target: Target, by: str | None) -> Points:
    mask = mask_of(request.where)
    if target.file is not None:
        _refuse_of_runs(request)
    if target.published is not None and target.file is not None:
        return references.points_of(
            target.published, target.file, request.convention, mapping=mapping_of(request.maps), mask=mask, by=by
        )
    if target.file is not None:
        columns, origin = read_columns(target.file)
        return columns_points(columns, mapping_of(request.maps), mask, origin, request.convention)
    if request.maps:
        raise UsageError("--map names columns of a file, and a sweep has its own", remedy="leave --map out")
    return load_points(
        target.store,
        target.name,
        request.metric,
        request.convention,
        request.flops,
        at=request.at,
        all=request.all,
        where=mask,
        by=by,
    )


def _refuse_of_runs(request: Request) -> None:
    """Raises: UsageError for what is asked of a table and only runs of a sweep have."""
    ways = (
        ("--at", request.at != "last", "a row of a table is one measurement", "--where picks rows"),
        ("--all", request.all, "all rows of a table are read", "--where picks some"),
    )
    for flag, given, why, remedy in ways:
        if given:
            raise UsageError(f"{flag} is for the runs of a sweep: {why}", remedy=remedy)


def most_rows(request: Request, target: Target) -> int:
    """Rows to fit at most: all of a published table, and of a grid to choose from, which would get holes."""
    return 0 if target.published or request.best_over else request.rows


def thinned(points: Points, most: int) -> Points:
    """At most so many points (0 for all), evenly spread over N, D and C, with a note that says so.

    A million rows take hours to resample a thousand times; from a thousand, intervals are wider, and there in seconds.
    """
    if most < 0:
        raise UsageError(f"--rows {most} is not a number of rows", remedy="1000 is the default, 0 takes all")
    if not most or len(points) <= most:
        return points
    order = ordered([points.axis(axis) for axis in points.axes()])
    kept = np.sort(order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)])
    said = f"{len(points):,} rows: {most:,} of them are fitted, spread evenly over {' and '.join(points.axes())}"
    return replace(points.take(kept), notes=(*points.notes, f"{said}; --rows 0 takes all"))


def mask_of(where: str | None, flag: str = "--where") -> Any:
    """A mask over columns from --where, or from another flag; None if it was not given.

    Raises: ExpressionError; UsageError for what is no condition; NothingMatched, when asked, if it holds nowhere.
    """
    if where is None:
        return None
    expression = parse(where)

    def mask(columns: Columns) -> npt.NDArray[Any]:
        names = expression.resolved(list(columns))
        values = {written: np.asarray(columns[full]) for written, full in names.items()}
        count = len(next(iter(columns.values())))
        hit = np.broadcast_to(np.asarray(expression.evaluate(values)), count)
        if hit.dtype != np.bool_:
            raise UsageError(f"{flag} {shown(where)} is not a condition", remedy="compare it with something")
        if not hit.any():
            raise NothingMatched(f"no row answers to {flag} {shown(where)}")
        return hit

    return mask


def view(result: Result, *, diagnostics: bool = False, profiled: str | None = None, level: float = 0.95) -> FitView:
    """The result as facts to render.

    Args: diagnostics: residuals and influence of the chosen law as well; profiled: a parameter whose profile at `level`
    is wanted of every law that has it.
    Raises: UsageError if no law has it; FitError if it has no profile.
    """
    points = result.points
    varies = varying(points)
    fixed: dict[Literal["N", "D", "C"], float] = {}
    one_axis: tuple[Literal["N", "D"], ...] = ("N", "D")
    for axis in one_axis:
        values = getattr(points, axis)
        if values is not None and axis not in varies:
            fixed[axis] = float(values[0])
    return FitView(
        target=result.target.name,
        fits=tuple(held.summary for held in result.fitted),
        chosen=result.chosen,
        because=result.because,
        seeds=_alike(places(points)) if points.N is not None or points.D is not None else None,
        seeded=points.seed is not None,
        places=int(places(points).max()) + 1,
        budgets=_budgets(points),
        fixed=fixed,
        derived=points.derived,
        opening=result.target.opening,
        best_over=None if result.best is None else best_view(result.best),
        notes=(
            *changed_note(result.target.store, result.target.name),
            *points.notes,
            *_floor(points),
            *(f"{law}: {why}" for law, why in result.refused.items()),
        ),
        diagnosis=diagnose(result.answer.fit) if diagnostics else None,
        profiles=() if profiled is None else _profiles(result, profiled, level),
    )


def _profiles(result: Result, name: str, level: float) -> tuple[Curve, ...]:
    free = {held.summary.law: [n for n in held.fit.law.names if n not in held.fit.fixed] for held in result.fitted}
    found = tuple(curve(held.fit, name, level) for held in result.fitted if name in free[held.summary.law])
    if not found:
        there = tuple(dict.fromkeys(n for names in free.values() for n in names))
        raise UsageError(
            f"--profile {shown(name)}: no law here has such a free parameter",
            remedy=did_you_mean(name, there) or f"there are {', '.join(there)}",
        )
    return found


def predict(
    request: Request,
    *,
    N: float | None = None,
    D: float | None = None,
    C: float | None = None,
    loss: float | None = None,
    others: Mapping[str, float] | None = None,
) -> PredictView:
    """What the chosen law says elsewhere.

    Args: N and D [parameters, tokens]: the loss there; C [FLOP]: the compute-optimal N and D, or the loss of a law of
    C; loss [nats/token]: what it costs to reach, with N or D held if given, or the score there of a law of scores;
    others: further axes that the law reads.
    Raises: UsageError if nothing is asked or the law has no such axis; FitError without draws for an interval.
    """
    if request.draws < 1:
        raise UsageError("a prediction needs an interval", remedy=f"give --bootstrap at least {FEWEST_DRAWS}")
    result = run(request)
    best = result.answer
    if best.draws is None:
        raise FitError(f"no interval could be computed: {best.summary.advice}", remedy="add runs")
    law = best.fit.law
    if request.flops == "exact" and law.axes == ("N", "D") and (C is not None or loss is not None):
        raise UsageError("budgets of a law of N and D are counted as C = 6 N D", remedy="leave --flops exact out")
    given = {name: value for name, value in (("N", N), ("D", D)) if value is not None} | dict(others or {})
    if law.measures == "score" and loss is not None:
        given, loss = {**given, "loss": loss}, None
    if C is not None and (given or loss is not None) and law.axes != ("C",):
        raise UsageError("--c asks for the compute-optimal run, and nothing else at once", remedy="ask one by one")
    rows: list[Answer] = []
    if loss is not None:
        answer = reach(best.fit, best.draws, request.level, loss, **given)
        held = "".join(f" at {name} = {value:.3g}" for name, value in given.items())
        rows.append(_row(f"to reach {loss:g} nats/token{held}", answer))
    elif C is not None and law.axes == ("N", "D"):
        allocation = allocate(best.fit, best.draws, request.level, C)
        asked = f"compute-optimal at {C:.3g} FLOP"
        rows += [_row(asked, answer) for answer in (allocation.N, allocation.D, allocation.L)]
    elif C is not None or given:
        axes = {**given, **({"C": C} if C is not None else {})}
        answer = predict_loss(best.fit, best.draws, request.level, **axes)
        rows.append(_row(", ".join(f"{name} = {value:.3g}" for name, value in axes.items()), answer))
    else:
        budget = ", --c or --loss" if law.measures == "loss" else ""
        raise UsageError("nothing to predict", remedy=f"give {asks(law)}{budget}")
    summary = best.summary
    unsure = [name for name, known in summary.identified.items() if not known]
    notes = list(result.points.notes)
    if unsure:
        notes.append(f"{listed(unsure)} not identified: trust the interval, not the value")
    return PredictView(
        target=result.target.name,
        law=summary.law,
        formula=summary.formula,
        n=summary.n,
        convention=result.points.convention,
        unit=summary.unit,
        level=request.level,
        draws=summary.draws,
        answers=tuple(rows),
        opening=result.target.opening,
        best_over=None if result.best is None else best_view(result.best),
        notes=tuple(notes),
    )


def _fit(request: Request, target: Target, points: Points) -> Result:
    best = choose_best(points, request.best_over, request.laws)
    points = points if best is None else best.points
    if 0 < request.draws < FEWEST_DRAWS:
        raise UsageError(
            f"{request.draws} resamples are too few for an interval",
            remedy=f"give --bootstrap at least {FEWEST_DRAWS}, or 0 for no interval",
        )
    laws = _laws(request, points)
    objective = parse_objective(request.objective)
    fixed = pairs(request.fix, "--fix")
    ties = _ties(request.tie)
    hold = _hold(request.holdout, points)
    _refuse_unknown(laws, {"--fix": fixed, "--tie": (*ties, *ties.values())})
    fitted: list[Fitted] = []
    refused: dict[str, str] = {}
    also: tuple[Unit, ...] = tuple(unit for unit in get_args(Unit) if unit in ("size", "run") and unit != request.unit)
    if best is not None and all(choice.seeds == 1 for choice in best.choices):
        also = ()  # one run a cell: what is left to resample is sizes
    for law in laws:
        own = {ties.get(name, name): value for name, value in fixed.items() if name in law.names}
        missing = [name for name in (*ties, *ties.values()) if name not in law.names] or ([] if own else [*fixed])
        if missing:
            refused[law.name] = f"it has no parameter {', '.join(missing)}; its parameters are {', '.join(law.names)}"
            continue
        law = tie(law, ties)
        try:
            held = describe(
                law,
                points,
                objective,
                fix=own,
                draws=request.draws,
                unit=request.unit,
                also=also,
                level=request.level,
                hold=hold,
                again=None if best is None else best.again,
                rng=np.random.default_rng(request.seed),
            )
        except FitError as error:
            refused[law.name] = f"{error.what} ({error.remedy})" if error.remedy else error.what
            continue
        fitted.append(Fitted(*held))
    if not fitted:
        said = "; ".join(f"{law}: {why}" for law, why in refused.items())
        raise FitError(f"no law could be fitted to {counted(len(points), 'point')}: {said}")
    chosen, because = choose([held.summary for held in fitted])
    return Result(target, points, tuple(fitted), chosen, because, refused, best)


def _refuse_unknown(laws: Sequence[Law], named: Mapping[str, Iterable[str]]) -> None:
    """Raises: UsageError for a parameter that none of the laws has, by the flag that names it."""
    there = tuple(dict.fromkeys(name for law in laws for name in law.names))
    for flag, names in named.items():
        for name in names:
            if name not in there:
                which = listed([law.name for law in laws])
                raise UsageError(
                    f"{flag}: {which} {'has' if len(laws) == 1 else 'have'} no parameter {shown(name)}",
                    remedy=did_you_mean(name, there) or f"there are {', '.join(there)}",
                )


def _hold(where: str, points: Points) -> tuple[str, npt.NDArray[np.bool_]] | Literal["rollout"] | None:
    """What --holdout names; None for the largest. Raises: UsageError if that is all, NothingMatched if nothing."""
    if where == "largest":
        return None
    if where == "rollout":
        return "rollout"
    columns = {axis: points.axis(axis) for axis in points.axes()}
    held = np.asarray(mask_of(where, "--holdout")({**points.columns, **columns}))
    if held.all():
        raise UsageError(
            f"--holdout {shown(where)} holds out every point, and leaves none to fit",
            remedy="name what to predict: --holdout 'N > 1e8', largest or rollout",
        )
    return where, held


def _laws(request: Request, points: Points) -> tuple[Law, ...]:
    if not request.laws:
        return default_laws(points)
    varies = varying(points)
    laws = tuple(law_on(name, varies or points.axes()) for name in request.laws)
    for law in laws:
        other = [axis for axis in varies if not reads(law, axis)]
        if other:
            raise UsageError(
                f"{law.name} reads {' and '.join(law.axes)}, and {' and '.join(other)} varies too",
                remedy=f"pick with --where '{other[0]} == ...', split with --by {other[0]}, or use --law chinchilla",
            )
    return laws


def unread(points: Points, laws: Sequence[str], within: str | None = None) -> list[str]:
    """What varies at equal N and D, but for what every law that was asked for reads: it is an axis of them."""
    axes = [set(law_on(name, ()).axes) for name in laws]
    read = {column for axis, column in SETTINGS.items() if axes and all(axis in held for held in axes)}
    return [name for name in vary(points, within=within) if name not in read]


def choose_best(points: Points, column: str | None, laws: Sequence[str] = ()) -> Best | None:
    """The best runs over a column, None where none was named.

    Raises: UsageError for an axis that varies at fixed N and D and was not named: it is not noise, and whoever fits it
    says what to do with it; ExpressionError for a column that is not there.
    """
    named = None if column is None else full_name(column, tuple(points.columns))
    if extra := unread(points, laws, within=named):
        raise pooled(points, extra, best=named is None)
    return None if named is None else best_over(points, named)


def pooled(points: Points, extra: Sequence[str], *, best: bool) -> UsageError:
    """What to say of columns that vary at fixed N and D. best: whether the best over one may be taken."""
    name = extra[0]
    foreign = name in points.unnamed
    typed = shlex.quote(escaped(name))
    ways = [f"split with --by {typed}", f"pick with --where {_equal(name, points.columns[name])}"]
    if best and (name.startswith("train.") or (foreign and points.columns[name].dtype.kind in "if")):
        ways.insert(0, f"take the best with --best-over {typed}")
    elif name.startswith("model."):
        ways.insert(0, f"see what it saves with scalectl compare SWEEP --by {typed}")
    again = "import it again with " if is_export(points.columns) else ""  # of a store, whose sweeps have no --map
    ways += [f"{again}--map seed={typed} if its values are repeats"] if foreign else []
    return UsageError(
        f"{listed([escaped(one) for one in extra])} var{'ies' if len(extra) == 1 else 'y'} "
        f"among these {'rows' if foreign else 'runs'} at equal N and D",
        remedy=f"{', '.join(ways[:-1])}, or {ways[-1]}; pooling would count it as noise",
    )


def _equal(name: str, values: npt.NDArray[Any]) -> str:
    """A condition on a column as one types it in a shell, with the first of its values."""
    plain = name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) else f"`{escaped(name)}`"
    first = values[0]
    return f"'{plain} == ...'" if not isinstance(first, str) else f"'{plain} == \"{escaped(first, 20)}\"'"


def best_view(best: Best) -> BestView:
    """What was chosen, each cell by the setting that goes with its size, by N and by D where these vary."""
    points = best.points
    first = [int(np.flatnonzero(best.index == number)[0]) for number in range(len(best.choices))]
    keys = _names_of_cells(points.take(np.array(first)), best.column)
    cells = []
    for row, choice in zip(first, best.choices, strict=True):
        cell = {key: points.columns[key][row] for key in keys}
        axes = {"N", "D"} & set(points.axes()) or {"C"}
        cell |= {axis: float(points.axis(axis)[row]) for axis in sorted(axes, reverse=True)}
        cells.append(BestCell(cell=cell, **{part: getattr(choice, part) for part in _OF_CHOICE}))
    order = sorted(range(len(cells)), key=lambda k: [cells[k].cell.get(axis, 0.0) for axis in ("N", "D", "C")])
    return BestView(column=best.column, runs=best.runs, cells=tuple(cells[k] for k in order))


_OF_CHOICE = ("value", "loss", "method", "edge", "values", "losses", "diverged", "seeds", "runs", "filled")


def _names_of_cells(firsts: Points, column: str) -> tuple[str, ...]:
    """The first setting of the model that tells sizes apart, if one does."""
    if firsts.N is None:
        return ()
    for name in settings(firsts):
        values = firsts.columns[name].tolist()
        sizes = set(zip(firsts.N.tolist(), values, strict=True))
        if name.startswith("model.") and 1 < len(set(values)) == len(sizes) == len(set(firsts.N.tolist())):
            return (name,)
    return ()


def _floor(points: Points) -> tuple[str, ...]:
    """The loss of the ideal predictor, where the points share their data and its entropy is known exactly."""

    def shared(name: str) -> set[Any]:
        return set(points.columns[name].tolist()) if name in points.columns else set()

    tasks, contexts = shared("data.task"), shared("model.context")
    task = TASKS.get(str(next(iter(tasks)))) if len(tasks) == 1 and len(contexts) == 1 else None
    if task is None:
        return ()
    options = {}
    for part in dataclasses.fields(task.options):
        held = shared(f"data.{part.name}")
        if len(held) > 1:
            return ()
        if held:  # a column that no run fills is not there, and stands for the default
            value = held.pop()
            options[part.name] = int(value) if isinstance(value, float) else value
    floor = task.floor(task.options(**options), int(contexts.pop()))
    if floor is None:
        return ()
    said = f"the entropy of these data is known: on these windows no predictor gets below {floor:.4f} nats/token"
    return (f"{said}; --fix E={floor:.4f} holds the floor there",)


def _budgets(points: Points) -> int | None:
    """Places of each size, None where sizes differ in it."""
    _, first = np.unique(places(points), return_index=True)
    return _alike(np.unique(points.size[first], return_inverse=True)[1]) if points.size is not None else None


def _alike(labels: npt.NDArray[np.int64]) -> int | None:
    """How often each label is there, None where they differ in it."""
    counts = set(np.bincount(labels).tolist())
    return counts.pop() if len(counts) == 1 else None


def mapping_of(maps: Sequence[str]) -> dict[str, str] | None:
    """AXIS=COLUMN texts as a mapping, None for none. Raises: UsageError."""
    pairs = {}
    for text in maps:
        axis, equals, column = text.partition("=")
        if not equals or axis not in MAPPED:
            raise UsageError(f"--map {shown(text)} is not AXIS=COLUMN", remedy=f"AXIS is {', '.join(MAPPED)}")
        pairs[axis] = column
    return pairs or None


def pairs(texts: Sequence[str], flag: str) -> dict[str, float]:
    """NAME=NUMBER texts by name.

    Raises: UsageError for what is none.
    """
    pairs = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            pairs[name] = float(value)
        except ValueError:
            raise UsageError(f"{flag} {shown(text)} is not NAME=NUMBER") from None
    return pairs


def further(texts: Sequence[str]) -> dict[str, float]:
    """Axes of `predict --with`, such as U=1G. Raises UsageError for others."""
    found = {}
    for text in texts:
        axis, equals, value = text.partition("=")
        if not equals or axis not in SETTINGS:
            raise UsageError(f"--with {shown(text)} is not AXIS=VALUE", remedy=f"AXIS is {', '.join(SETTINGS)}")
        found[axis] = quantity(value)
    return found


def _ties(texts: Sequence[str]) -> dict[str, str]:
    """Which parameter each tied one is equal to; of `alpha=beta` the first one stays."""
    ties: dict[str, str] = {}
    for text in texts:
        master, equals, name = (part.strip() for part in text.partition("="))
        master = ties.get(master, master)
        if not equals or not name or name in (master, *ties, *ties.values()):
            raise UsageError(f"--tie {shown(text)} is not NAME=OTHER", remedy="as in --tie alpha=beta, each name once")
        ties[name] = master
    return ties


def _row(asked: str, found: Prediction) -> Answer:
    what: Any = found.what
    return Answer(asked, what, found.value, found.interval, found.extrapolation, found.impossible)
