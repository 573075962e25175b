"""The numbers of a pack on one device: forward, backward, update and evaluation of K rows in one step.

The engine knows tensors and nothing of runs' lengths, rows of measurements or files; `train.loop` keeps those books.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalectl.core.job import Placement
from scalectl.core.run import RunConfig
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.train import population as pop


def fresh_row(run: RunConfig) -> pop.Row:
    """Parameters and optimiser state of a run at step 0."""
    tensors = MODELS[run.model.name].ledger(run.model.options).tensors
    theta = pop.initial_row(tensors, run.seed)
    optim = importlib.import_module(OPTIMIZERS[run.optim.name].module)
    return pop.Row(theta, tuple(torch.zeros_like(theta) for _ in range(optim.SLOTS)))


class Engine:
    """K rows of one model in training.

    Args: runs: one for each row, with equal model, batch shape and precision; rows: where each of them stands;
    placement: the device, and the sequences in one forward pass.
    """

    def __init__(self, runs: Sequence[RunConfig], rows: Sequence[pop.Row], placement: Placement) -> None:
        self.run = runs[0]
        self.device = torch.device(placement.device)
        self.micro_batch = min(placement.micro_batch or self.run.sequences, self.run.sequences)
        model = MODELS[self.run.model.name]
        self.forward = importlib.import_module(model.forward)
        self.optim = importlib.import_module(OPTIMIZERS[self.run.optim.name].module)
        self.layout = pop.Layout.of(model.ledger(self.run.model.options).tensors)
        self._place(pop.Population.of(self.layout, rows, self.run.precision, self.device), runs)

    def _place(self, population: pop.Population, runs: Sequence[RunConfig]) -> None:
        self.population = population
        self.rows = self.optim.Rows.of([run.optim.options for run in runs], self.device)

    def __len__(self) -> int:
        return len(self.population)

    def row(self, k: int) -> pop.Row:
        """A copy of row k on the CPU."""
        return self.population.row(k)

    def keep(self, rows: Sequence[int], runs: Sequence[RunConfig]) -> None:
        """Go on with these rows alone, bit for bit. runs: one for each of them."""
        self._place(self.population.select(rows, self.run.precision), runs)

    def learn(self, tokens_KBT1: npt.NDArray[np.int64], factors: Sequence[float], taken: Sequence[int]) -> list[float]:
        """Forward, backward and update of every row.

        Args: factors: of the schedule, one for each row; taken: steps including this one.
        Returns: the loss of each row on its batch [nats/token], NaN where its gradient is not finite.
        """
        people = self.population
        people.refresh()
        sequences = tokens_KBT1.shape[1]
        total = torch.zeros(len(people), device=self.device, dtype=torch.float64)
        for part in torch.from_numpy(tokens_KBT1).to(self.device).split(self.micro_batch, dim=1):
            per_token = self.forward.token_losses(people.views, part, self.run.model.options)
            loss_K = per_token.mean(dim=1) * (part.shape[1] / sequences)
            loss_K.sum().backward()
            people.collect()
            total += loss_K.detach()
        norm = self.optim.step(
            people.theta,
            people.grad,
            people.slots,
            self.rows,
            self._column(factors),
            self._column(taken),
            self.layout.decayed,
        )
        # a gradient that is not finite ruins the row as surely as a loss that is not
        total = torch.where(norm[:, 0].isfinite(), total, torch.nan)
        return [float(loss) for loss in total.tolist()]

    def _column(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor([[float(value)] for value in values], dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def evaluate(self, tokens_BT1: Tensor, due: Sequence[int]) -> npt.NDArray[np.float64]:
        """Mean loss of each sequence for the rows that are due [nats/token], shape (len(due), B)."""
        people = self.population
        people.refresh()
        whole = len(due) == len(people)
        views = self.layout.views(people.compute if whole else people.compute[list(due)])
        per_sequence: list[Tensor] = []
        for part in tokens_BT1.split(self.micro_batch):
            tokens = part.to(self.device).unsqueeze(0).expand(len(due), -1, -1)
            losses = self.forward.token_losses(views, tokens, self.run.model.options)
            per_sequence.append(losses.view(len(due), part.shape[0], -1).double().mean(dim=2).cpu())
        joint: npt.NDArray[np.float64] = torch.cat(per_sequence, dim=1).numpy()
        return joint
