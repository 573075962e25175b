"""The command line: parse flags, call a command, render, map errors to exit codes. Nothing heavy is imported above."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_args

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from scalectl.commands.fit import Request, Result
    from scalectl.commands.measured import Asked
    from scalectl.commands.sweep import Prepared
    from scalectl.core.cost import Convention
    from scalectl.core.errors import ScalectlError
    from scalectl.executors.drive import Halted
    from scalectl.report.look import Look
    from scalectl.report.views import FitView
    from scalectl.report.views import Flops as FlopsCount

# typer carries its own copy of click and names only the leaf of these in public
UsageProblem: Any = typer.BadParameter.__mro__[1]
CommandProblem: Any = typer.BadParameter.__mro__[2]

_tracebacks = False  # -vv was given
SIGNAL_EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143}


app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The scaling-law laboratory: train a grid of transformers, fit the law, and know how sure it is.",
)

Results = Annotated[
    str | None, typer.Option("--results", metavar="DIR", help="The store [default: $SCALECTL_RESULTS or results].")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file.")]
MaxRuns = Annotated[int | None, typer.Option(help="Allow a grid of more than 100,000 runs.")]
Engine = Annotated[str, typer.Option(metavar="local|slurm|ray", help="Where it trains: here, or on a cluster.")]
Target = Annotated[
    str | None,
    typer.Argument(metavar="[TARGET]", help="A sweep, ref:NAME, or a CSV / Parquet file [default: the last sweep]."),
]
Metric = Annotated[str, typer.Option(help="SPLIT/METRIC, such as held-out/loss.")]
At = Annotated[str, typer.Option(metavar="last|min|mean:K", help="Which evaluation of a run counts.")]
Laws = Annotated[
    list[str] | None, typer.Option("--law", help="power, power+constant, chinchilla, kaplan, ...; may repeat.")
]
Objective = Annotated[str, typer.Option(metavar="huber:DELTA|lad|mse|log-mse|asym:RATIO", help="What a fit minimises.")]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="AXIS=COLUMN", help="N, D, C, L, U, width, depth, S or seed of a file; may repeat."),
]
Where = Annotated[str | None, typer.Option(metavar="EXPR", help="Keep only these rows: 'loss < 3.4 and D > 1e6'.")]
ConventionFlag = Annotated[
    str, typer.Option("--convention", metavar="non_embedding|total|matmul", help="How N counts.")
]
Flops = Annotated[str, typer.Option(metavar="6nd|exact", help="How C counts.")]
Fix = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Hold a parameter; may repeat.")]
Tie = Annotated[list[str] | None, typer.Option(metavar="NAME=OTHER", help="Equal parameters: alpha=beta; may repeat.")]
Weight = Annotated[str | None, typer.Option(metavar="COL", help="How often a row counts.")]
Group = Annotated[str | None, typer.Option(metavar="COL", help="What is resampled together [default: the size].")]
Bootstrap = Annotated[int, typer.Option(help="Resamples for the intervals, 0 for none.")]
Unit = Annotated[str, typer.Option(metavar="size|run|residual", help="What is resampled.")]
Seed = Annotated[int, typer.Option(help="Of the resampling.")]
Level = Annotated[float, typer.Option(help="Confidence of the intervals.")]
Rows = Annotated[int, typer.Option(help="Fit at most so many, spread evenly; 0 for all.")]
BestOver = Annotated[
    str | None, typer.Option(metavar="COL", help="Take the best of a setting at each N and D, such as train.lr.")
]
Everything = Annotated[bool, typer.Option("--all", help="Also runs of earlier versions of the sweep.")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A sweep of the store [default: the most recent].")]


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        int, typer.Option("-v", count=True, show_default=False, help="Twice, -vv: errors with their traceback.")
    ] = 0,
) -> None:
    global _tracebacks
    _tracebacks = verbose > 1
    if version:
        from scalectl import __version__

        print(f"scalectl {__version__}")
        raise typer.Exit


@app.command()
def init(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to write sweep.toml.")] = ".",
) -> None:
    """Write a commented sweep file and say what to type next."""
    from scalectl.commands import init as command

    created = command.run(folder)
    console, look = _stdout()
    console.print(look.text(f"Wrote {created.path}"))
    console.print(look.text(f"Next:  scalectl plan {created.path}    scalectl sweep {created.path}"))


@app.command()
def plan(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped one.")],
    results: Results = None,
    changes: Changes = None,
    max_runs: MaxRuns = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 10 if there is something to train.")
    ] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Measure speed on the devices at hand first.")] = False,
    engine: Engine = "local",
    as_json: Json = False,
) -> None:
    """Show runs, packs, costs and what is done already; trains nothing."""
    from scalectl.commands import plan as command
    from scalectl.commands.sweep import prepare, probed
    from scalectl.report import document, plan_screen, terminal

    _engine(engine)
    prepared = prepare(file, results, changes or (), max_runs=max_runs)
    if probe:
        prepared = probed(prepared, _line, asked=True)
    if engine == "slurm":
        from scalectl.commands import pilots, slurm

        view = command.view(prepared, slurm.view(prepared, slurm.fleet(prepared, pilots.wanted(prepared))))
    elif engine == "ray":
        from scalectl.commands import pilots, ray

        view = command.view(prepared, ray=ray.view(prepared, ray.fleet(prepared, pilots.wanted(prepared))))
    else:
        view = command.view(prepared)
    if as_json:
        print(document.document("plan", view))
    else:
        console, look = _stdout()
        terminal.emit(plan_screen.plan_lines(view, look), console)
    raise typer.Exit(10 if detailed_exitcode and prepared.jobs else 0)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped one.")],
    results: Results = None,
    retry: Annotated[str | None, typer.Option(metavar="failed", help="Also train runs that failed before.")] = None,
    changes: Changes = None,
    max_runs: MaxRuns = None,
    engine: Engine = "local",
    detach: Annotated[
        bool, typer.Option("--detach", help="Train in the background; scalectl stop NAME ends it.")
    ] = False,
    in_background: Annotated[bool, typer.Option("--in-background", hidden=True)] = False,
) -> None:
    """Make the results match the plan: train what is missing."""
    from scalectl.commands import sweep as command

    if _engine(engine) == "slurm" and detach:
        raise typer.BadParameter("--detach is for this machine and for Ray; jobs of Slurm go on by themselves")
    if retry not in (None, "failed"):
        raise typer.BadParameter(f"{retry!r} is not known; use --retry failed")
    prepared = command.prepare(file, results, changes or (), max_runs=max_runs, retry_failed=retry == "failed")
    console, look = _stdout()
    for damaged in prepared.damaged:
        _line(f"warning: {damaged}; the run is trained again")
    for warning in (
        *command.plan_warnings(prepared),
        prepared.edited,
        *prepared.changes,
        command.unchecked(prepared),
    ):
        if warning:
            _line(f"warning: {warning}")
    if engine == "slurm":
        _sweep_on_slurm(prepared, retry=retry == "failed", max_runs=max_runs)
    if engine == "ray" and not detach:
        _sweep_on_ray(prepared, retry=retry == "failed", max_runs=max_runs)
    if not prepared.jobs and not prepared.orphans:
        command.record_plan(prepared)
        console.print(look.text(_nothing_to_do(prepared)))
        raise typer.Exit(75 if prepared.elsewhere else 1 if prepared.waiting else 0)
    if detach:
        for line in _detached(prepared, file, results, retry, changes or (), max_runs, engine):
            console.print(look.text(line))
        raise typer.Exit
    for holder, job in prepared.orphans:
        _line(f"process {holder.pid} goes on with {len(job.runs)} of the runs; it is taken over")
    if going_on := command.resumed(prepared):
        _line(going_on)
    command.check_budget(prepared, hours=False)  # before minutes of measuring, which change nothing of it
    prepared = command.probed(prepared, _line)
    progress = command.progress(prepared, *_console(sys.stderr))
    signals = _Signals(lambda count: progress.say(_stopping(count, len(progress.running))))
    halted = None
    with progress:
        for event in command.execute(prepared, lambda: signals.count, detached=in_background):
            halted = command.tell(progress, event) or halted
    _conclude(prepared, halted, signals.first)


def _conclude(prepared: Prepared, halted: Halted | None, stopped: signal.Signals | None = None) -> NoReturn:
    """Say how a sweep stands, and what next. stopped: the signal that ended it."""
    from scalectl.commands import sweep as command

    console, look = _stdout()
    outcome = command.outcome(prepared)
    for note in outcome.notes:
        _line(f"warning: {note}")
    if halted is not None:
        _line(f"error: {halted.why}")
    console.print(look.text(outcome.sentence))
    if stopped is not None:
        raise typer.Exit(SIGNAL_EXIT[stopped])
    if halted is not None:
        raise typer.Exit(halted.exit_code)
    if outcome.complete and not outcome.any_done:
        console.print(look.text("Every run diverged: lower train.lr, or lengthen train.warmup"))
    elif outcome.complete:
        console.print(look.text(f"Next:  scalectl fit {prepared.sweep.name}    scalectl report {prepared.sweep.name}"))
    raise typer.Exit(outcome.exit_code)


def _engine(name: str) -> str:
    if name not in ("local", "slurm", "ray"):
        raise typer.BadParameter(f"--engine {name!r} is not known; use local, slurm or ray")
    return name


def _sweep_on_slurm(prepared: Prepared, *, retry: bool, max_runs: int | None) -> NoReturn:
    """Hand a sweep to a cluster and follow it; to leave it is not to stop it."""
    from scalectl.commands import pilots, slurm
    from scalectl.commands import sweep as command
    from scalectl.commands.pilots import Said

    held = slurm.fleet(prepared, pilots.wanted(prepared))
    prepared = _following(prepared, held.tasks * held.slots)
    console, look = _stdout()
    name = prepared.sweep.name
    progress = command.progress(prepared, *_console(sys.stderr))
    signals = _Signals(lambda count: progress.say("Leaving: the jobs go on.") if count == 1 else None)
    halted = None
    with progress:
        for event in slurm.watch(prepared, lambda: signals.count, retry=retry, max_runs=max_runs):
            if isinstance(event, Said):
                progress.say(event.text, event.style)
            else:
                halted = command.tell(progress, event) or halted
    if signals.first is not None:
        console.print(look.text(f"{name} goes on without this terminal; the same command follows it again."))
        console.print(look.text(f"Next:  scalectl status {name}    scalectl stop {name}"))
        raise typer.Exit(SIGNAL_EXIT[signals.first])
    _conclude(prepared, halted)


def _sweep_on_ray(prepared: Prepared, *, retry: bool, max_runs: int | None) -> NoReturn:
    """Train a sweep on a Ray cluster; to leave it is to stop it."""
    from scalectl.commands import pilots, ray
    from scalectl.commands import sweep as command
    from scalectl.commands.pilots import Said

    held = ray.fleet(prepared, pilots.wanted(prepared))
    prepared = _following(prepared, held.pilots * held.slots)
    cluster = ray.join(prepared)
    progress = command.progress(prepared, *_console(sys.stderr))
    # after joining: Ray has handlers of its own
    signals = _Signals(lambda count: progress.say(_stopping(count, len(progress.running))))
    halted = None
    try:
        with progress:
            for event in ray.watch(prepared, cluster, lambda: signals.count, retry=retry, max_runs=max_runs):
                if isinstance(event, Said):
                    progress.say(event.text, event.style)
                else:
                    halted = command.tell(progress, event) or halted
    finally:
        cluster.close()
    _conclude(prepared, halted, signals.first)


def _following(prepared: Prepared, slots: int) -> Prepared:
    """The sweep as one that a cluster trains; ends here if it has nothing to train."""
    from scalectl.commands import pilots
    from scalectl.commands import sweep as command

    prepared = pilots.following(prepared, slots)
    if prepared.jobs:
        return prepared
    command.record_plan(prepared)
    console, look = _stdout()
    console.print(look.text(_nothing_to_do(prepared)))
    raise typer.Exit(1 if prepared.waiting else 0)


@app.command(hidden=True)
def pilot(
    record: Annotated[str, typer.Argument(metavar="RECORD.json", help="Of the submission, in the sweep's folder.")],
    parent: Annotated[int | None, typer.Option(hidden=True, help="Process to die with.")] = None,
) -> None:
    """Train what a sweep has left, as a job of a cluster."""
    from scalectl.commands import pilots
    from scalectl.commands import sweep as command
    from scalectl.core.family import die_with
    from scalectl.executors.submission import AGAIN

    if parent is not None:
        die_with(parent)
    signals = _Signals(lambda count: _line("Stopping: the runs checkpoint.") if count == 1 else None)
    halted = None
    while True:
        prepared = pilots.duty(record, _line)
        left = sum(len(job.runs) for job in prepared.jobs)
        _line(f"{prepared.sweep.name}: {left} runs left, {len(prepared.at.places)} slots")
        if prepared.jobs:
            progress = command.progress(prepared, *_console(sys.stderr))
            with progress:
                for event in command.execute(prepared, lambda: min(1, signals.count), record=False):
                    halted = command.tell(progress, pilots.quiet(event)) or halted
        if halted is not None or signals.count or not pilots.freed(prepared, lambda: signals.count):
            break
    if halted is not None:
        _line(f"error: {halted.why}")
        raise typer.Exit(halted.exit_code)
    raise typer.Exit(AGAIN if signals.count and pilots.unfinished(prepared) else 0)


def _detached(
    prepared: Prepared,
    file: str,
    results: str | None,
    retry: str | None,
    changes: Sequence[str],
    max_runs: int | None,
    engine: str,
) -> tuple[str, str]:
    from scalectl.commands.background import detach
    from scalectl.core.units import duration

    arguments = [file, *(f"--set={change}" for change in changes)]
    arguments += [f"--results={results}"] * (results is not None) + [f"--retry={retry}"] * (retry is not None)
    arguments += [f"--max-runs={max_runs}"] * (max_runs is not None) + [f"--engine={engine}"] * (engine != "local")
    local, name = engine == "local", prepared.sweep.name
    started = detach(prepared, arguments, hours=local or not prepared.sweep.ray.gpus)
    runs = sum(len(job.runs) for job in (*prepared.jobs, *(job for _, job in prepared.orphans)))
    time = f"about {duration(prepared.seconds)}" if prepared.timed else "time unknown"
    where = f"in the background, {time}" if local else "on Ray, from the background"
    others = len(prepared.elsewhere) - sum(len(job.runs) for _, job in prepared.orphans)
    beside = f" Another process trains {others} more, on the same cores." if others > 0 and local else ""
    return (
        f"Process {started.pid} trains {runs} runs {where}.{beside}",
        f"Next:  scalectl status {name} --watch    scalectl stop {name}",
    )


@app.command()
def stop(
    name: Name = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Checkpoint and end what trains a sweep on this machine."""
    from scalectl.commands import background as command
    from scalectl.report import document

    found = command.stop(name, results, _line)
    if as_json:
        print(document.document("stop", found))
    else:
        console, look = _stdout()
        counts = ", ".join(f"{number} {state}" for state, number in found.counts.items()) or "no run is known"
        what = f"Stopped {found.name}: {counts}." if found.processes else f"Nothing trains {found.name} here: {counts}."
        console.print(look.text(what))
        for host in found.elsewhere:
            console.print(look.text(f"{host} trains some of its runs; stop them there"), style="yellow")
    raise typer.Exit(75 if found.elsewhere else 0)


def _stopping(count: int, running: int) -> str:
    from scalectl.core.units import counted

    if count > 1:
        return "Killed. The runs go on from their last checkpoints."
    what = f"{counted(running, 'run')} will checkpoint" if running else "no run has begun"
    return f"Stopping: {what} (Ctrl-C again to kill)."


def _nothing_to_do(prepared: Prepared) -> str:
    name, total = prepared.sweep.name, len(prepared.plan)
    if prepared.elsewhere:
        return (
            f"Nothing to start: {prepared.settled}/{total} done, {len(prepared.elsewhere)} trained by another process."
        )
    if prepared.waiting:
        failed = len(prepared.waiting)
        return f"{prepared.settled}/{total} done, {failed} failed.  Next:  scalectl status {name}, sweep --retry failed"
    diverged = prepared.diverged
    among = f", {diverged} of them diverged" if diverged else ""
    return f"Nothing to do: {prepared.settled}/{total} done{among}.  Next:  scalectl fit {name}"


@app.command()
def status(
    name: Name = None,
    results: Results = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only runs that failed, diverged or were lost.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until nothing is being trained any more.")] = False,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Show the truth about each run, even after a crash."""
    from scalectl.commands import status as command
    from scalectl.commands.target import find_target
    from scalectl.report import document, plan_screen, terminal

    if watch and as_json:
        raise typer.BadParameter("--watch draws, and --json is one document; give one")
    if watch:
        _watch(name, results, failed, everything)
        return
    view = command.run(name, results, failed=failed, everything=everything)
    if as_json:
        print(document.document("status", view))
        return
    console, look = _stdout()
    opening = find_target(name, results).opening
    if opening:
        console.print(look.text(opening), style="dim")
    terminal.emit(plan_screen.status_lines(view, look), console)


def _watch(name: str | None, results: str | None, failed: bool, everything: bool) -> None:
    """On a terminal a screen that is drawn anew each second, elsewhere a line for each change of a state."""
    import time

    from scalectl.commands import status as command
    from scalectl.report import plan_screen, terminal

    console, look = _stdout()
    drawn = console.is_terminal and look.unicode
    before: dict[str, str] = {}
    while True:
        view = command.run(name, results, failed=failed, everything=everything)
        now = {row.run_id: f"{row.state}  {row.message}".rstrip() for row in view.rows}
        if drawn:
            console.clear()
            terminal.emit(plan_screen.status_lines(view, look), console)
        else:
            gone = {run_id: "done" for run_id in before if run_id not in now and not failed}
            for run_id, said in {**now, **gone}.items():
                if before.get(run_id) != said:
                    console.print(look.text(f"{run_id[:6]}  {said}"))
            sys.stdout.flush()
        before = now
        if not command.going(view, results):
            return
        time.sleep(1.0)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or the beginning of one.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Show the log and the error of one run."""
    from scalectl.commands import status as command
    from scalectl.report import document

    found = command.logs(run, results)
    if as_json:
        print(document.document("logs", found))
        return
    console, look = _stdout()
    for line, style in command.log_lines(found):
        console.print(look.text(line), style=style)
    for line in found.log.splitlines():
        console.print(look.text(line))


@app.command()
def fit(
    target: Target = None,
    results: Results = None,
    metric: Metric = "held-out/loss",
    at: At = "last",
    law: Laws = None,
    objective: Objective = "huber:1e-3",
    maps: Maps = None,
    where: Where = None,
    by: Annotated[str | None, typer.Option(metavar="COL", help="One fit for each value of a column.")] = None,
    best_over: BestOver = None,
    convention: ConventionFlag = "non_embedding",
    flops: Flops = "6nd",
    fix: Fix = None,
    tie: Tie = None,
    weight: Weight = None,
    group: Group = None,
    bootstrap: Bootstrap = 1000,
    rows: Rows = 1000,
    unit: Unit = "size",
    seed: Seed = 0,
    level: Annotated[
        float | None, typer.Option(help="Confidence of the intervals [default: 0.95, of a score 0.9].")
    ] = None,
    holdout: Annotated[
        str,
        typer.Option(metavar="largest|rollout|EXPR", help="What to predict without; rollout: each step up in turn."),
    ] = "largest",
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="Residuals, and the law without each size and run.")
    ] = False,
    profiled: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="Draw how the objective rises about a parameter.")
    ] = None,
    approach: Annotated[
        str | None, typer.Option(metavar="1|2|3|all", help="Envelope, isoFLOP parabolas, joint fit: N* ~ C^a of each.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="published", help="Beside what was published about a ref:NAME.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="law|score", help="What the metric is [default: by its name].")
    ] = None,
    axis: Annotated[str, typer.Option(metavar="N|C|D|step|loss", help="Of a score: what it rises along.")] = "N",
    items: Annotated[
        str | None, typer.Option(metavar="COL|NUMBER", help="Of a score: how many items it is a share of.")
    ] = None,
    chance: Annotated[str | None, typer.Option(metavar="COL|VALUE", help="Of a score: what guessing gets.")] = None,
    floor: Annotated[
        str | None,
        typer.Option(
            metavar="auto|VALUE",
            help="Of a score: no ability; auto: the two smallest sizes [default: chance, else auto].",
        ),
    ] = None,
    twin: Annotated[
        str | None, typer.Option(metavar="COL", help="Of a score: a continuous metric beside it, such as a log-prob.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Simulate how often scores are called jumps, rightly and wrongly.")
    ] = False,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Fit scaling laws to losses, and thresholds to scores, with an interval on everything."""
    if calibrate:
        raise typer.Exit(_calibrate(seed, as_json))
    from scalectl.commands import fit as command
    from scalectl.report import document, fit_screen, terminal

    if approach not in (None, "1", "2", "3", "all"):
        raise typer.BadParameter(f"--approach {approach!r} is not known; use 1, 2, 3 or all")
    if against not in (None, "published"):
        raise typer.BadParameter(f"--against {against!r} is not known; use published")
    law = law or (["chinchilla"] if approach else None)
    sure = 0.95 if level is None else level
    request = _request(
        target, results, metric, at, law, objective, maps, where, convention, flops, fix, tie, weight, group,
        bootstrap, unit, seed, sure, everything, holdout, best_over=best_over, rows=rows,
    )  # fmt: skip
    if kind not in (None, "law", "score"):
        raise typer.BadParameter(f"--kind {kind!r} is not known; use law or score")
    if kind == "score" or (kind is None and command.means_score(request)):
        from scalectl.commands.measured import Asked

        of_laws = {"--approach": approach, "--against": against, "--profile": profiled, "--diagnostics": diagnostics}
        foreign = tuple(flag for flag, given in of_laws.items() if given)
        asked = Asked(axis, by, items, chance, floor, twin, Asked.level if level is None else level, foreign)  # type: ignore[arg-type]
        raise typer.Exit(_thresholds(request, asked, as_json))

    def made(result: Result) -> FitView:
        view = command.view(result, diagnostics=diagnostics, profiled=profiled, level=sure)
        if not approach and not against:
            return view
        from scalectl.commands.beside import beside

        return beside(view, request, result, approach=approach, against=against is not None)

    found = command.run_one(request, made) if by is None else command.run_by(request, by, made)
    if as_json:
        print(document.fit_document(found.views, {name: str(error) for name, error in found.refused.items()}))
    else:
        console, look = _stdout()
        for name, view in found.views.items():
            if name:
                console.print(look.text(name), style="bold")
            terminal.emit(fit_screen.fit_lines(view, look), console)
    for name, error in found.refused.items():
        _report_error(error, f"{name}: ")
    raise typer.Exit(0 if found.usable else 1)


def _thresholds(request: Request, asked: Asked, as_json: bool) -> int:
    """Thresholds of scores; the exit code is 1 where nothing can be said of any task."""
    from scalectl.commands import score
    from scalectl.report import document, score_screen, terminal

    view = score.run(request, asked)
    if as_json:
        print(document.threshold_document(view))
    else:
        console, look = _stdout()
        terminal.emit(score_screen.threshold_lines(view, look), console)
    return 0 if view.usable else 1


def _calibrate(seed: int, as_json: bool) -> int:
    """Error rates of the detector; the exit code is 1 where one misses its goal."""
    from scalectl.emergence.calibrate import DISPERSIONS, FLOORS, KINDS, calibrate
    from scalectl.report import document, score_screen, terminal

    found = []
    for rates in calibrate(seed=seed, workers=min(4, len(os.sched_getaffinity(0)))):
        found.append(rates)
        of = len(KINDS) * len(DISPERSIONS) * len(FLOORS)
        _line(f"{len(found)}/{of}  {rates.kind}, φ = {rates.dispersion:g}, floor {rates.floor_from}")
    if as_json:
        print(document.document("calibration", {"kinds": found}))
    else:
        console, look = _stdout()
        terminal.emit(score_screen.calibration_lines(found, look), console)
    return 0 if all(rates.met for rates in found) else 1


@app.command()
def predict(
    target: Target = None,
    N: Annotated[str | None, typer.Option("--n", metavar="PARAMETERS", help="Loss at this N: 1e9, 70M.")] = None,
    D: Annotated[str | None, typer.Option("--d", metavar="TOKENS", help="Loss at this D.")] = None,
    C: Annotated[
        str | None, typer.Option("--c", metavar="FLOP", help="Compute-optimal N and D at this budget.")
    ] = None,
    loss: Annotated[
        float | None, typer.Option("--loss", help="What this loss costs [nats/token], or the score at it.")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Option("--with", metavar="AXIS=VALUE", help="U, width or depth; may repeat.")
    ] = None,
    results: Results = None,
    metric: Metric = "held-out/loss",
    at: At = "last",
    law: Laws = None,
    objective: Objective = "huber:1e-3",
    maps: Maps = None,
    where: Where = None,
    best_over: BestOver = None,
    convention: ConventionFlag = "non_embedding",
    flops: Flops = "6nd",
    fix: Fix = None,
    tie: Tie = None,
    weight: Weight = None,
    group: Group = None,
    bootstrap: Bootstrap = 1000,
    rows: Rows = 1000,
    unit: Unit = "size",
    seed: Seed = 0,
    level: Level = 0.95,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Predict losses, compute-optimal sizes and costs."""
    from scalectl.commands import fit as command
    from scalectl.core.units import quantity
    from scalectl.report import document, fit_screen, terminal

    request = _request(
        target, results, metric, at, law, objective, maps, where, convention, flops, fix, tie, weight, group,
        bootstrap, unit, seed, level, everything, best_over=best_over, rows=rows,
    )  # fmt: skip
    view = command.predict(
        request,
        N=None if N is None else quantity(N),
        D=None if D is None else quantity(D),
        C=None if C is None else quantity(C),
        loss=loss,
        others=command.further(others or ()),
    )
    if as_json:
        print(document.document("predict", view))
        return
    console, look = _stdout()
    terminal.emit(fit_screen.predict_lines(view, look), console)


@app.command()
def backtest(
    target: Target = None,
    results: Results = None,
    metric: Metric = "held-out/loss",
    at: At = "last",
    law: Laws = None,
    objective: Objective = "huber:1e-3",
    maps: Maps = None,
    where: Where = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COL", help="Each value is a curve; may repeat [default: whatever varies]."),
    ] = None,
    axis: Annotated[
        str | None, typer.Option(metavar="N|D|C", help="What curves go along [default: what varies].")
    ] = None,
    early: Annotated[float, typer.Option(help="Share of a curve's places that is fitted.")] = 0.5,
    each_run: Annotated[
        bool, typer.Option("--each-run", help="The evaluations of every run over its tokens are a curve.")
    ] = False,
    convention: ConventionFlag = "non_embedding",
    flops: Flops = "6nd",
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Fit laws to the early part of many curves and score them on the rest."""
    from scalectl.commands import backtest as command
    from scalectl.report import backtest_screen, document, terminal

    request = _request(
        target, results, metric, at, law, objective, maps, where, convention, flops, None, None, None, None, 0, "size",
        0, 0.95, everything,
    )  # fmt: skip
    view = command.run(request, axis=axis, by=by or (), early=early, each_run=each_run)
    if as_json:
        print(document.document("backtest", view))
        return
    console, look = _stdout()
    terminal.emit(backtest_screen.backtest_lines(view, look), console)


@app.command()
def compare(
    target: Annotated[str, typer.Argument(metavar="A", help="A sweep, ref:NAME, or a CSV / Parquet file.")],
    other: Annotated[str | None, typer.Argument(metavar="[B]", help="What to compare with A.")] = None,
    by: Annotated[str | None, typer.Option(metavar="COL", help="Compare the values of a column of A.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="VALUE", help="The value of COL to compare with [default: the first].")
    ] = None,
    axis: Annotated[str, typer.Option(metavar="C|N|D", help="What is saved.")] = "C",
    losses: Annotated[
        list[float] | None, typer.Option("--loss", help="Where to state the saving [nats/token]; may repeat.")
    ] = None,
    claim: Annotated[float, typer.Option(help="The saving whose proof is to be planned.")] = 0.02,
    results: Results = None,
    metric: Metric = "held-out/loss",
    at: At = "last",
    law: Laws = None,
    objective: Objective = "huber:1e-2",
    maps: Maps = None,
    where: Where = None,
    best_over: BestOver = None,
    convention: ConventionFlag = "non_embedding",
    flops: Flops = "exact",
    fix: Fix = None,
    bootstrap: Bootstrap = 1000,
    rows: Rows = 1000,
    unit: Unit = "size",
    seed: Seed = 0,
    level: Level = 0.95,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Say how much compute B saves over A, with an interval."""
    from scalectl.commands import compare as command
    from scalectl.report import compare_screen, document, terminal

    request = _request(
        target, results, metric, at, law, objective, maps, where, convention, flops, fix, None, None, None, bootstrap,
        unit, seed, level, everything, best_over=best_over, rows=rows,
    )  # fmt: skip
    if axis not in get_args(command.Axis):
        raise typer.BadParameter(f"--axis {axis!r} is not known; use {', '.join(get_args(command.Axis))}")
    asked = command.Asked(other=other, by=by, base=base, axis=axis, losses=tuple(losses or ()), claim=claim)  # type: ignore[arg-type]
    view = command.run(request, asked)
    if as_json:
        print(document.document("compare", view))
        return
    console, look = _stdout()
    terminal.emit(compare_screen.compare_lines(view, look), console)


@app.command()
def report(
    name: Name = None,
    results: Results = None,
    convention: ConventionFlag = "non_embedding",
    flops: Flops = "6nd",
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    level: Level = 0.95,
    everything: Everything = False,
    as_json: Json = False,
) -> None:
    """Show everything known about a sweep."""
    from scalectl.commands import fit as fitting
    from scalectl.commands import report as command
    from scalectl.commands.target import find_target
    from scalectl.core.machine import keep_freed_memory
    from scalectl.report import document, report_screen, terminal
    from scalectl.report.build import build_report

    keep_freed_memory()
    request = fitting.Request(
        target=name,
        results=results,
        convention=_convention(convention),
        flops=_flops(flops),
        draws=bootstrap,
        seed=seed,
        level=level,
        all=everything,
    )
    view = command.run(request)
    if as_json:
        print(document.document("report", view))
        return
    console, look = _stdout()
    opening = find_target(name, results).opening
    if opening and not view.reference:  # the report says by itself that its results are shipped ones
        console.print(look.text(opening), style="dim")
    terminal.emit(report_screen.report_lines(build_report(view), look), console)


@app.command("import")
def bring(
    source: Annotated[str, typer.Argument(metavar="FILE|DIR", help="A CSV or Parquet table, or another store.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new sweep [default: the file's].")] = None,
    maps: Maps = None,
    where: Where = None,
    convention: ConventionFlag = "non_embedding",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Bring in other people's runs, or merge another machine's store."""
    from scalectl.commands import exchange as command
    from scalectl.report import document

    found = command.bring(source, results, name=name, maps=maps or (), where=where, convention=_convention(convention))
    if as_json:
        print(document.document("import", found))
        return
    console, look = _stdout()
    sweeps = ", ".join(found.sweeps) or "no new sweep"
    console.print(look.text(f"{found.runs} runs, {found.known} known before; {sweeps}"))
    for note in found.notes:
        console.print(look.text(note), style="dim")
    if found.sweeps:
        console.print(look.text(f"Next:  scalectl fit {found.sweeps[0]}"))


@app.command()
def evaluate(
    name: Name = None,
    source: Annotated[
        str | None, typer.Option("--on", metavar="SOURCE", help="As data.source: python-packages, text:PATH, ...")
    ] = None,
    called: Annotated[str | None, typer.Option("--as", metavar="SET", help="What the data are called.")] = None,
    tokens: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="Held-out tokens of it to judge on [default: as many as in training]."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda:INDEX", help="[default: a GPU if there is one]")
    ] = None,
    everything: Everything = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Judge finished runs on further data, without training them again."""
    from scalectl.commands import evaluate as command
    from scalectl.core.units import count, counted, quantity
    from scalectl.report import document

    most = None if tokens is None else round(quantity(tokens))
    found = command.run(
        name, results, _line, source=source, name=called, tokens=most, device=device, everything=everything
    )
    if as_json:
        print(document.document("evaluate", found))
        return
    console, look = _stdout()
    before = f", {found.known} before" if found.known else ""
    low, high = (f"{loss:.3f}" for loss in found.losses)
    span = low if low == high else f"{low} … {high}"
    data = f"{count(found.tokens)} held-out tokens of {found.source}"
    console.print(look.text(f"{counted(found.judged, 'run')} judged{before}: {found.set}/loss {span} on {data}"))
    if found.without:
        what = f"{counted(found.without, 'run')} kept no parameters ([runtime] keep = true keeps them)"
        console.print(look.text(what), style="yellow")
    console.print(look.text(f"Next:  scalectl fit {found.sweep} --metric {found.set}/loss"))


@app.command()
def export(
    name: Name = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A .parquet or .csv file.")] = None,
    long: Annotated[bool, typer.Option("--long", help="One row per measurement, not per run.")] = False,
    everything: Everything = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Write a sweep's runs with their provenance to one file."""
    from scalectl.commands import exchange as command
    from scalectl.report import document

    found = command.take_out(name, results, output, long=long, everything=everything)
    if as_json:
        print(document.document("export", found))
        return
    console, look = _stdout()
    console.print(look.text(f"Wrote {found.rows} rows to {found.path}"))


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="As data.source: text:PATH, parquet:PATH#COLUMN, hf:NAME, ...")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH.bin", help="The token file [default: SOURCE's name].")
    ] = None,
    tokenizer: Annotated[str, typer.Option(metavar="PATH.json|bytes", help="A `tokenizers` JSON file.")] = "bytes",
    train_tokenizer: Annotated[
        int | None, typer.Option(metavar="VOCAB", help="Train a byte-level BPE of so many symbols first.")
    ] = None,
    config: Annotated[str, typer.Option(help="Of hf:NAME.")] = "",
    split: Annotated[str, typer.Option(help="Of hf:NAME.")] = "train",
    revision: Annotated[str, typer.Option(help="Of hf:NAME.")] = "",
    as_json: Json = False,
) -> None:
    """Tokenise a corpus once, so that sweeps run offline."""
    from scalectl.commands import prepare as command
    from scalectl.core.units import count, size
    from scalectl.report import document
    from scalectl.report.progress import Meter

    if train_tokenizer is not None and tokenizer != "bytes":
        raise typer.BadParameter("--tokenizer and --train-tokenizer are two tokenisers; give one")
    with Meter(*_console(sys.stderr)) as meter:
        found = command.run(
            source, output, tokenizer=tokenizer, train_vocab=train_tokenizer, config=config, split=split,
            revision=revision, seen=meter,
        )  # fmt: skip
    if as_json:
        print(document.document("prepare", found))
        return
    console, look = _stdout()
    held = f"{count(found.train_tokens)} tokens to train on, {count(found.held_out_tokens)} held out"
    kept = "no bits per byte: the tokeniser does not keep text whole"
    per_token = kept if found.bytes_per_token is None else f"{found.bytes_per_token:.2f} bytes a token"
    console.print(look.text(f"{'Wrote' if found.fresh else 'Up to date:'} {found.path}, {size(found.size)}: {held}"))
    console.print(look.text(f"{found.documents} documents, vocabulary {found.vocab} ({found.tokenizer}), {per_token}"))
    console.print(look.text(f'In the sweep file:  [data] source = "{found.source}"'))


@app.command()
def doctor(
    results: Results = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Verify every file and make the index again.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="Put right what killed processes left behind.")] = False,
    as_json: Json = False,
) -> None:
    """Check the environment, the devices and the store."""
    from scalectl.commands import doctor as command
    from scalectl.report import document

    found = command.run(results, remake=rebuild, mend=mend)
    if as_json:
        print(document.document("doctor", found))
    else:
        console, look = _stdout()
        for check in found.checks:
            sign = "✔" if check.ok else "✘"
            console.print(look.text(f"{sign} {check.name:<9} {check.found}"), style="" if check.ok else "red")
            if not check.ok and check.remedy:
                console.print(look.text(f"  {check.remedy}"), style="yellow")
    raise typer.Exit(5 if found.damaged else 0)


@app.command()
def clean(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A sweep [default: the whole store].")] = None,
    results: Results = None,
    policy: Annotated[
        str,
        typer.Option(
            "--checkpoints",
            metavar="stale|failed|all",
            help="Of runs that no sweep asks for; of failed ones too; of all that nobody trains.",
        ),
    ] = "stale",
    older: Annotated[float, typer.Option(metavar="DAYS", help="Only what nobody has touched for so long.")] = 0.0,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Also what [runtime] keep = true kept of finished runs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove checkpoints by policy, and what killed processes left."""
    from scalectl.commands import clean as command
    from scalectl.core.units import counted, size
    from scalectl.report import document

    if policy not in get_args(command.Policy):
        raise typer.BadParameter(f"--checkpoints {policy!r} is not known; use {', '.join(get_args(command.Policy))}")
    found = command.run(name, results, policy, older=older, parameters=parameters, dry=dry_run)  # type: ignore[arg-type]
    if as_json:
        print(document.document("clean", found))
        return
    console, look = _stdout()
    for held in found.removed:
        console.print(look.text(f"  {held.what}  {held.why}  {size(held.size)}"))
    for note in found.notes:
        _line(f"warning: {note}")
    verb = "Would remove" if dry_run else "Removed"
    kept = f"; {counted(found.kept, 'run')} in flight kept, {found.busy} being trained" if found.kept else ""
    console.print(look.text(f"{verb} {counted(len(found.removed), 'item')}, {size(found.size)}{kept}"))


def _request(
    target: str | None,
    results: str | None,
    metric: str,
    at: str,
    laws: list[str] | None,
    objective: str,
    maps: list[str] | None,
    where: str | None,
    convention: str,
    flops: str,
    fix: list[str] | None,
    tie: list[str] | None,
    weight: str | None,
    group: str | None,
    draws: int,
    unit: str,
    seed: int,
    level: float,
    everything: bool,
    holdout: str = "largest",
    rows: int = 1000,
    best_over: str | None = None,
) -> Request:
    from scalectl.commands.fit import Request
    from scalectl.core.machine import keep_freed_memory
    from scalectl.fit.bootstrap import Unit as Units

    keep_freed_memory()
    if draws < 0:
        raise typer.BadParameter("--bootstrap is a number of draws, 0 for none")
    if not 0 < level < 1:
        raise typer.BadParameter(f"--level {level} is not between 0 and 1")
    if unit not in get_args(Units):
        raise typer.BadParameter(f"--unit {unit!r} is not known; use {', '.join(get_args(Units))}")
    return Request(
        target=target,
        results=results,
        metric=metric,
        at=at,
        laws=tuple(laws or ()),
        objective=objective,
        maps=tuple(maps or ()),
        where=where,
        convention=_convention(convention),
        flops=_flops(flops),
        fix=tuple(fix or ()),
        tie=tuple(tie or ()),
        weight=weight,
        group=group,
        draws=draws,
        unit=unit,  # type: ignore[arg-type]
        seed=seed,
        level=level,
        holdout=holdout,
        rows=rows,
        best_over=best_over,
        all=everything,
    )


def _flops(text: str) -> FlopsCount:
    from scalectl.report.views import Flops

    for way in get_args(Flops):
        if text == way:
            found: FlopsCount = way
            return found
    raise typer.BadParameter(f"--flops {text!r} is not known; use {', '.join(get_args(Flops))}")


def _convention(text: str) -> Convention:
    from scalectl.core.cost import CONVENTIONS

    for convention in CONVENTIONS:
        if text == convention:
            return convention
    raise typer.BadParameter(f"--convention {text!r} is not known; use {', '.join(CONVENTIONS)}")


def main() -> NoReturn:
    """Run the command line and exit: errors in at most three lines, a code for each kind."""
    from scalectl.core.errors import ScalectlError

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(SIGNAL_EXIT[signal.Signals(number)]))
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except ScalectlError as error:
        code = _failed(error)
    except typer.Abort:
        code = 130
    except CommandProblem as error:
        _line(f"error: {error.format_message()}")
        if isinstance(error, UsageProblem) and error.ctx is not None:
            _line(f"  {error.ctx.command_path} --help shows the usage")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # the reader left; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _failed(_refused(error))
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: ScalectlError) -> int:
    """Say what ended the command. Returns: its exit code."""
    if _tracebacks:
        import traceback

        _line("".join(traceback.format_exception(error)))
    return _report_error(error)


def _refused(error: OSError) -> ScalectlError:
    """What the system refused where nobody expected it: most often a file or folder of another user."""
    from scalectl.core.errors import BudgetRefused, StoreError, disk_is_full

    kind = BudgetRefused if disk_is_full(error) else StoreError
    found = kind(
        f"the system refused it: {error.strerror or error}",
        where=None if error.filename is None else str(error.filename),
        remedy="see who may read and write there, and what space is left; scalectl -vv COMMAND shows where it happened",
    )
    found.__cause__ = error
    return found


def _report_error(error: ScalectlError, of: str = "") -> int:
    from scalectl.core.errors import SweepFileError
    from scalectl.report.problems import hung, lines

    width = _console(sys.stderr)[1].width
    if isinstance(error, SweepFileError):
        said = lines(error, width)
    else:
        said = hung(f"error: {of}{error.what}", width)
        said += [f"  {line}" for part in (error.where, error.remedy) if part for line in hung(part, width - 2)]
    for text in said:
        _line(text)
    return error.exit_code


def _line(text: str) -> None:
    print(_harmless(text), file=sys.stderr)


def _harmless(text: str) -> str:
    from scalectl.report.look import harmless

    return "\n".join(harmless(line) for line in text.split("\n"))


def _stdout() -> tuple[Console, Look]:
    return _console(sys.stdout)


def _console(file: Any) -> tuple[Console, Look]:
    from scalectl.report.look import look_of, open_console

    console = open_console(file, os.environ)
    return console, look_of(console, os.environ)


class _Signals:
    """Counts requests to stop: one asks for checkpoints, two kill."""

    def __init__(self, announce: Callable[[int], None]) -> None:
        self.count = 0
        self.first: signal.Signals | None = None
        self.announce = announce
        for number in SIGNAL_EXIT:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or signal.Signals(number)
        self.announce(self.count)


if __name__ == "__main__":
    main()
