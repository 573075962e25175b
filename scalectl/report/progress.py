"""A sweep while it runs: one live display on a terminal, plain lines elsewhere. Finished runs scroll up as a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scalectl.core import units
from scalectl.core.job import State
from scalectl.report.cells import label
from scalectl.report.look import Look
from scalectl.report.table import paragraph

if TYPE_CHECKING:
    from rich.console import Console

REDRAWS = 4  # a second
SUMMARY_SECONDS = 60.0  # between summary lines where there is no terminal
# Below so much of the work or so many seconds, the time left is not worth a number: first steps are the slowest. Ours.
SURE_SHARE, SURE_SECONDS = 0.03, 5.0
BAR = 24  # columns, where there is room


@dataclass(frozen=True)
class Expected:
    """A run to come.

    cell: what varies, by short key; steps: 0 where nobody knows; seconds: expected in its pack, per member; flops: of
    all its steps; split: the step up to which another run's training is its own too, so that seconds are those of the
    steps after it.
    """

    cell: Mapping[str, object]
    steps: int
    seconds: float
    flops: float
    split: int = 0


@dataclass
class _Slot:
    """A worker's last sign of life. since: clock [s] and step when its job began."""

    ticket: str
    runs: dict[str, tuple[int, float | None]]
    since: tuple[float, int]
    tokens_per_second: float = 0.0
    memory: int = 0

    @property
    def step(self) -> int:
        """The step of its first run."""
        return next(iter(self.runs.values()))[0]

    def left(self, steps: int) -> str:
        """Time to the end of a job of so many steps, at its pace so far."""
        clock, first = self.since
        return _left(time.monotonic() - clock, (self.step - first) / max(1, steps - first))


@dataclass
class Progress:
    """Feed it what happens; it draws.

    Args: settled: runs of the sweep that were done before; expected: runs to train, by id; devices: kind of slot.
    """

    console: Console
    look: Look
    name: str
    settled: int
    expected: Mapping[str, Expected]
    device: str = "cpu"
    steps: dict[str, int] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)
    ended: dict[str, State] = field(default_factory=dict)
    slots: dict[int, _Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = self.said = time.monotonic()
        self.live: Any = None

    def __enter__(self) -> Progress:
        """Start drawing, on a terminal."""
        if self.console.is_terminal and self.look.unicode:
            from rich.live import Live

            self.live = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=REDRAWS, transient=True
            )
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; what scrolled up stays."""
        if self.live is not None:
            self.live.stop()

    def beat(
        self, slot: int, ticket: str, runs: Mapping[str, tuple[int, float | None]], rate: float, memory: int
    ) -> None:
        """A sign of life of a worker."""
        for run_id, (step, _) in runs.items():
            self.began.setdefault(run_id, step)
            self.steps[run_id] = step
        clock = time.monotonic()
        if not runs:
            return
        before = self.slots.get(slot)
        since = before.since if before and before.ticket == ticket else (clock, next(iter(runs.values()))[0])
        self.slots[slot] = _Slot(ticket, dict(runs), since, rate, memory)
        if self.live is None and clock - self.said >= SUMMARY_SECONDS:
            self.said = clock
            self._say(self._headline())

    def end(self, run_id: str, state: State, loss: float | None, seconds: float, message: str) -> None:
        """A run left its worker."""
        self.ended[run_id] = state
        if state is State.DONE:
            self.steps[run_id] = self.expected[run_id].steps
        sign, style = {
            State.DONE: ("✔", "green"),
            State.PAUSED: ("›", "dim"),
            State.PENDING: ("›", "dim"),
        }.get(state, ("✘", "red"))
        said = f"loss {loss:.4f}   {units.duration(seconds)}" if state is State.DONE and loss is not None else ""
        text = "   ".join(filter(None, (said, message)))
        if state is not State.DONE and not message.startswith(str(state)):
            text = f"{state}  {message}".rstrip()
        cell = label(self.expected[run_id].cell)
        self._say(f"  {sign} {run_id[:6]}  {cell}   {text}", style)

    @property
    def running(self) -> list[str]:
        """Runs in a worker now."""
        return [run_id for slot in self.slots.values() for run_id in slot.runs if run_id not in self.ended]

    def over(self, ticket: str) -> None:
        """A job left its slot."""
        for index, slot in list(self.slots.items()):
            if slot.ticket == ticket:
                del self.slots[index]

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the display."""
        self._say(text, style)

    def _say(self, text: str, style: str = "") -> None:
        body = text.lstrip(" ")
        look = replace(self.look, width=self.console.width)
        for line in paragraph(
            body, look, style=style if style == "red" else "", indent=len(text) - len(body), hanging=2
        ):
            self.console.print(line)

    @property
    def share(self) -> float:
        """Share of the expected work that is done, whatever was done before this start left out."""
        total = done = 0.0
        for run_id, run in self.expected.items():
            settled = self.ended.get(run_id)
            over = settled is not None and settled.final
            if not run.steps:  # its end is all that shows
                total += run.seconds
                done += run.seconds * over
                continue
            first = self.began.get(run_id, run.split)
            each = run.seconds / (run.steps - run.split)
            total += each * (run.steps - first)
            step = run.steps if over else self.steps.get(run_id, first)
            done += each * (step - first)
        return done / total if total else 1.0

    def _headline(self) -> str:
        done = self.settled + sum(state.final for state in self.ended.values())
        total = self.settled + len(self.expected)
        known = {run_id: run for run_id, run in self.expected.items() if run.steps}
        steps = {run_id: max(0, self.steps.get(run_id, 0) - run.split) for run_id, run in known.items()}
        spent = sum(run.flops * steps[run_id] / run.steps for run_id, run in known.items())
        whole = sum(run.flops * (1 - run.split / run.steps) for run in known.values())
        text = f"{self.name}  {done}/{total} runs"
        if whole:
            text += f"  {units.si(spent, 'FLOP')} of {units.si(whole, 'FLOP')}"
        left = _left(time.monotonic() - self.clock, self.share)
        return f"{text}  {left} left" if left else text

    def render(self) -> Any:
        """The display: a headline with its bar, then a line per worker."""
        from rich.cells import cell_len
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 2))
        rest = self._headline().removeprefix(f"{self.name}  ")
        name = self.look.text(self.name)
        width = max(4, min(BAR, self.console.width - cell_len(name) - cell_len(rest) - 4))
        head.add_row(name, ProgressBar(total=1.0, completed=self.share, width=width), rest)
        if not self.began:
            return Group(head, Text("  starting workers", style="dim"))
        workers = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        workers.add_column("  worker")
        for title in ("models in one step", "step", "loss", "tok/s", "memory", "left"):
            workers.add_column(title, justify="left" if title.startswith("models") else "right")
        for index, slot in sorted(self.slots.items()):
            steps = self.expected[next(iter(slot.runs))].steps
            losses = [loss for _, loss in slot.runs.values() if loss is not None]
            shared = self._shared(list(slot.runs))
            workers.add_row(
                f"  {self.device} {index}",
                Text(self.look.text(f"{len(slot.runs)}  ({shared})" if shared else str(len(slot.runs)))),
                f"{slot.step}/{steps}" if steps else str(slot.step),
                f"{sum(losses) / len(losses):.3f}" if losses else "",
                units.count(slot.tokens_per_second, 2) if slot.tokens_per_second > 0 else "",
                units.size(slot.memory, 2) if slot.memory else "",
                slot.left(steps) if steps else "",
            )
        return Group(head, workers)

    def _shared(self, run_ids: list[str]) -> str:
        """What all members of a pack have in common of the varying keys."""
        cells = [self.expected[run_id].cell for run_id in run_ids]
        return label({key: value for key, value in cells[0].items() if all(cell.get(key) == value for cell in cells)})


def _left(elapsed: float, share: float) -> str:
    """Time to the end [h:mm:ss] when a share of the work took `elapsed` seconds; empty while that says too little."""
    if share < SURE_SHARE or elapsed < SURE_SECONDS:
        return ""
    return units.duration(elapsed * (1 / share - 1))


@dataclass
class Meter:
    """How much of a corpus is tokenised: one live line on a terminal, a plain one each minute elsewhere.

    Feed it bytes of text and tokens done.
    """

    console: Console
    look: Look

    def __post_init__(self) -> None:
        self.said = time.monotonic()
        self.status: Any = None

    def __enter__(self) -> Meter:
        """Start drawing, on a terminal."""
        if self.console.is_terminal and self.look.unicode:
            self.status = self.console.status("reading", refresh_per_second=REDRAWS)
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; the line goes."""
        if self.status is not None:
            self.status.stop()

    def __call__(self, done: int, tokens: int) -> None:
        """Say it, where it is time to."""
        clock = time.monotonic()
        if clock - self.said < (1 / REDRAWS if self.status is not None else SUMMARY_SECONDS):
            return
        self.said = clock
        line = self.look.text(f"{units.size(done)} of text, {units.count(tokens)} tokens")
        if self.status is not None:
            self.status.update(line)
        else:
            self.console.print(line)
