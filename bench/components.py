"""Where a training step goes: processor time by component of the model, forward and backward.

The functions of the forward pass are wrapped by a clock that has one hand: whichever component it points at gets the
time. Each call that the tape writes down remembers the component, and its backward moves the hand there; what the tape
does with the gradients belongs to the component that they come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import process_time as now
from typing import Any
from unittest.mock import patch

from contenders import trainer
from shapes import Shape
from torch.autograd.function import Function

from scalectl.models import primitives
from scalectl.models.decoder import forward
from scalectl.models.tape import Tape

REST = "rest of Python"
RECORD = Tape.record
COMPONENTS = ((primitives, "add_positions", "embedding"), (primitives, "embedding", "embedding"))
COMPONENTS += ((forward, "_attention", "attention"), (forward, "_mlp", "MLP"), (forward, "_norm", "norms"))
COMPONENTS += ((primitives, "linear", "head"), (primitives, "token_losses", "loss"))
SMALLEST = {"context": 8, "sequences": 1}  # a step without work: what it takes is dispatch, Python and the optimiser


class Timed:
    """A function on the tape that says when its backward begins."""

    def __init__(self, function: type[Function], begin: Callable[[], object]) -> None:
        self.function, self.begin = function, begin

    def backward(self, *call: Any) -> Any:
        self.begin()
        return self.function.backward(*call)


class Clock:
    """Seconds by component."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.hand = REST
        self.since = now()

    def turn(self, hand: str) -> str:
        """Point at a component; returns the one before."""
        at = now()
        self.spent[self.hand] += at - self.since
        before, self.hand, self.since = self.hand, hand, at
        return before

    def wrap(self, hand: str, function: Callable[..., Any], *, outermost: bool = False) -> Callable[..., Any]:
        """The function with its time given to a component. outermost: but not within another one."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if outermost and self.hand != REST:
                return function(*args, **kwargs)
            before = self.turn(hand)
            made = function(*args, **kwargs)
            self.turn(before)
            return made

        return timed

    def record(self, held: Tape, function: type[Function], inputs: tuple[Any, ...]) -> Any:
        """A call on the tape whose backward moves the hand to the component that makes it now."""
        output = RECORD(held, function, inputs)
        output.entry.function = Timed(function, partial(self.turn, f"{self.hand}, backward"))
        return output

    @contextmanager
    def watching(self, held: Any) -> Iterator[None]:
        """With all components of the decoder, the batch and the optimiser under the clock."""
        targets = [(module, name, hand) for module, name, hand in COMPONENTS]
        targets += [(held.engine.optim, "step", "clip and AdamW"), (type(held.data), "batches", "batch")]
        targets += [(Tape, "backward", "loss, backward")]
        patches = [
            patch.object(module, name, self.wrap(hand, getattr(module, name), outermost=module is primitives))
            for module, name, hand in targets
        ]
        patches.append(patch.object(Tape, "record", lambda *call: self.record(*call)))
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def profile(shape: Shape, precision: str, k: int, seconds: float) -> dict[str, float]:
    """Seconds a step by component, `step` without the clock, and `smallest step` of a batch of eight tokens."""
    held = trainer(shape, precision, k)
    free, _ = timed_steps(held.step, seconds)
    clock = Clock()
    with clock.watching(held):
        held.step()
        clock.spent.clear()
        clock.turn(REST)
        _, steps = timed_steps(held.step, seconds)
        clock.turn(REST)
    smallest, _ = timed_steps(trainer(replace(shape, **SMALLEST), precision, k).step, seconds / 2)
    return {
        "step": free,
        **{name: spent / steps for name, spent in clock.spent.items()},
        "smallest step": smallest,
    }


def timed_steps(step: Callable[[], Any], seconds: float) -> tuple[float, int]:
    """Seconds a step, and how many were taken."""
    for _ in range(2):
        step()
    steps, begin = 0, now()
    while steps < 3 or now() - begin < seconds:
        step()
        steps += 1
    return (now() - begin) / steps, steps
