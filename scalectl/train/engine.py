"""The numbers of a pack on one device: forward, backward, update and evaluation of K rows in one step.

The engine knows tensors and nothing of runs' lengths, rows of measurements or files; `train.loop` keeps those books.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scalectl.core import fault
from scalectl.core.job import Placement
from scalectl.core.run import Foreign, RunConfig
from scalectl.models import MODELS, ledger_of
from scalectl.models.tape import Tape
from scalectl.optim import ALIGNED, OPTIMIZERS
from scalectl.tasks import Data
from scalectl.train import population as pop
from scalectl.train import scaling
from scalectl.train.device import out_of_memory, set_rounding

Result = TypeVar("Result")

# Numbers that a row keeps for its backward pass, from which it goes through the model alone, and that several keep
# together, on a CPU. Ours: packing paid 1.0 to 2.65 times below both, and .76 to 1.1 beyond, outside the caches.
ROW_ALONE, ROWS_TOGETHER = 1_200_000, 5_000_000


class Turn(NamedTuple):
    """A row's part in one step. step: taken before it; factor: of its schedule."""

    step: int
    factor: float


def fresh_row(run: RunConfig, search: Sequence[str] = ()) -> pop.Row:
    """Parameters and optimiser state of a run at step 0. search: folders that hold somebody's own model."""
    tensors = ledger_of(run.model).tensors
    if isinstance(run.model, Foreign):
        theta = pop.row_of(tensors, _opened(run, search).initial_values())
    else:
        theta = pop.initial_row(tensors, run.seed)
    slots = tuple(torch.zeros(width) for width in OPTIMIZERS[run.optim.name].state(tensors))
    return pop.Row(theta, slots, scaling.fresh(run.precision))


def _opened(run: RunConfig, search: Sequence[str]) -> Any:
    """Somebody's own model, imported here: no other run needs its code."""
    from scalectl.models.foreign.forward import Opened

    return Opened(run.model, run.seed, search)


def _call(placement: Placement) -> Callable[..., Tensor] | None:
    """How the blocks of a model are called; None to call them plainly."""
    if not placement.compile and not placement.recompute:
        return None

    def call(block: Callable[..., Tensor], *arguments: Any) -> Tensor:
        held = _compiled(block) if placement.compile else block
        if placement.recompute and torch.is_grad_enabled():
            return checkpoint(held, *arguments, use_reentrant=False, preserve_rng_state=False)
        return held(*arguments)

    return call


@functools.cache
def _compiled(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The block compiled, once in a process; its code lies in torch's cache on disk, which all workers share."""
    return torch.compile(block, dynamic=False)


class Engine:
    """K rows of one model in training.

    Args: runs: one for each row, with equal model, batch shape and precision; rows: where each of them stands;
    data: what they learn from; placement: the device, and the sequences in one forward pass.
    """

    ahead: int = 1  # steps that `learn` should be given at most: here every loss is at hand after its step

    def __init__(self, runs: Sequence[RunConfig], rows: Sequence[pop.Row], data: Data, placement: Placement) -> None:
        self.notes: list[str] = []  # what had to be changed on the way, for the log
        self.taking = 0  # the step that is being taken
        self.run = runs[0]
        self.data = data
        set_rounding(self.run.precision)
        self.device = torch.device(placement.device)
        self.micro_batch = min(placement.micro_batch or self.run.sequences, self.run.sequences)
        if isinstance(self.run.model, Foreign):
            opened = _opened(self.run, placement.search)
            self.forward = opened.placed(self.device, pop.COMPUTE[self.run.precision])
        else:
            self.forward = importlib.import_module(MODELS[self.run.model.name].forward)
        self.call = _call(placement)
        model = MODELS.get(self.run.model.name)
        self.taped = self.device.type == "cpu" and self.call is None and model is not None and model.taped
        optimizer = OPTIMIZERS[self.run.optim.name]
        self.optim = importlib.import_module(optimizer.module)
        tensors = ledger_of(self.run.model).tensors
        self.layout = pop.Layout.of(tensors)
        population = pop.Population.of(self.layout, rows, self.run.precision, self.device)
        self.columns = self.layout.columns(tensors, optimizer.rate, self.run.optim.options, population.theta)
        self._place(population, runs)

    def _place(self, population: pop.Population, runs: Sequence[RunConfig]) -> None:
        self.population = population
        self.views: dict[int, list[tuple[slice, dict[str, Tensor]]]] = {}  # by sequences in a forward pass
        self.runs = tuple(runs)
        self.rows = self.optim.Rows.of([run.optim.options for run in runs], self.device)

    def __len__(self) -> int:
        return len(self.population)

    def row(self, k: int) -> pop.Row:
        """A copy of row k on the CPU."""
        return self.population.row(k)

    def arrange(self, rows: Sequence[int | pop.Row], runs: Sequence[RunConfig]) -> None:
        """Go on with these rows, bit for bit.

        Args: rows: each one of the present ones by its number, as often as there should be copies, or one from outside;
        runs: one for each of them.
        """
        held = [self.row(row) if isinstance(row, int) else row for row in rows]
        self._place(pop.Population.of(self.layout, held, self.run.precision, self.device), runs)

    def learn(self, turns: Sequence[Sequence[Turn]]) -> npt.NDArray[np.float64]:
        """Take steps: forward, backward and update of every row.

        Args: turns: for each step, one turn for each row.
        Returns: the loss of each row on its batch at each step [nats/token], shape (len(turns), K); NaN where the
        gradient is not finite. What a row does after a loss that is not finite means nothing.
        """
        return np.array([self._step(turn_K).tolist() for turn_K in turns])

    def _step(self, turn_K: Sequence[Turn]) -> Tensor:
        """One step of every row; losses of shape (K,)."""
        seeds, steps = [run.seed for run in self.runs], [turn.step for turn in turn_K]
        self.taking = max(steps) + 1
        batches = self.data.batches(seeds, steps, self.run.sequences, self.run.context)
        return self.update(
            torch.from_numpy(batches).to(self.device),
            self._column([turn.factor for turn in turn_K]),
            self._column([turn.step + 1 for turn in turn_K]),
        )

    def update(self, tokens_KBT1: Tensor, factor_K1: Tensor, taken_K1: Tensor) -> Tensor:
        """Forward, backward and update of every row; asks the device for no number.

        Args: factor_K1: of the schedule; taken_K1: steps including this one; both float64.
        Returns: the loss of each row [nats/token], shape (K,), float64; NaN where its gradient is not finite.
        """
        loss_K = self._within_memory(lambda: self._gradients(tokens_KBT1))
        people = self.population
        scaled = people.scaling.shape[1] > 0
        if scaled:
            people.grad.div_(people.scaling[:, scaling.SCALE, None].to(people.grad.dtype))
            before = [held.clone() for held in (people.theta, *people.slots)]
            taken_K1 = taken_K1 - people.scaling[:, scaling.SKIPPED, None]
        norm_K1 = self.optim.step(people.theta, people.grad, people.slots, self.rows, factor_K1, taken_K1, self.columns)
        sound = norm_K1.isfinite()
        if scaled:
            scaling.keep_finite((people.theta, *people.slots), before, sound)
            scaling.advance(people.scaling, sound)
            sound = people.scaling[:, scaling.SCALE, None] >= scaling.SMALLEST
        # a gradient that is not finite ruins the row as surely as a loss that is not
        return torch.where(sound[:, 0], loss_K, torch.nan)

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """Do work that changes no parameter and no moment; where memory runs out, again with half the micro-batch."""
        while True:
            try:
                return work()
            except Exception as error:
                if not out_of_memory(error) or self.micro_batch == 1:
                    raise
            # beyond the handler nothing holds the tensors of the failed attempt
            before, self.micro_batch = self.micro_batch, -(-self.micro_batch // 2)
            self.notes.append(f"out of memory: {self.micro_batch} sequences in a forward pass in place of {before}")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _gradients(self, tokens_KBT1: Tensor) -> Tensor:
        """Forward and backward of every row, in micro-batches; losses of shape (K,), float64."""
        if fault.PLANNED:
            fault.hit("engine.gradients", self.taking)
        people = self.population
        people.refresh()
        sequences = tokens_KBT1.shape[1]
        total = torch.zeros(len(people), device=self.device, dtype=torch.float64)
        for part in tokens_KBT1.split(self.micro_batch, dim=1):
            for rows, views in self.parts(part.shape[1]):
                share = part.shape[1] / sequences
                scale_K = people.scaling[rows, scaling.SCALE] if people.scaling.shape[1] else None
                differentiate = self._on_tape if self.taped else self._by_autograd
                total[rows] += differentiate(views, part[rows], share, scale_K)
            people.collect()
        return total

    def _by_autograd(
        self, views: Mapping[str, Tensor], tokens_KBT1: Tensor, share: float, scale_K: Tensor | None
    ) -> Tensor:
        """Add the gradients of the loss times share and scale; the losses times share, shape (K,)."""
        per_token = self.forward.token_losses(views, tokens_KBT1, self.run.model.options, self.call)
        loss_K: Tensor = per_token.mean(dim=1) * share
        (loss_K if scale_K is None else loss_K * scale_K.to(loss_K.dtype)).sum().backward()
        return loss_K.detach()

    def _on_tape(
        self, views: Mapping[str, Tensor], tokens_KBT1: Tensor, share: float, scale_K: Tensor | None
    ) -> Tensor:
        """The same without autograd."""
        with Tape() as tape:
            per_token = self.forward.token_losses(views, tokens_KBT1, self.run.model.options)
            loss_K: Tensor = per_token.mean(dim=1) * share
            slope_K = torch.ones_like(loss_K) if scale_K is None else scale_K.to(loss_K.dtype)
            slope_K1 = slope_K.mul(share).unsqueeze(1)
            tape.backward(per_token, slope_K1.expand_as(per_token) / per_token.shape[1])
        return loss_K

    def parts(self, sequences: int) -> list[tuple[slice, dict[str, Tensor]]]:
        """Rows that learn together from so many sequences each, with the views of their tensors."""
        if sequences not in self.views:
            together = self._together(len(self.population), sequences)
            self.views[sequences] = [(rows, self.population.views(rows)) for rows in together]
        return self.views[sequences]

    def _together(self, k: int, sequences: int) -> list[slice]:
        """Rows of k that go through the model together: on a CPU as many as the caches take, so no pack is too large.

        It moves no number: a row meets no other. Where the tokens of a row, or of a part that layers see by itself, are
        no multiple of ALIGNED (the last of the held-out sequences, or of a batch in micro-batches) the rows go one by
        one: in company they would begin on other boundaries than alone, and products of matrices round by that.
        """
        together = k
        if self.device.type == "cpu":
            tokens = sequences * self.run.context
            kept = tokens * ledger_of(self.run.model).saved_activations
            ragged = any(sequences * length % ALIGNED for length in self.run.lengths)
            together = 1 if kept > ROW_ALONE or ragged else max(1, ROWS_TOGETHER // kept)
        return [slice(begin, min(begin + together, k)) for begin in range(0, k, together)]

    def _column(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor([[float(value)] for value in values], dtype=torch.float64, device=self.device)

    def evaluate(self, tokens_BT1: Tensor, due: Sequence[int]) -> npt.NDArray[np.float64]:
        """What each sequence says of the rows that are due, shape (len(due), B, 1 + A).

        Returns: the mean loss [nats/token], then for each of the task's A answer tokens 1 where it is the most likely
        one after all that stands before it, else 0.
        """
        compute = self._compute(due)
        joint: npt.NDArray[np.float64] = self._within_memory(lambda: self._judge(compute, tokens_BT1)).cpu().numpy()
        return joint

    def _compute(self, due: Sequence[int]) -> Tensor:
        """Parameters of the rows that are due, in the compute type, shape (len(due), P)."""
        people = self.population
        people.refresh()
        return people.compute if len(due) == len(people) else people.compute[list(due)]

    @torch.no_grad()
    def _judge(self, compute_KP: Tensor, tokens_BT1: Tensor) -> Tensor:
        """`evaluate` of these rows, shape (K, B, 1 + A), float64."""
        K, A, options = len(compute_KP), self.run.answers, self.run.model.options
        found_KBX = torch.empty((K, len(tokens_BT1), 1 + A), dtype=torch.float64, device=self.device)
        for begin in range(0, len(tokens_BT1), self.micro_batch):
            part = tokens_BT1[begin : begin + self.micro_batch].to(self.device)
            for rows in self._together(K, len(part)):
                tokens_KBT1 = part.expand(len(compute_KP[rows]), -1, -1)
                views = self.layout.views(compute_KP[rows])
                found = found_KBX[rows, begin : begin + self.micro_batch]
                if A:
                    losses, right = self.forward.judge(views, tokens_KBT1, options)
                    found[:, :, 1:] = right.view(*tokens_KBT1.shape[:2], A)
                else:
                    losses = self.forward.token_losses(views, tokens_KBT1, options)
                found[:, :, 0] = losses.view(*tokens_KBT1.shape[:2], -1).double().mean(dim=2)
        return found_KBX

    def generate(self, prompts_BT: Tensor, due: Sequence[int]) -> npt.NDArray[np.int64]:
        """What the rows that are due answer when they write by themselves: tokens of shape (len(due), B, A)."""
        compute = self._compute(due)
        written: npt.NDArray[np.int64] = self._within_memory(lambda: self._write(compute, prompts_BT)).cpu().numpy()
        return written

    @torch.no_grad()
    def _write(self, compute_KP: Tensor, prompts_BT: Tensor) -> Tensor:
        """`generate` of these rows, shape (K, B, A); on a CPU one by one, as each would alone."""
        found = []
        for rows_KP in compute_KP.split(1 if self.device.type == "cpu" else len(compute_KP)):
            parts = [
                self.forward.generate(
                    self.layout.views(rows_KP),
                    part.to(self.device).expand(len(rows_KP), -1, -1),
                    self.run.answers,
                    self.run.model.options,
                )
                for part in prompts_BT.split(self.micro_batch)
            ]
            found.append(torch.cat(parts, dim=1))
        return torch.cat(found)
