"""The engine for a device that is faster than the calls that command it: a step is recorded once and replayed.

A small model's step is hundreds of kernels of a few microseconds each, and a launch from Python takes as long as the
kernel. So everything that a step reads or writes lies in buffers that stay where they are, what differs from step to
step is a table on the device with a cursor that the step itself moves on, and the whole step (gather, forward,
backward, clip, update, losses) becomes one graph. Between two evaluations nothing is sent but replays, and the losses
of all steps come back in one copy. Source: ours; CUDA graphs, the PyTorch notes on CUDA semantics.

The steps that warm a graph up are steps of the run. `Recorder` is all that knows of CUDA; on a device without graphs
the same code runs step by step from the same buffers, which is how it is tested.

Legend: A steps in the tables, K models, B sequences, T tokens.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalectl.core.job import Placement
from scalectl.core.run import Foreign, RunConfig
from scalectl.tasks import Data
from scalectl.train import population as pop
from scalectl.train.engine import Engine, Result, Turn

AHEAD = 256  # steps in the tables
AHEAD_SECONDS = 0.2  # between two looks at the losses; ours: a request to stop is answered within it
WARM_STEPS = 3  # taken before the recording: cuBLAS and others set themselves up (PyTorch notes on CUDA semantics)
RESIDENT_SHARE = 0.25  # of a GPU's free memory that training tokens may take; ours

Work = Callable[[], None]


class Recorder(Protocol):
    """How a device records. Work reads and writes tensors that outlive it and asks for no number."""

    def warm(self, work: Work) -> None:
        """Do the work now, as it would be recorded."""
        ...

    def record(self, work: Work) -> Work:
        """Record the work without doing it. Returns: what replays it."""
        ...


class Direct:
    """For devices without graphs: a recording is the work itself."""

    def warm(self, work: Work) -> None:
        """Do the work now."""
        work()

    def record(self, work: Work) -> Work:
        """The work itself."""
        return work


class Cuda:
    """CUDA graphs. All of a pack's recordings share one pool of memory: nothing in it outlives its replay."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.set_device(device)
        self.stream = torch.cuda.Stream(device)  # gradients accumulate on the stream of their first use
        self.pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Work) -> None:
        """Do the work on the stream that will be recorded."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            work()
        here.wait_stream(self.stream)

    def record(self, work: Work) -> Work:
        """Capture the work."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            work()
        replay: Work = graph.replay
        return replay


class _Judged(NamedTuple):
    """What a recorded evaluation reads and writes, held for as long as it is replayed: a graph holds no tensor.

    asked: the tokens as they were given, which tell one set from another; replay: None until it is recorded.
    """

    asked: Tensor
    tokens_BT1: Tensor
    joint_KBX: Tensor
    replay: Work | None = None


class GraphEngine(Engine):
    """An engine whose step is recorded. Arguments as of `Engine`; recorder: of the device, found by itself if None."""

    def __init__(
        self,
        runs: Sequence[RunConfig],
        rows: Sequence[pop.Row],
        data: Data,
        placement: Placement,
        recorder: Recorder | None = None,
    ) -> None:
        device = torch.device(placement.device)
        self.recording = self.grown = False
        self.recorder = recorder or (Cuda(device) if device.type == "cuda" else Direct())
        self.source = _resident(data, device)
        super().__init__(runs, rows, data, placement)

    def _place(self, population: pop.Population, runs: Sequence[RunConfig]) -> None:
        super()._place(population, runs)
        K, B, context = len(population), self.run.sequences, self.run.context
        self.at = list(range(K))  # the matrix row of each run; rows without a run are idle
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.factor = torch.zeros(AHEAD, K, 1, dtype=torch.float64, device=self.device)
        self.taken = torch.ones(AHEAD, K, 1, dtype=torch.float64, device=self.device)
        self.losses = torch.zeros(AHEAD, K, dtype=torch.float64, device=self.device)
        width = self.data.width(context)
        wanted = (B,) if self.source is not None else (B, width)
        self.wanted = torch.zeros(AHEAD, K, *wanted, dtype=torch.int64, device=self.device)  # begins, or the tokens
        self.window = torch.arange(width, device=self.device)
        self._forget()

    def _forget(self) -> None:
        """The recordings are void: warm up and record again."""
        self.warmed = 0
        self.replay: Work | None = None
        self.ahead = WARM_STEPS + 1
        self.judged: _Judged | None = None

    def __len__(self) -> int:
        return len(self.at)

    def row(self, k: int) -> pop.Row:
        """A copy of the row of run k on the CPU."""
        return super().row(self.at[k])

    def arrange(self, rows: Sequence[int | pop.Row], runs: Sequence[RunConfig]) -> None:
        """Go on with these rows, as `Engine.arrange`; rows that nobody needs idle, and take in those that come.

        Before a smaller step is recorded half of the rows may idle, and three quarters in a pack that has grown: its
        trunks have more branches to come. More rows than there are need a larger step.
        """
        size = len(self.population)
        self.grown |= len(rows) > size
        if len(rows) > size or (4 if self.grown else 2) * len(rows) <= size:
            super().arrange(rows, runs)
            return
        stay = {self.at[row] for row in rows if isinstance(row, int)}
        idle = [place for place in range(size) if place not in stay]
        at: list[int] = []
        for row in rows:
            if isinstance(row, int) and self.at[row] not in at:
                at.append(self.at[row])
                continue
            at.append(idle.pop())
            came = self.row(row) if isinstance(row, int) else row
            for matrix, held in zip(self.population.held, (came.theta, *came.slots, came.scaling), strict=True):
                matrix[at[-1]].copy_(held)
        of = dict(zip(at, runs, strict=True))
        self.runs = tuple(of.get(place, run) for place, run in enumerate(self.runs))
        self.at = at
        now = self.optim.Rows.of([run.optim.options for run in self.runs], self.device)
        for field in dataclasses.fields(now):  # the recording reads these very tensors
            held = getattr(now, field.name)
            if isinstance(held, Tensor):
                getattr(self.rows, field.name).copy_(held)

    def learn(self, turns: Sequence[Sequence[Turn]]) -> npt.NDArray[np.float64]:
        """Take steps, as `Engine.learn`, with one copy to the device and one back."""
        began = time.monotonic()
        self._fill(turns)
        recorded = self.replay is not None
        for _ in turns:
            self._advance()
        losses: npt.NDArray[np.float64] = self.losses[: len(turns)].cpu().numpy()[:, self.at]
        if recorded:
            self.ahead = max(1, min(AHEAD, int(AHEAD_SECONDS * len(turns) / (time.monotonic() - began))))
        return losses

    def _fill(self, turns: Sequence[Sequence[Turn]]) -> None:
        """Write what the next steps need into the tables; idle rows learn at rate 0 from the first window."""
        count, K, at = len(turns), len(self.population), self.at
        factor, taken = np.zeros((count, K)), np.ones((count, K))
        factor[:, at] = [[turn.factor for turn in turn_K] for turn_K in turns]
        taken[:, at] = [[turn.step + 1 for turn in turn_K] for turn_K in turns]
        seeds = [self.runs[k].seed for _ in turns for k in at]
        steps = [turn.step for turn_K in turns for turn in turn_K]
        pick = self.data.batches if self.source is None else self.data.begins  # type: ignore[attr-defined]
        found = pick(seeds, steps, self.run.sequences, self.run.context)
        wanted = np.zeros((count, K, *found.shape[1:]), dtype=np.int64)
        wanted[:, at] = found.reshape(count, len(at), *found.shape[1:])
        for table, held in ((self.factor, factor[..., None]), (self.taken, taken[..., None]), (self.wanted, wanted)):
            table[:count].copy_(torch.from_numpy(held))
        self.cursor.zero_()

    def _advance(self) -> None:
        """One step, by replay where there is a recording."""
        if self.warmed < WARM_STEPS:
            self.recorder.warm(self._one)
            self.warmed += 1
            return
        if self.replay is None:
            self.replay = self._record(self._one)
        self.replay()

    def _record(self, work: Work) -> Work:
        """Record work; where memory runs out, with half the micro-batch: a recording that failed has done nothing."""

        def attempt() -> Work:
            self.recording = True
            try:
                return self.recorder.record(work)
            finally:
                self.recording = False

        return super()._within_memory(attempt)

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        return work() if self.recording else super()._within_memory(work)

    def _one(self) -> None:
        """The step at the cursor, from the tables and into them."""
        wanted, factor, taken = (
            table.index_select(0, self.cursor)[0] for table in (self.wanted, self.factor, self.taken)
        )
        tokens = wanted if self.source is None else self._gather(wanted)
        self.losses.index_copy_(0, self.cursor, self.update(tokens, factor, taken)[None])
        self.cursor.add_(1)

    def _gather(self, begins_KB: Tensor) -> Tensor:
        """The windows that begin there, shape (K, B, T + 1)."""
        assert self.source is not None
        tokens = self.source[begins_KB.unsqueeze(-1) + self.window].long()
        return tokens & 0xFFFF if self.source.dtype == torch.int16 else tokens

    def evaluate(self, tokens_BT1: Tensor, due: Sequence[int]) -> npt.NDArray[np.float64]:
        """What each sequence says of the runs that are due, as `Engine.evaluate`; one copy back."""
        judged = self.judged
        if judged is None or judged.asked is not tokens_BT1:
            shape = (len(self.population), len(tokens_BT1), 1 + self.run.answers)
            joint_KBX = torch.zeros(shape, dtype=torch.float64, device=self.device)
            judged = self.judged = _Judged(tokens_BT1, tokens_BT1.to(self.device), joint_KBX)
            self.recorder.warm(self._evaluation(judged))
        else:
            if judged.replay is None:
                judged = self.judged = judged._replace(replay=self._record(self._evaluation(judged)))
            judged.replay()
        found: npt.NDArray[np.float64] = judged.joint_KBX.cpu().numpy()[[self.at[k] for k in due]]
        return found

    def generate(self, prompts_BT: Tensor, due: Sequence[int]) -> npt.NDArray[np.int64]:
        """What the runs that are due write, as `Engine.generate`, without a recording: its caches grow."""
        return super().generate(prompts_BT, [self.at[k] for k in due])

    def _evaluation(self, judged: _Judged) -> Work:
        def work() -> None:
            people = self.population
            people.refresh()
            judged.joint_KBX.copy_(self._within_memory(lambda: self._judge(people.compute, judged.tokens_BT1)))

        return work


def _resident(data: Data, device: torch.device) -> Tensor | None:
    """The training tokens on the device, flat; None where they have no flat form or are too many."""
    train: npt.NDArray[Any] | None = getattr(data, "train", None)
    if train is None or not hasattr(data, "begins"):
        return None
    if device.type == "cuda" and train.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    flat = train.reshape(-1)
    if flat.dtype in (np.uint16, np.uint32):  # torch indexes neither; `_gather` takes the sign away again
        flat = flat.view(f"i{flat.itemsize}")
    return torch.tensor(flat, device=device)


def open_engine(runs: Sequence[RunConfig], rows: Sequence[pop.Row], data: Data, placement: Placement) -> Engine:
    """The engine for a placement: recorded on a GPU, step by step elsewhere, unless it says otherwise.

    Somebody's own model may ask for numbers in its forward pass, so it is recorded on demand alone.
    """
    pays = placement.device.startswith("cuda") and not isinstance(runs[0].model, Foreign)
    recorded = pays if placement.graph is None else placement.graph
    return (GraphEngine if recorded else Engine)(runs, rows, data, placement)
