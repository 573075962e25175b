"""What reports are made from: frozen facts that commands fill in. Nothing here formats or prints.

Losses are nats per token, N counts parameters by the view's convention, D tokens, C FLOP, times seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from scalectl.core.cost import Convention
from scalectl.core.job import State
from scalectl.core.rows import Floats

if TYPE_CHECKING:  # a status has none of these
    from scalectl.emergence.artefact import Origin, Twin
    from scalectl.fit.against import Comparison
    from scalectl.fit.approaches import Approach
    from scalectl.fit.backtest import Score, Trial
    from scalectl.fit.diagnose import Diagnosis
    from scalectl.fit.profile import Curve
    from scalectl.fit.summary import Interval, Summary

Flops = Literal["exact", "6nd"]  # how C counts: all matrix products, or 6 N D by the view's convention of N
Setting = tuple[str, str]  # key of a sweep file without its table where that is unambiguous, and its value


@dataclass(frozen=True)
class GridAxis:
    """One key that varies, with its values in the order of the sweep file, numbers ascending."""

    key: str
    values: tuple[object, ...]


@dataclass(frozen=True)
class RunCurve:
    """Held-out loss along one run; arrays of shape (evaluations,), steps ascending; flops: exact, as in the rows."""

    tokens: Floats
    flops: Floats
    loss: Floats


@dataclass(frozen=True)
class RunView:
    """One run of a sweep. cell: value of each varying key; None for what was not measured.

    loss, loss_se: final held-out loss and its standard error over sequences; mfu: model FLOP utilisation, the share of
    what the device can do at most; message: why it ended, if not done;
    place: tells runs of equal cells apart whose N, D or C is given and follows from no setting, as in a table.
    """

    run_id: str
    cell: Mapping[str, object]
    N: int
    D: int
    C: float
    state: State
    loss: float | None = None
    loss_se: float | None = None
    bits_per_byte: float | None = None
    seconds: float | None = None
    mfu: float | None = None
    message: str = ""
    curve: RunCurve | None = None
    place: str = ""


@dataclass(frozen=True)
class BestCell:
    """What was chosen in one cell of a grid.

    cell: what tells it from the others: N, D, and a key of the model that goes with the size; value: of the setting;
    loss: there [nats/token], mean over seeds (of logs); method: "parabola" in ln(value), "minimum", "only" for a cell
    of one value; edge: "lowest" or "highest" if nothing worse was tried on that side, else ""; values, losses: of the
    grid, ascending; diverged: values at which a run diverged; filled: losses that were missing, and taken from the
    other seeds and values.
    """

    cell: Mapping[str, object]
    value: object
    loss: float
    method: str
    edge: str
    values: tuple[object, ...]
    losses: tuple[float, ...]
    diverged: tuple[object, ...]
    seeds: int
    runs: int
    filled: int


@dataclass(frozen=True)
class BestView:
    """The best of a setting in each cell, by N and D. column: the setting; runs: how many were chosen from."""

    column: str
    runs: int
    cells: tuple[BestCell, ...]


@dataclass(frozen=True)
class SweepView:
    """Everything known about one sweep.

    axes: what varies, the seed included; seed_key: which of the axes repeats a cell; shared: what all runs have in
    common; chosen: law that answers the question, None when no fit is usable, and `because` says why; reference:
    whether the runs come from the results shipped with scalectl; provenance: device, versions; best_over: what the fits
    chose their points from, None where they take all; thresholds: of the scores, where runs have some.
    """

    name: str
    question: str
    axes: tuple[GridAxis, ...]
    runs: tuple[RunView, ...]
    convention: Convention = "non_embedding"
    flops: Flops = "6nd"
    seed_key: str = "train.seed"
    shared: tuple[Setting, ...] = ()
    fits: tuple[Summary, ...] = ()
    chosen: str | None = None
    because: str = ""
    notes: tuple[str, ...] = ()
    provenance: str = ""
    reference: bool = False
    best_over: BestView | None = None
    thresholds: ThresholdView | None = None


@dataclass(frozen=True)
class PlanGroup:
    """Runs of a plan that differ by seed alone.

    done: how many have ended for good; pack: models in one step; jobs: packs that its runs are spread over; memory:
    bytes of one pack; seconds: of training one run inside its pack, None if the speed is unknown; slot_seconds: that
    what is left of its runs takes of a slot, the steps of a trunk counted for its longest run alone. N, D, epochs and
    flops are NaN where only somebody's script knows them.
    """

    cell: Mapping[str, object]
    runs: int
    done: int
    pack: int
    N: float
    D: float
    epochs: float
    flops: float
    memory: float | None
    seconds: float | None
    jobs: int = 1
    slot_seconds: float | None = None


@dataclass(frozen=True)
class SlurmView:
    """The jobs of a cluster that a sweep asks for.

    pilot: whether each trains whatever is left until its time is over; walltime_seconds: time limit of each, None for
    the cluster's own; seconds: until the last one ends once all have begun, None where that is not known; slots: runs
    or packs at once in each; cpus, gpus: of each, None for what the cluster gives.
    """

    jobs: int
    pilot: bool
    walltime_seconds: int | None
    seconds: float | None
    slots: int
    cpus: int | None
    gpus: int
    partition: str | None


@dataclass(frozen=True)
class RayView:
    """The pilots on a Ray cluster that a sweep asks for.

    pilots: at most; slots: runs or packs at once in each; cpus, gpus, memory [bytes], resources: of each; address: of
    the cluster.
    """

    pilots: int
    slots: int
    cpus: int
    gpus: int
    memory: int | None
    resources: Mapping[str, int]
    address: str


@dataclass(frozen=True)
class PlanView:
    """A plan before it runs.

    todo, flops, seconds, disk: of what the next `sweep` would train, seconds by the wall clock on `devices`; jobs: the
    packs it trains in; shapes, measured: distinct ones among them, and how many have a speed that was measured here and
    not estimated from shapes; dropped: constraint and number of runs it drops; warnings: one sentence each; advice: on
    precision; lengths: keys of the cells that say how long a run is; script: whether the runs are somebody's script;
    slurm: the jobs that `--engine slurm` asks for; ray: the pilots of `--engine ray`.
    """

    name: str
    question: str
    groups: tuple[PlanGroup, ...]
    todo: int
    flops: float
    seconds: float | None
    disk: float | None
    devices: str
    convention: Convention = "non_embedding"
    flops_by: Flops = "exact"
    shared: tuple[Setting, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    warnings: tuple[str, ...] = ()
    alone: tuple[float, float] | None = None  # FLOPs and seconds with every run by itself, where runs share trunks
    trunks: int = 0  # that several runs share
    older: int = 0  # runs in the store under this sweep's name that the current file no longer asks for
    jobs: int = 0
    shapes: int = 0
    measured: int = 0
    advice: str = ""
    lengths: tuple[str, ...] = ()
    script: bool = False
    slurm: SlurmView | None = None
    ray: RayView | None = None

    @property
    def runs(self) -> int:
        """Runs of the plan, done ones included."""
        return sum(group.runs for group in self.groups)

    @property
    def done(self) -> int:
        """Runs that have ended for good."""
        return sum(group.done for group in self.groups)


@dataclass(frozen=True)
class StatusRow:
    """One run. seconds_ago: since its last sign of life, None if it never gave one; step of steps, 0 if not known."""

    run_id: str
    cell: Mapping[str, object]
    state: State
    step: int | None
    steps: int
    seconds_ago: float | None = None
    message: str = ""


@dataclass(frozen=True)
class StatusView:
    """The truth about each run.

    counts: by state, whole sweep; rows: what the caller selected; selection: in words; notes: one sentence each.
    """

    name: str
    counts: Mapping[State, int]
    rows: tuple[StatusRow, ...]
    selection: str = "runs that are not done"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StatedExponent:
    """A published exponent a of N* ~ C^a.

    approach: 1, 2 or 3; interval: as stated, at `level`; interpolated: whether approach 2 interpolated its minima.
    """

    name: str
    approach: int
    a: float
    interval: Interval
    level: float
    interpolated: bool = False


@dataclass(frozen=True)
class FitView:
    """Fits of one target.

    seeds: runs per place, None where places differ in it; seeded: whether seeds tell these apart; places: of N and D,
    or of C alone; budgets: places per size, None where sizes differ in it; fixed: axes that do not vary, and where;
    opening: first line where the target was not named by the user; best_over: what the points were chosen from;
    diagnosis: of the chosen law, and profiles: of one parameter in each law that has it, if asked for; approaches: to
    the exponents of the compute-optimal run, where they were asked for, and why not, by number; against: published fits
    of these rows; stated: exponents.
    """

    target: str
    fits: tuple[Summary, ...]
    chosen: str | None
    because: str
    seeds: int | None = None
    seeded: bool = True
    places: int = 0
    budgets: int | None = None
    fixed: Mapping[Literal["N", "D", "C"], float] = field(default_factory=dict)
    derived: str | None = None
    opening: str = ""
    notes: tuple[str, ...] = ()
    best_over: BestView | None = None
    diagnosis: Diagnosis | None = None
    profiles: tuple[Curve, ...] = ()
    approaches: tuple[Approach, ...] = ()
    refused_approaches: Mapping[int, str] = field(default_factory=dict)
    against: tuple[Comparison, ...] = ()
    stated: tuple[StatedExponent, ...] = ()


@dataclass(frozen=True)
class Place:
    """A score at one place. low, high: Wilson's bounds with the over-dispersion; able: share of seeds that have it."""

    at: float
    score: float
    low: float
    high: float
    items: float
    seeds: int | None
    able: float | None
    able_interval: Interval | None


@dataclass(frozen=True)
class TaskView:
    """A verdict on one task in one family; NaN is an open end, None what does not apply.

    label: one of emergence.detector.LABELS; bracket, midpoint, interval: of the threshold, in units of the axis;
    width_decades: from 10 to 90 % of the rise, at least the spacing of the places, and width_resolved whether it is
    more; p_value, q_value: of a line against a break; smooth_...: of the smooth law; floor_from: chance, given or auto;
    success_above: the score from which a seed has the ability.
    """

    task: str
    family: str
    label: str
    flagged: bool
    bracket: Interval | None
    midpoint: float | None
    interval: Interval | None
    width_decades: float | None
    width_resolved: bool | None
    gain: float
    p_value: float | None
    q_value: float | None
    smooth_p_value: float | None
    smooth_q_value: float | None
    draws: int
    artefact: Origin | None
    because: str
    floor: float
    floor_from: str
    dispersion: float
    places: tuple[Place, ...]
    success_above: float | None = None
    twin: Twin | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ThresholdView:
    """Scores of one target along one axis.

    level: of midpoints; draws: of the bootstrap, at most; measures: what the places of a task hold; a gain of losses is
    the share that they lose.
    """

    target: str
    axis: Literal["N", "C", "D", "step", "loss"]
    tasks: tuple[TaskView, ...]
    level: float
    draws: int
    convention: Convention | None = None
    measures: Literal["score", "loss"] = "score"
    opening: str = ""
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether anything could be said of any task."""
        return any(task.label != "insufficient" for task in self.tasks)


@dataclass(frozen=True)
class Answer:
    """One prediction.

    asked: in words; what: L, N, D or C; extrapolation: by axis, how many times beyond the data (1 inside them);
    impossible: share of the draws for which there is no finite answer.
    """

    asked: str
    what: Literal["L", "N", "D", "C", "S"]
    value: float
    interval: Interval
    extrapolation: Mapping[str, float] = field(default_factory=dict)
    impossible: float = 0.0


@dataclass(frozen=True)
class PredictView:
    """Predictions of one law, with what their intervals rest on."""

    target: str
    law: str
    formula: str
    n: int
    convention: Convention | None
    unit: str
    level: float
    draws: int
    answers: tuple[Answer, ...]
    opening: str = ""
    notes: tuple[str, ...] = ()
    best_over: BestView | None = None


@dataclass(frozen=True)
class ArmView:
    """One of two recipes that are compared.

    runs: as many as were chosen from; params: of the law; noise: relative standard deviation between seeds, None
    without repeats; D: [tokens] if all its runs share it; best_over: what its points were chosen from.
    """

    name: str
    runs: int
    sizes: int
    params: Mapping[str, float]
    status: str
    noise: float | None
    D: float | None = None
    best_over: BestView | None = None


@dataclass(frozen=True)
class SavingView:
    """How many times less the second recipe needs for one loss.

    loss: [nats/token], None where one shape holds for all; paired, unpaired: intervals, None where not computed; needs:
    of the axis, by each recipe; beyond: how many times outside the runs of each that lies (1 inside).
    """

    loss: float | None
    value: float
    paired: Interval | None
    unpaired: Interval | None
    needs: tuple[float, float] | None = None
    beyond: tuple[float, float] | None = None


@dataclass(frozen=True)
class ComparisonView:
    """Two recipes.

    overlap: losses that both curves pass inside their runs; one_shape: the saving if floor and exponent are the same;
    paired_by: the setting that matches sizes, empty if runs are not paired, and `unpaired_because` says why;
    noise_of_pairs: relative standard deviation between seeds of the difference of pairs; slope: -d ln L / d ln axis in
    the middle of the overlap; claim: share of the axis to be saved; seeds: a size, now; seeds_needed: to show the
    claim in four of five repeats; unit: what was resampled.
    """

    first: ArmView
    second: ArmView
    overlap: Interval
    savings: tuple[SavingView, ...]
    one_shape: SavingView | None
    paired_by: str
    unpaired_because: str
    noise_of_pairs: float | None
    slope: float
    claim: float
    seeds: int
    seeds_needed: int | None
    seeds_needed_unpaired: int | None
    unit: str


@dataclass(frozen=True)
class CompareView:
    """Recipes beside the first of them. axis: what is saved; delta: of a Huber objective; flops: how C counts."""

    target: str
    axis: Literal["C", "N", "D"]
    law: str
    formula: str
    objective: str
    delta: float | None
    convention: Convention | None
    flops: str | None
    unit: str
    level: float
    draws: int
    comparisons: tuple[ComparisonView, ...]
    opening: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BacktestView:
    """Laws on many curves. axis: what the curves go along; early: share of each that was fitted; scores: best first."""

    target: str
    axis: str
    early: float
    curves: int
    convention: Convention | None
    scores: tuple[Score, ...]
    trials: tuple[Trial, ...]
    opening: str = ""
    notes: tuple[str, ...] = ()
