"""Backward passes without a graph of torch's: what a small step spends on autograd is more than what it computes.

While a tape runs, `apply` calls the forward of a Function and writes down where its inputs came from; `Tape.backward`
walks back over that. Without a tape `apply` leaves the Function to torch.autograd: its forward and its backward are the
same code under both. A node of autograd costs 15 to 20 us more than its operations, an entry here 2. Source: ours.

What meets an activation while a tape runs has to be a Function: torch's own operations are not written down. An input
that is neither a parameter nor the result of a call, and a result that no gradient comes back to, are errors; an
operation in place on an activation cannot be seen. One tape runs at a time, in one thread.
"""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

_running: Tape | None = None


def apply(function: type[Function], *inputs: Any) -> Any:
    """The function of these inputs, differentiable by the tape that runs, or else by torch.autograd."""
    return function.apply(*inputs) if _running is None else _running.record(function, inputs)  # type: ignore[no-untyped-call]


class Entry:
    """A call, and the context of its forward and its backward, as torch.autograd has one.

    inputs: by position, the entry that made it, a parameter or a view of one, or None for neither; gradient: of its
    output, as far as it is known.
    """

    def __init__(self, function: type[Function], inputs: list[Entry | Tensor | None]) -> None:
        self.function = function
        self.inputs = inputs
        self.gradient: Tensor | None = None
        self.saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors, which the backward finds in `saved_tensors`."""
        self.saved_tensors = tensors

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """Whether an input leads back to a parameter, by position."""
        return tuple(source is not None for source in self.inputs)

    def close(self) -> None:
        """Let go of what was kept: an output that is saved holds its own entry in a circle."""
        self.gradient, self.saved_tensors = None, ()


class Tape:
    """Calls in their order, while it is entered. It holds no tensor but what their contexts do."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.uses: Counter[int] = Counter()  # of each parameter, by its identity: it outlives the tape
        self._no_grad = torch.no_grad()

    def __enter__(self) -> Tape:
        global _running
        if _running is not None:
            raise RuntimeError("a tape runs already")
        self._no_grad.__enter__()
        _running = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _running
        _running = None
        self._no_grad.__exit__(kind, error, trace)
        for entry in self.entries:  # left after an error
            entry.close()

    def record(self, function: type[Function], inputs: tuple[Any, ...]) -> Any:
        """Call the function and write it down."""
        entry = Entry(function, [self._source(function, place, held) for place, held in enumerate(inputs)])
        output = function.forward(entry, *inputs)
        output.entry = entry  # on the tensor itself: a number or an address could outlive it
        self.entries.append(entry)
        return output

    def backward(self, output: Tensor, gradient: Tensor) -> None:
        """Add the gradients of all parameters to their `.grad`, dropping what was saved as it is used.

        Args: output: what the last call made; gradient: of its numbers, of equal shape; it may be written to.
        Raises: RuntimeError if a call was made for nothing, or if something that is no Function stands between.
        """
        last: Entry | None = output.__dict__.get("entry")
        if last is None:
            raise _cut(None, "what is differentiated is not the result of a call")
        last.gradient = gradient
        entries = self.entries
        sums: dict[int, tuple[Tensor, Tensor]] = {}  # of the parameters that are used more than once
        while entries:
            entry = entries[-1]  # until it is closed, for `__exit__` to close it after an error
            if entry.gradient is None:
                raise _cut(entry.function, "no gradient came back to its result")
            gradients = entry.function.backward(entry, entry.gradient)
            entries.pop().close()
            for source, found in zip(entry.inputs, gradients, strict=True):
                if source is None or found is None:
                    continue
                if type(source) is not Entry:
                    self._add(source, found, sums)
                elif source.gradient is None:
                    source.gradient = found
                else:  # whoever was given the first has used it by now
                    source.gradient.add_(found)
            del gradients, found  # or they would stand beside the next ones
        for room, total in sums.values():
            room.add_(total)

    def _source(self, function: type[Function], place: int, held: Any) -> Entry | Tensor | None:
        """Where the gradient of an input goes."""
        if not isinstance(held, Tensor):
            return None
        entry: Entry | None = held.__dict__.get("entry")
        if entry is not None:
            return entry
        if held.requires_grad:
            self.uses[id(_whole(held))] += 1
            return held
        if held.is_floating_point() and place not in getattr(function, "constants", ()):
            raise _cut(function, "an input is neither a parameter nor the result of another")
        return None

    def _add(self, parameter: Tensor, gradient: Tensor, sums: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Add to a parameter's `.grad`, or to the sum that is added later, as torch.autograd rounds it."""
        whole = _whole(parameter)
        room = whole.grad
        assert room is not None
        if self.uses[id(whole)] > 1:
            room = sums.setdefault(id(whole), (room, torch.zeros_like(room)))[1]
        if parameter is not whole:  # a part of every row, or its transpose; only the distance of rows may differ
            at = parameter.storage_offset() - whole.storage_offset()
            if len(parameter) != len(whole):
                raise _cut(None, "a part of a parameter that leaves rows out has no gradient here")
            at += room.storage_offset()
            room = room.as_strided(parameter.shape, (room.stride(0), *parameter.stride()[1:]), at)
        room.add_(gradient)


def _whole(parameter: Tensor) -> Tensor:
    """The parameter of which this is a view, or itself."""
    base: Tensor | None = parameter._base
    return parameter if base is None else base


def _cut(function: type[Function] | None, what: str) -> RuntimeError:
    name = "" if function is None else f"{function.__name__}: "
    return RuntimeError(
        f"{name}{what}; under a tape every operation on an activation has to be a Function, "
        "or the model has to go without (`taped` of its family)"
    )
