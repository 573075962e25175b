"""The keys of a sweep file: its tables, what each may hold, and what to write for one that is missing."""

from __future__ import annotations

import functools

from scalectl.core.cost import BYTES, CONVENTIONS
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.optim.schedules import SCHEDULES
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.sweep.block import DERIVED, Block
from scalectl.sweep.command import COUNTS, CommandBlock
from scalectl.sweep.fields import Field, fields_of
from scalectl.sweep.locate import Path
from scalectl.sweep.ray import Ray
from scalectl.sweep.slurm import Slurm
from scalectl.sweep.sweep import Budget, OnError, Runtime
from scalectl.tasks import TASKS

SCIENCE = ("model", "data", "train")
SCRIPT = ("run", "params")
TABLES = (*SCIENCE, "eval", *SCRIPT, "constraints", "runtime", "budget", "on_error", "slurm", "ray", "block")
TITLE = ("name", "question")
TOP = (*TITLE, *TABLES)
RUN = {
    "run.command": Field("run.command", "texts", ()),
    "run.code": Field("run.code", "texts", ()),
    "run.rows": Field("run.rows", "text", ""),
    "run.convention": Field("run.convention", "choice", "non_embedding", CONVENTIONS),
    "run.keep": Field("run.keep", "truth", False),
}
ENV = "env"  # the key of [run] that is a table of its own


@functools.cache
def known_keys() -> dict[str, tuple[str, ...]]:
    """Every key of every table, whatever the members: for overrides and for `it belongs into [...]`."""
    found: dict[str, dict[str, None]] = {table: {} for table in TABLES if table != "block"}
    for model in MODELS.values():
        found["model"] |= dict.fromkeys(
            ("family", *(f for f in model.options.__dataclass_fields__ if f not in model.given))
        )
    for task in TASKS.values():
        found["data"] |= dict.fromkeys(task.options.__dataclass_fields__)
    found["train"] |= dict.fromkeys(key.removeprefix("train.") for key in train_fields())
    for optimizer in OPTIMIZERS.values():
        found["train"] |= dict.fromkeys(optimizer.options.__dataclass_fields__)
    found["run"] |= dict.fromkeys((*(key.removeprefix("run.") for key in (*RUN, *COUNTS)), ENV))
    found["eval"] |= dict.fromkeys(("every", "tokens", "sets"))
    found["constraints"] |= {"drop": None}
    found["runtime"] |= dict.fromkeys(Runtime.__dataclass_fields__)
    found["budget"] |= dict.fromkeys(Budget.__dataclass_fields__)
    found["on_error"] |= dict.fromkeys(OnError.__dataclass_fields__)
    found["slurm"] |= dict.fromkeys(Slurm.__dataclass_fields__)
    found["ray"] |= dict.fromkeys(Ray.__dataclass_fields__)
    return {table: tuple(keys) for table, keys in found.items()}


def train_fields() -> dict[str, Field]:
    """Keys of [train] that belong to no optimiser; the defaults are described in the README.

    Warm-up 5 % of the run: ours, short, because a long warm-up bends small-scale laws (Porian et al. 2024). Decay 20 %:
    Hägele et al. 2024, arXiv 2405.18392.
    """
    own = (
        Field("train.tokens", "integer"),
        Field("train.tokens_per_param", "number"),
        Field("train.flops", "number"),
        Field("train.steps", "integer"),
        Field("train.batch_tokens", "integer", None),
        Field("train.optimizer", "choice", "adamw", tuple(OPTIMIZERS)),
        Field("train.schedule", "choice", "wsd", tuple(SCHEDULES)),
        Field("train.warmup", "number", 0.05),
        Field("train.decay", "number", 0.2),
        Field("train.min_decay", "integer", 0),
        Field("train.precision", "choice", "fp32", tuple(BYTES)),
        Field("train.seed", "integer", 0),
    )
    schedule = fields_of(ScheduleOptions, "train", without=("warmup", "decay"))
    return {held.key: held for held in own} | schedule


def columns_of(block: Block | CommandBlock) -> tuple[str, ...]:
    """Names that a constraint may read: the columns of a planned run of this block."""
    if isinstance(block, CommandBlock):
        return (*block.settings, *(key for key in COUNTS if key in block.counts and key != "run.steps"))
    keys = [f"model.{name}" for name in ("family", *block.model.options.__dataclass_fields__)]
    keys += [f"data.{name}" for name in (*block.task.options.__dataclass_fields__, "task", "fingerprint", "origin")]
    train = (*block.optimizer.options.__dataclass_fields__, *ScheduleOptions.__dataclass_fields__)
    own = ("optimizer", "schedule", "steps", "tokens", "batch_tokens", "seed", "precision")
    keys += [f"train.{name}" for name in (*train, *own)]
    return tuple(dict.fromkeys((*keys, "model.context", "eval.tokens", "eval.every", *DERIVED)))


def label_of(path: Path, key: str) -> str:
    """A path as a reader writes it: block[1].model.d_model[2]."""
    if not path or path[0] == "--set":
        return key
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("grid", "zip", "rule"):
            text += f".{part}" if text else part
    return text


EXAMPLES = {
    "train.lr": 'lr = 0.003, or lr = { rule = "min(0.03, 0.4 / d_model)" }',
    "train.adamw_lr": "adamw_lr = 0.003, the rate of what muon leaves to AdamW: tables, head and vectors",
}


def to_write(held: Field) -> str:
    """What to write for a key that is missing."""
    if held.key in EXAMPLES:
        return f"write {EXAMPLES[held.key]}"
    kinds = {"integer": "an integer", "number": "a number", "truth": "true or false", "text": "a text in quotes"}
    kind = f"one of {', '.join(held.choices)}" if held.choices else kinds.get(held.kind, "a list of texts")
    return f"write {held.key.split('.', 1)[1]} = {kind}"
