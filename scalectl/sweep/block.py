"""One grid of a sweep file: its settings, and the runs that they resolve to, cell by cell.

A cell is one choice of every axis. Rules are worked out after the axes, in the order in which they need one another;
names such as N_total or train.steps are computed from the cell when a rule reads them. Pure arithmetic: what the data
are like comes in through `describe`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scalectl.core.cost import CONVENTIONS, Ledger
from scalectl.core.errors import ExpressionError
from scalectl.core.expression import Expression
from scalectl.core.names import shown
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.models import Model
from scalectl.optim import Optimizer
from scalectl.optim.schedules import SCHEDULES
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.sweep.fields import Field
from scalectl.sweep.locate import Path
from scalectl.tasks import TaskMember
from scalectl.tasks.windows import Description

HORIZONS = ("train.tokens", "train.tokens_per_param", "train.flops", "train.steps")
SEQUENCES = 32  # in a batch when the file gives no batch_tokens; ours: a common size for small models
SHAPE = ("train.decay", "train.min_decay", "train.final")  # of a schedule, after its warm-up
FROM_DATA = ("model.vocab", "model.context")  # the context where sequences are problems or images
COUNTS = tuple(f"N_{convention}" for convention in CONVENTIONS)
DERIVED = (*COUNTS, "D", "C_6nd", "C_exact", "unique_tokens", "epochs", "tokens_per_param")

Describe = Callable[[TaskMember, Any], Description]


@dataclass(frozen=True)
class Setting:
    """What the file says of one key.

    kind: fixed (one value), grid or zip (an axis), rule; rule_names: full name of each name that the rule reads;
    path: where it stands in the file, down to the list or the rule.
    """

    key: str
    kind: Literal["fixed", "grid", "zip", "rule"]
    values: tuple[Any, ...]
    path: Path
    rule: Expression | None = None
    rule_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """One grid. fields: every key that it may have; settings: the keys that the file gives, in its order.

    index: of the [[block]] table, None for the tables above them.
    """

    index: int | None
    fields: Mapping[str, Field]
    settings: Mapping[str, Setting]

    @property
    def axes(self) -> tuple[tuple[Setting, ...], ...]:
        """Settings that vary, in the file's order; the zipped ones together, where the first of them stands."""
        zipped = tuple(s for s in self.settings.values() if s.kind == "zip")
        groups: list[tuple[Setting, ...]] = []
        for setting in self.settings.values():
            if setting.kind == "grid":
                groups.append((setting,))
            elif setting.kind == "zip" and setting is zipped[0]:
                groups.append(zipped)
        return tuple(groups)

    @property
    def size(self) -> int:
        """Number of cells, counted without building one."""
        return math.prod(len(group[0].values) for group in self.axes)

    def picks(self) -> Iterator[Mapping[str, tuple[Any, int]]]:
        """Every choice of the axes, the last one fastest: value and its place in the list, by key."""
        groups = self.axes
        for places in itertools.product(*(range(len(group[0].values)) for group in groups)):
            pairs = ((setting, place) for group, place in zip(groups, places, strict=True) for setting in group)
            yield {setting.key: (setting.values[place], place) for setting, place in pairs}


@dataclass(frozen=True)
class Block(Grid):
    """A grid of models. horizon: the key that says how long a run is."""

    model: Model
    task: TaskMember
    optimizer: Optimizer
    horizon: str


@dataclass(frozen=True)
class Cell:
    """One planned run before costs.

    values: what the file gave, axes and rules resolved; asked: tokens before rounding.
    """

    block: Block
    values: Mapping[str, Any]
    run: RunConfig
    description: Description
    ledger: Ledger
    asked: float

    def value(self, key: str) -> Any:
        """What a key of the file is for this run: as given, by its rule, by default, or as the run turns out.

        Returns: 0 for what its schedule does not read; None for a key that its members do not have.
        """
        if key in SHAPE and key in self.idle:
            return 0
        if key in self.values:
            return self.values[key]
        run = self.run
        if key in HORIZONS:
            turned_out = {"train.tokens": run.tokens, "train.steps": run.steps}
            if key in turned_out:
                return turned_out[key]
            per_param = key == "train.tokens_per_param"
            return run.tokens / self.ledger.params("total") if per_param else self.ledger.flops_per_token() * run.tokens
        if key == "train.batch_tokens":
            return run.batch_tokens
        return self.block.fields[key].default if key in self.block.fields else None

    @property
    def idle(self) -> tuple[str, ...]:
        """Keys of [train] that mean nothing to its schedule."""
        options: ScheduleOptions = self.run.schedule.options
        reads = SCHEDULES[self.run.schedule.name].reads(options)
        dead = {"train.decay": "decay" not in reads, "train.min_decay": not options.decay}
        return tuple(key for key in SHAPE if dead.get(key, key.removeprefix("train.") not in reads))


@dataclass(frozen=True)
class Fault:
    """What is wrong with a cell. path: in the file; what: a sentence about the value."""

    key: str
    path: Path
    what: str
    remedy: str | None = None


class Wrong(Exception):
    """A value of a key that a cell cannot have."""

    def __init__(self, key: str, what: str, remedy: str | None = None) -> None:
        self.key, self.what, self.remedy = key, what, remedy

    def fault(self, grid: Grid, chosen: Mapping[str, tuple[Any, int]]) -> Fault:
        """The same as a value, with its place in the file. chosen: of the cell."""
        at = grid.settings.get(self.key)
        path: Path = tuple(self.key.split(".")) if at is None else at.path
        if self.key in chosen:
            path = (*path, chosen[self.key][1])
        return Fault(self.key, path, self.what, self.remedy)


def ruled(setting: Setting, field: Field, values: Mapping[str, Any]) -> Any:
    """What a rule gives. values: by the names that it reads, as written.

    Raises: Wrong if it cannot be worked out, or gives what the key does not take.
    """
    assert setting.rule is not None
    try:
        return field.check(setting.rule.evaluate(values))
    except ExpressionError as error:
        with_values = ", ".join(f"{name} = {shown(value)}" for name, value in values.items())
        raise Wrong(setting.key, f"{error.what}, with {with_values}" if values else error.what) from None
    except ValueError as error:
        remedy = "round(...), floor(...) or ceil(...) makes it whole" if field.kind == "integer" else None
        raise Wrong(setting.key, f"the rule gives a value that does not fit: {error.args[0]}", remedy) from None


def readable(fields: Mapping[str, Field]) -> tuple[str, ...]:
    """Names that a rule may read: every key, and what follows from a cell.

    `train.tokens` and `train.steps` are those of the run, after rounding, whichever key gives its length; the others
    read as in the file: `train.decay` is a share here, and steps in a constraint, which reads the planned run.
    """
    keys = (key for key in fields if key not in HORIZONS)
    return tuple(dict.fromkeys((*keys, *FROM_DATA, "train.tokens", "train.steps", *DERIVED)))


def needs(name: str, block_fields: Mapping[str, Field], horizon: str) -> tuple[str, ...]:
    """Names that a derived name is computed from; () for a key of the file. The horizon's own key is "horizon"."""
    model = tuple(key for key in block_fields if key.startswith("model."))
    data = tuple(key for key in block_fields if key.startswith("data."))
    patches = tuple(key for key in model if key == "model.patch")  # with the side of an image they are its tokens
    counted = horizon in ("train.tokens_per_param", "train.flops")
    table = {
        "model.vocab": data,
        **({} if "model.context" in block_fields else {"model.context": (*data, *patches)}),
        **dict.fromkeys(COUNTS, (*model, *FROM_DATA)),
        "train.steps": ("horizon", "train.batch_tokens", "model.context", *(("N_total",) if counted else ())),
        "train.tokens": ("train.steps",),
        "D": ("train.steps",),
        "C_6nd": ("train.steps", "N_total"),
        "C_exact": ("train.steps", "N_total"),
        "unique_tokens": (*data, "model.context"),
        "epochs": ("train.steps", "model.context", *data),
        "tokens_per_param": ("train.steps", "N_total"),
    }
    return table.get(name, ())


def cycle(block: Block) -> tuple[str, ...]:
    """The first circle of rules that read one another, as keys; () if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if name in trail:
            return (*trail[trail.index(name) :], name)
        if name in done:
            return ()
        setting = block.settings.get(block.horizon if name == "horizon" else name)
        if name == block.horizon or setting is None or setting.rule is None:
            below = needs(name, block.fields, block.horizon)
        else:
            below = tuple(setting.rule_names.values())
        for other in below:
            found = visit(other, (*trail, name))
            if found:
                return found
        done.add(name)
        return ()

    for key, setting in block.settings.items():
        if setting.rule is not None:
            found = visit("horizon" if key == block.horizon else key, ())
            if found:
                return tuple(block.horizon if name == "horizon" else name for name in found)
    return ()


def cells(block: Block, evaluation: Evaluation, held_out_tokens: int, describe: Describe) -> Iterator[Cell | Fault]:
    """Resolve every cell, in the file's order, the last axis fastest.

    Args: held_out_tokens: size of the held-out set [tokens]; describe: of a task member and its options; its
    UsageError passes through.
    Returns: a cell where all is well, otherwise what is wrong with it.
    """
    shared = _Shared(block, evaluation, held_out_tokens, describe)
    for chosen in block.picks():
        try:
            yield _Resolution(shared, chosen).cell()
        except Wrong as wrong:
            yield wrong.fault(block, chosen)


class _Shared:
    """What the cells of a block share: members are built once per distinct options, rules worked out once per input."""

    def __init__(self, block: Block, evaluation: Evaluation, held_out_tokens: int, describe: Describe) -> None:
        self.block = block
        self.evaluation = evaluation
        self.held_out_tokens = held_out_tokens
        self.describe = describe
        computed = (*HORIZONS, "train.batch_tokens")  # without a setting these follow from the others
        self.base = {key: f.default for key, f in block.fields.items() if key not in computed}
        self.rules: dict[str, Setting] = {}
        for key, setting in block.settings.items():
            name = self.inner(key)
            self.base.pop(name, None)
            if setting.kind == "fixed":
                self.base[name] = setting.values[0]
            elif setting.rule is not None:
                self.rules[name] = setting
        self.model_names = tuple(key for key in block.fields if key.startswith("model.") and key != "model.family")
        self.data_names = tuple(key for key in block.fields if key.startswith("data."))
        optimizer = block.optimizer.options.__dataclass_fields__
        self.optimizer_names = tuple(f"train.{name}" for name in optimizer)
        self.models: dict[Any, tuple[Member, Ledger, dict[str, float]]] = {}
        self.tasks: dict[Any, tuple[Task, Description]] = {}
        self.optimizers: dict[Any, Member] = {}
        self.schedules: dict[Any, Member] = {}
        self.worked_out: dict[Any, Any] = {}

    def inner(self, key: str) -> str:
        """The horizon's own key goes by "horizon": train.tokens and train.steps are names of what follows from it."""
        return "horizon" if key == self.block.horizon else key

    def model(self, values: tuple[Any, ...], told: Description) -> tuple[Member, Ledger, dict[str, float]]:
        held = (values, *told.given.values())
        if held not in self.models:
            member = self.block.model
            given = dict(zip((name.removeprefix("model.") for name in self.model_names), values, strict=True))
            options = member.options(**given, **told.given)
            for key, what in member.problems(options):
                raise Wrong(f"model.{key}" if f"model.{key}" in self.block.fields else "data.source", what)
            ledger = member.ledger(options)
            counts: dict[str, float] = {f"N_{convention}": ledger.params(convention) for convention in CONVENTIONS}
            counts["flops_per_token"] = ledger.flops_per_token()
            self.models[held] = member.member(options), ledger, counts
        return self.models[held]

    def task(self, values: tuple[Any, ...]) -> tuple[Task, Description]:
        if values not in self.tasks:
            member = self.block.task
            given = {name.removeprefix("data."): held for name, held in zip(self.data_names, values, strict=True)}
            options = member.options(**given)
            for key, what in member.problems(options):
                raise Wrong(f"data.{key}", what)
            d = self.describe(member, options)
            task = Task(member.name, member.version, options, d.fingerprint, self.held_out_tokens, d.origin)
            self.tasks[values] = task, d
        return self.tasks[values]

    def optimizer(self, values: tuple[Any, ...]) -> Member:
        if values not in self.optimizers:
            member = self.block.optimizer
            self.optimizers[values] = Member(member.name, member.version, member.options(*values))
        return self.optimizers[values]

    def schedule(self, name: str, options: ScheduleOptions) -> Member:
        if (name, options) not in self.schedules:
            self.schedules[name, options] = Member(name, SCHEDULES[name].version, options)
        return self.schedules[name, options]


class _Resolution:
    """The values of one cell, worked out when first asked for. Rules have no cycle: `cycle` was asked before."""

    def __init__(self, shared: _Shared, chosen: Mapping[str, tuple[Any, int]]) -> None:
        self.shared = shared
        self.block = shared.block
        self.known = dict(shared.base)
        for key, (value, _) in chosen.items():
            self.known[shared.inner(key)] = value

    def get(self, name: str) -> Any:
        if name not in self.known:
            setting = self.shared.rules.get(name)
            self.known[name] = self.derive(name) if setting is None else self.rule(setting)
        return self.known[name]

    def rule(self, setting: Setting) -> Any:
        values = {written: self.get(name) for written, name in setting.rule_names.items()}
        memo = (setting.key, *values.values())
        if memo not in self.shared.worked_out:
            self.shared.worked_out[memo] = ruled(setting, self.block.fields[setting.key], values)
        return self.shared.worked_out[memo]

    def tuple_of(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple([self.get(name) for name in names])

    def data(self) -> tuple[Task, Description]:
        return self.shared.task(self.tuple_of(self.shared.data_names))

    def model(self) -> tuple[Member, Ledger, dict[str, float]]:
        return self.shared.model(self.tuple_of(self.shared.model_names), self.data()[1])

    def derive(self, name: str) -> Any:
        if name == "model.vocab":
            return self.data()[1].vocab
        if name == "model.context":
            return self.data()[1].context or self.model()[0].options.context
        if name == "unique_tokens":
            return self.data()[1].tokens(self.get("model.context"))[0]
        if name in COUNTS:
            return self.model()[2][name]
        if name == "train.batch_tokens":
            return SEQUENCES * self.get("model.context")
        if name == "train.steps":
            return self.steps()[0]
        if name in ("train.tokens", "D"):
            return self.get("train.steps") * self.get("train.batch_tokens")
        if name == "C_6nd":
            return 6 * self.get("N_non_embedding") * self.get("D")
        if name == "C_exact":
            return self.model()[2]["flops_per_token"] * self.get("D")
        if name == "epochs":
            context = max(1, int(self.get("model.context")))  # none at all is for the model to refuse
            return self.get("D") / self.description().reachable(context)
        if name == "tokens_per_param":
            return self.get("D") / self.get("N_total")
        raise KeyError(name)

    def description(self) -> Description:
        """What the data are like, once it is known that a window fits into them."""
        d, context = self.data()[1], int(self.get("model.context"))
        if d.image is not None or d.longest > context:
            return d
        key, what = "data.source", f"{d.longest} tokens"
        if d.longest == d.segment:
            key, what = "model.context", f"segments of {d.longest} tokens"
        elif d.longest == d.train_tokens and "data.unique_tokens" in self.block.settings:
            key = "data.unique_tokens"
        fits = f"the longest context of these data is {d.longest - 1}" if d.longest > 1 else None
        raise Wrong(key, f"{what} are fewer than one window of context + 1 = {context + 1}", fits)

    def batch_tokens(self) -> int:
        batch, context = int(self.get("train.batch_tokens")), int(self.get("model.context"))
        if context and batch % context:
            low = batch // context * context
            near = " or ".join(str(tokens) for tokens in (low, low + context) if tokens)
            raise Wrong("train.batch_tokens", f"{batch} is not a multiple of context = {context}; use {near}")
        return batch

    def steps(self) -> tuple[int, float]:
        """Whole steps, rounded down, and the tokens that were asked for.

        tokens_per_param counts all parameters, as Hoffmann et al. 2022 do; flops are exact training FLOPs.
        """
        batch, asked, horizon = self.batch_tokens(), float(self.get("horizon")), self.block.horizon
        if horizon == "train.steps":
            asked *= batch
        elif horizon == "train.tokens_per_param":
            asked *= self.get("N_total")
        elif horizon == "train.flops":
            asked /= self.model()[2]["flops_per_token"]
        steps = math.floor(asked / batch * (1 + 1e-12))  # the last digit of a quotient must not cost a step
        if steps < 1:
            given = shown(self.get("horizon"))
            raise Wrong(horizon, f"{given} gives {asked:.4g} tokens, less than one batch of {batch}")
        if steps * batch > 2**63 - 1:
            raise Wrong(horizon, f"{shown(self.get('horizon'))} gives more tokens than 64 bits can count")
        return steps, asked

    def schedule(self, steps: int) -> Member:
        name, warmup = self.get("train.schedule"), self.get("train.warmup")
        if warmup >= 1 and warmup != int(warmup):
            raise Wrong("train.warmup", f"{warmup:g} is neither whole steps nor a share below 1")
        warm = int(warmup) if warmup >= 1 else round(warmup * steps)
        cool = 0
        if "decay" in SCHEDULES[name].takes and self.get("train.decay"):
            cool = max(1, self.get("train.min_decay"), round(self.get("train.decay") * steps))
        if warm + cool > steps:
            key = "train.warmup" if "train.warmup" in self.block.settings else self.block.horizon
            raise Wrong(key, f"a warm-up of {warm} and a decay of {cool} steps do not fit into a run of {steps}")
        others = {name: self.get(f"train.{name}") for name in SCHEDULE_KEYS}
        asked = ScheduleOptions(warmup=warm, decay=cool, **others)
        return self.shared.schedule(name, SCHEDULES[name].normal(asked))

    def cell(self) -> Cell:
        task = self.data()[0]
        model, ledger, _ = self.model()
        description = self.description()
        context, batch = int(model.options.context), self.batch_tokens()
        if self.shared.held_out_tokens < context:
            raise Wrong(
                "model.context", f"{context} tokens are more than eval.tokens = {self.shared.held_out_tokens} held out"
            )
        steps, asked = self.steps()
        run = RunConfig(
            model=model,
            task=task,
            optim=self.shared.optimizer(self.tuple_of(self.shared.optimizer_names)),
            schedule=self.schedule(steps),
            steps=steps,
            sequences=batch // context,
            seed=self.get("train.seed"),
            precision=self.get("train.precision"),
            evaluation=self.shared.evaluation,
        )
        values = {key: self.get(self.shared.inner(key)) for key in self.block.settings}
        return Cell(self.block, values, run, description, ledger, asked)


SCHEDULE_KEYS = tuple(name for name in ScheduleOptions.__dataclass_fields__ if name not in ("warmup", "decay"))
