"""The models that are measured, a run of each, and a sweep of each. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from scalectl.core.cost import Ledger
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.models.decoder.spec import Options, ledger
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.tasks import TASKS, text

ENDLESS = 10**6  # steps, more than any measurement takes
PEAK_RATE = 0.02  # of a sweep: near the best rate at width 16 (LOG.md)
WARMUP = 20  # one step of so many
HELD_OUT_TOKENS = 32_768


@dataclass(frozen=True)
class Shape:
    """A decoder and its batch: blocks, width, heads, tokens in a sequence, sequences."""

    layers: int
    width: int
    heads: int
    context: int
    sequences: int

    def __str__(self) -> str:
        return f"L{self.layers} d{self.width} T{self.context} B{self.sequences}"

    @property
    def options(self) -> Options:
        """The decoder, on bytes."""
        return Options(self.width, self.layers, self.heads, self.context, vocab=256)

    @property
    def ledger(self) -> Ledger:
        """Parameters and FLOPs."""
        return ledger(self.options)

    @property
    def batch_tokens(self) -> int:
        """Tokens in a step of one model."""
        return self.sequences * self.context

    def sweep(self, seeds: range, precision: str, steps: int = 800) -> str:
        """A sweep file that trains it with these seeds on the standard library's source, evaluated at the end."""
        return f"""\
name = "bench"
[model]
family = "decoder"
d_model = {self.width}
n_layer = {self.layers}
n_head = {self.heads}
context = {self.context}
[data]
source = "stdlib"
[train]
steps = {steps}
batch_tokens = {self.batch_tokens}
lr = {PEAK_RATE}
schedule = "cosine"
warmup = {steps // WARMUP}
precision = "{precision}"
seed = {{ grid = {list(seeds)} }}
[eval]
every = {steps}
tokens = {HELD_OUT_TOKENS}
"""

    def run(self, precision: str, seed: int) -> RunConfig:
        """A run on the standard library's source that does not end while it is measured."""
        data = text.Options("stdlib")
        return RunConfig(
            model=Member("decoder", 1, self.options),
            task=Task("text", 1, data, TASKS["text"].describe(data).fingerprint, 4096),
            optim=Member("adamw", 1, AdamWOptions(1e-3)),
            schedule=Member("constant", 1, ScheduleOptions(10)),
            steps=ENDLESS,
            sequences=self.sequences,
            seed=seed,
            precision=precision,
            evaluation=Evaluation(ENDLESS),
        )
