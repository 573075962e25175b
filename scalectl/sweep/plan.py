"""From a sweep to its plan: which runs, what each costs, what is dropped and why. Arithmetic only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from scalectl.core.cost import CONVENTIONS, Convention, Ledger
from scalectl.core.errors import ExpressionError, Problem, SweepFileError
from scalectl.core.names import shown
from scalectl.core.run import CommandRun, Foreign, RunConfig, flat
from scalectl.core.units import count, percent
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.optim.schedules import SCHEDULES
from scalectl.optim.trunks import split_step, trunk_key
from scalectl.sweep.sweep import Sweep

NOTED_LOSS = 1e-3  # share of the tokens lost by rounding down that is worth a note; ours: below it no fit can tell


@dataclass(frozen=True)
class PlannedRun:
    """One run with its costs.

    cell: the values of the sweep's axes, by key; n: parameters by convention; tokens: D; flops: exact training FLOPs of
    the whole run; c_6nd: 6 N D with N non-embedding; state: numbers that the optimiser keeps; bytes: memory of one
    training step; unique_tokens: distinct ones that exist for it; epoch: those of them that its windows reach [tokens].
    """

    run: RunConfig
    run_id: str
    cell: Mapping[str, Any]
    n: Mapping[Convention, int]
    tokens: int
    flops: float
    c_6nd: float
    state: int
    bytes: int
    unique_tokens: int
    epoch: int
    ledger: Ledger

    @property
    def epochs(self) -> float:
        """Passes over the tokens that its windows reach."""
        return self.tokens / self.epoch

    def columns(self) -> dict[str, Any]:
        """Flat columns: every key of the sweep file, and what the index names N_total, D, C_6nd, ..."""
        derived = {f"N_{convention}": held for convention, held in self.n.items()}
        return {
            **flat(self.run),
            **derived,
            "D": self.tokens,
            "C_6nd": self.c_6nd,
            "C_exact": self.flops,
            "unique_tokens": self.unique_tokens,
            "epochs": self.epochs,
            "tokens_per_param": self.tokens / self.n["total"],
        }


@dataclass(frozen=True)
class PlannedCommand:
    """One run of somebody's script, with what its sweep file says of it. cell: the values of the axes, by column."""

    run: CommandRun
    run_id: str
    cell: Mapping[str, Any]

    @property
    def flops(self) -> float | None:
        """C, else 6 N D; None where the file says neither."""
        run = self.run
        return run.C if run.C is not None else None if run.N is None or run.D is None else 6.0 * run.N * run.D

    def columns(self) -> dict[str, Any]:
        """Flat columns, and what the file says of N, D and C, under these names."""
        run = self.run
        known = {"run.N": run.N, "run.D": run.D, "run.C": run.C}
        return {**flat(run), **{name: held for name, held in known.items() if held is not None}}


Planned = PlannedRun | PlannedCommand


@dataclass(frozen=True)
class Plan:
    """What a sweep asks for.

    runs: each once, in the file's order, all of models or all of a script; axes: keys of the cells; dropped: (cell,
    constraint) of what a constraint took out; notes: what the reader should know, one sentence each.
    """

    name: str
    question: str
    axes: tuple[str, ...]
    runs: tuple[Planned, ...]
    dropped: tuple[tuple[Mapping[str, Any], str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Ids in order."""
        return tuple(planned.run_id for planned in self.runs)

    @property
    def flops(self) -> float:
        """Exact training FLOPs of all runs, as far as they are known."""
        return sum(planned.flops or 0.0 for planned in self.runs)


def expand(sweep: Sweep) -> Plan:
    """Work out every run of a sweep with its costs.

    Returns: runs in the file's order, the last axis fastest; the same run asked for twice is kept once.
    Raises: SweepFileError if a constraint cannot be worked out for these runs.
    """
    axes = sweep.axes
    if sweep.commands:
        return _commands(sweep, axes)
    planned: dict[str, PlannedRun] = {}
    counted: dict[int, dict[Convention, int]] = {}
    sizes: dict[Hashable, tuple[int, int]] = {}
    twice = 0
    for cell in sweep.cells:
        run = cell.run
        run_id = run.run_id
        if run_id in planned:
            twice += 1
            continue
        key = id(cell.ledger)  # one ledger object per distinct model, alive as long as the sweep
        if key not in counted:
            counted[key] = {convention: cell.ledger.params(convention) for convention in CONVENTIONS}
        n = counted[key]
        sequences = min(run.sequences, sweep.runtime.micro_batch or run.sequences)
        shape = (key, run.optim.name, sequences, run.precision)
        if shape not in sizes:
            sizes[shape] = _sizes(run, cell.ledger, sequences, recompute=sweep.runtime.recompute)
        state, train_bytes = sizes[shape]
        planned[run_id] = PlannedRun(
            run=run,
            run_id=run_id,
            cell={axis: cell.value(axis) for axis in axes},
            n=n,
            tokens=run.tokens,
            flops=float(cell.ledger.flops_per_token()) * run.tokens,
            c_6nd=6.0 * n["non_embedding"] * run.tokens,
            state=state,
            bytes=train_bytes,
            unique_tokens=cell.description.tokens(run.context)[0],
            epoch=cell.description.reachable(run.context),
            ledger=cell.ledger,
        )
    runs, dropped = _constrained(sweep, tuple(planned.values()))
    notes = [*sweep.notes, *_twice(twice, len(sweep.cells)), *_notes(sweep, runs)]
    return Plan(sweep.name, sweep.question, axes, runs, dropped, tuple(notes))


def _sizes(run: RunConfig, ledger: Ledger, sequences: int, *, recompute: bool) -> tuple[int, int]:
    """Numbers that the optimiser keeps, and memory of one training step [bytes]. sequences: of a micro-batch."""
    optimizer = OPTIMIZERS[run.optim.name]
    state, scratch = sum(optimizer.state(ledger.tensors)), optimizer.scratch(ledger.tensors)
    tokens = sequences * run.context
    return state, ledger.train_bytes(tokens, run.precision, state=state, scratch=scratch, recompute=recompute)


def _commands(sweep: Sweep, axes: tuple[str, ...]) -> Plan:
    """The runs of a script, each once."""
    found: dict[str, PlannedCommand] = {}
    for cell in sweep.commands:
        run_id = cell.run.run_id
        found.setdefault(run_id, PlannedCommand(cell.run, run_id, {axis: cell.value(axis) for axis in axes}))
    runs, dropped = _constrained(sweep, tuple(found.values()))
    notes = [*sweep.notes, *_twice(len(sweep.commands) - len(found), len(sweep.commands))]
    return Plan(sweep.name, sweep.question, axes, runs, dropped, tuple(notes))


def _twice(repeated: int, total: int) -> list[str]:
    asked = f"{repeated} of {total} runs are asked for more than once; each is trained once"
    return [asked] if repeated else []


_Planned = TypeVar("_Planned", PlannedRun, PlannedCommand)


def _constrained(
    sweep: Sweep, runs: tuple[_Planned, ...]
) -> tuple[tuple[_Planned, ...], tuple[tuple[Mapping[str, Any], str], ...]]:
    """Runs that no constraint drops, and the others with the first constraint that did."""
    if not sweep.constraints or not runs:
        return runs, ()
    rows = [planned.columns() for planned in runs]
    known = list(dict.fromkeys(name for row in rows for name in row))
    reason = np.full(len(runs), "", dtype=object)
    for constraint in sweep.constraints:
        expression = constraint.expression
        names = expression.resolved(known)
        values = {written: _column([row.get(full) for row in rows]) for written, full in names.items()}
        try:
            hit = np.broadcast_to(np.asarray(expression.evaluate(values)), len(runs))
            if hit.dtype != np.bool_:
                raise ExpressionError("this is no condition", remedy="compare it with something")
        except ExpressionError as error:
            what = f"constraint {shown(expression.text)}: {error.what}"
            raise SweepFileError(
                sweep.path, (Problem(constraint.line, what, error.remedy, constraint.snippet),)
            ) from None
        reason[hit & (reason == "")] = expression.text
    kept = tuple(planned for planned, why in zip(runs, reason, strict=True) if not why)
    return kept, tuple((planned.cell, str(why)) for planned, why in zip(runs, reason, strict=True) if why)


def _column(values: list[Any]) -> Any:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column if any(held is None or isinstance(held, str) for held in values) else np.array(values)


def _notes(sweep: Sweep, runs: tuple[PlannedRun, ...]) -> list[str]:
    found = []
    if not runs:
        return ["no run is left"]
    asked = {cell.run: cell.asked for cell in sweep.cells}
    lost = {planned.run: 1 - planned.tokens / asked[planned.run] for planned in runs}
    worst = max(lost, key=lambda run: lost[run])
    if lost[worst] > NOTED_LOSS:
        found.append(
            f"tokens are rounded down to whole steps: at most {percent(lost[worst])} is lost"
            f" ({count(asked[worst], 4)} -> {worst.tokens} tokens in {worst.steps} steps)"
        )
    epochs = max(planned.epochs for planned in runs)
    if epochs > 1:
        repeated = sum(planned.epochs > 1 for planned in runs)
        found.append(f"{repeated} of {len(runs)} runs repeat their data, up to {epochs:.3g} epochs")
    read = [p for p in runs if not p.run.answers]  # problems are judged as far as there are any
    short = [p for p in read if p.run.task.held_out_tokens > _held_out(sweep, p)]
    if short:
        there = _held_out(sweep, short[0])
        found.append(
            f"eval.tokens asks for more held-out data than there is: every evaluation takes all {there} tokens;"
            f" write eval.tokens = {there} or less"
        )
    return (
        found
        + _trunk_notes(sweep, runs)
        + _precision_notes(runs)
        + _idle_notes(sweep)
        + _width_notes(runs)
        + _image_notes(runs)
    )


def _trunk_notes(sweep: Sweep, runs: tuple[PlannedRun, ...]) -> list[str]:
    """A warm-up that is a share of the run differs with its length, and then runs of several lengths share no trunk."""
    if not sweep.runtime.branch:
        return []
    groups: dict[Hashable, list[PlannedRun]] = {}
    for planned in runs:
        schedule = planned.run.schedule
        if split_step(planned.run):
            same = replace(planned.run, schedule=replace(schedule, options=replace(schedule.options, warmup=0)))
            groups.setdefault(trunk_key(same), []).append(planned)
    apart, alone, together = [], 0.0, 0.0
    for group in groups.values():
        warmups = {(planned.run.steps, planned.run.schedule.options.warmup) for planned in group}
        lengths = {steps for steps, _ in warmups}
        if len({warmup for _, warmup in warmups}) > 1 and len(lengths) == len(warmups):  # it follows from the length
            apart += group
            alone += sum(planned.flops for planned in group)
            stable = max(split_step(planned.run) for planned in group)
            steps = stable + sum(planned.run.steps - split_step(planned.run) for planned in group)
            together += group[0].flops / group[0].run.steps * steps
    if not apart:
        return []
    longest = max(planned.run.schedule.options.warmup for planned in apart)
    shared = max(1, min(longest, min(planned.run.steps for planned in apart) // 10))
    return [
        f"the warm-up is a share of the run, so {len(apart)} runs of several lengths cannot share their stable phase;"
        f" in steps, such as warmup = {shared}, they train {alone / together:.2f} times fewer FLOPs"
    ]


def _precision_notes(runs: tuple[PlannedRun, ...]) -> list[str]:
    """What a precision is on a CPU, where most sweeps run. The factor is in LOG.md."""
    about = {
        "fp16": "precision fp16 is for GPUs: on a CPU it runs 3 to 8 times slower than fp32",
        "tf32": "precision tf32 is for GPUs: a CPU multiplies in fp32 under its name",
    }
    used = {planned.run.precision for planned in runs}
    return [note for precision, note in about.items() if precision in used]


def _idle_notes(sweep: Sweep) -> list[str]:
    """Keys that the file gives and that change nothing."""
    deaf: dict[str, dict[str, None]] = {}
    for cell in sweep.cells:
        name = cell.run.schedule.name
        for key in cell.idle:
            if cell.values.get(key):
                takes = SCHEDULES[name].takes
                deaf.setdefault(key, {})[f"{name} without a decay" if "decay" in takes else name] = None
    found = [f"{key} means nothing to the schedule {', '.join(names)}" for key, names in deaf.items()]
    return found


def _held_out(sweep: Sweep, planned: PlannedRun) -> int:
    description = next(c.description for c in sweep.cells if c.run.task == planned.run.task)
    return description.tokens(planned.run.context)[1]


def _width_notes(runs: tuple[PlannedRun, ...]) -> list[str]:
    """What is held fixed along the width axis: heads or head size, and one learning rate for all widths."""
    if any(isinstance(planned.run.model, Foreign) for planned in runs):
        return []  # what their keys mean is theirs
    options = {planned.run.model.options for planned in runs}
    if not all(hasattr(o, "d_model") and hasattr(o, "n_head") for o in options):
        return []
    widths = {o.d_model for o in options}
    if len(widths) < 2:
        return []
    found = []
    heads, sizes = {o.n_head for o in options}, {o.d_model // o.n_head for o in options}
    if len(heads) == 1:
        found.append(f"along the width axis {heads.pop()} heads are held fixed; their size grows, {_range(sizes)}")
    elif len(sizes) == 1:
        held = f"heads of size {sizes.pop()} are held fixed; their number grows, {_range(heads)}"
        found.append(f"along the width axis {held}")
    else:
        found.append(
            f"along the width axis neither the number of heads ({_range(heads)}) nor their size ({_range(sizes)})"
            " is held fixed: the models differ in more than width"
        )
    standard = [planned.run for planned in runs if not getattr(planned.run.model.options, "mup_base_width", 0)]
    rates = {run.optim.options.lr for run in standard}
    trained = sorted({run.model.options.d_model for run in standard})
    if len(rates) == 1 and len(trained) > 1:
        family = MODELS.get(standard[0].model.name)
        defined = family and family.mup_base_width and OPTIMIZERS[standard[0].optim.name].rate
        rate, middle = f"{rates.pop():g}", trained[len(trained) // 2]
        found.append(
            f"one learning rate for all widths, {rate}: the best one falls with width, and the fitted exponent with it;"
            f' a rule such as lr = {{ rule = "{rate} * {middle} / d_model" }} follows it from width {middle}'
            + (f', and under muP one rate serves all widths: lr = "mup:{rate}"' if defined else "")
        )
    return found


def _image_notes(runs: tuple[PlannedRun, ...]) -> list[str]:
    """How an image is counted: models that cut it otherwise have other tokens of the same images."""
    contexts = {run.context for run in (planned.run for planned in runs) if "image" in vars(run.model.options)}
    if not contexts:
        return []
    said = f"an image is {_range(contexts) if len(contexts) > 1 else contexts.pop()} tokens, its patches and one more"
    return [f"{said}: D counts tokens, and steps times the batch of images is what was seen"]


def _range(values: set[int]) -> str:
    return f"{min(values)} to {max(values)}"
