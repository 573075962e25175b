"""What to do next, as a closed list: what was seen, the likely cause, the flag or sweep change that helps.

Every rule is a function of `Facts` in `RULES`, in the order in which a reader should act. Nothing advises elsewhere,
but for the sentence that a fit itself carries about its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scalectl.core.job import State
from scalectl.core.units import percent
from scalectl.emergence.detector import NEAR_SEEDS
from scalectl.fit.summary import Summary

# Sizes below which a slope has no interval over sizes worth the name. Source: ours; a line through two points has no
# residual, and resampling two of them returns the line or a single point.
FEWEST_SIZES = 3
# Span of sizes below which an exponent says little. Source: ours; at one decade of N and an exponent near .08 the loss
# changes by 17 %, at a third of a decade by 6 %, the order of a badly tuned learning rate.
SHORTEST_SPAN = 10.0
# Misfit beyond so many times the noise of a size mean is the law's. Source: ours; with five sizes and two parameters
# pure noise exceeds a ratio of 1.6 once in twenty (chi-squared with 3 degrees of freedom), of 2 once in a hundred.
CLEARLY = 2.0
# Held-out error above which extrapolating is discouraged. Source: ours; at an exponent of .08 a loss that is 2 % off is
# a model size that is 28 % off.
POOR_HOLDOUT = 0.02
# Share of starts that should meet in one optimum. Source: ours; below it the best of the others may be luck.
FEW_STARTS = 0.5


@dataclass(frozen=True)
class Advice:
    """seen: the fact, with its number; cause: the likely reason; remedy: the command or sweep change that helps."""

    seen: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Jump:
    """A score that jumps. edge: at the largest size.

    seeds: fewest runs of a size near its threshold, None where they are not known.
    """

    task: str
    seeds: int | None
    edge: bool


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    counts: runs by state; sizes: N of the sizes with a finished run, ascending; seeds: fewest finished repeats of any
    size; chosen: the law that answers, None without a usable fit; rising: labels of neighbouring sizes whose loss
    rises with N; diverged, failed: short ids; jumps: scores that do; script: whether the runs are a script's, with
    parameters of its own.
    """

    name: str
    counts: Mapping[State, int]
    sizes: tuple[int, ...]
    seeds: int
    fits: tuple[Summary, ...]
    chosen: Summary | None
    rising: tuple[tuple[str, str], ...] = ()
    diverged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    jumps: tuple[Jump, ...] = ()
    script: bool = False

    @property
    def waiting(self) -> int:
        """Runs that the next `sweep` goes on with."""
        return sum(n for state, n in self.counts.items() if state.resumes)


Rule = Callable[[Facts], Advice | None]


def advise(facts: Facts) -> tuple[Advice, ...]:
    """Every rule that applies, most urgent first."""
    return tuple(advice for rule in RULES if (advice := rule(facts)) is not None)


def limit_of(summary: Summary, seeds: int) -> str:
    """What limits a fit: "law", "noise" where it can explain the misfit, or "" where one of them was not measured.

    Seed noise is compared as it reaches the mean of one size, noise / √seeds.
    """
    if summary.misfit is None or summary.seed_noise is None:
        return ""
    noise = summary.seed_noise / max(1, seeds) ** 0.5
    return "law" if summary.misfit > CLEARLY * noise else "noise"


def _failed(facts: Facts) -> Advice | None:
    if not facts.counts.get(State.FAILED):
        return None
    return Advice(
        f"{_runs(facts.counts[State.FAILED])} failed",
        "an exception in the code or the data, which is not retried unasked",
        f"scalectl logs {facts.failed[0]}, then scalectl sweep {facts.name} --retry failed",
    )


def _out_of_memory(facts: Facts) -> Advice | None:
    if not facts.counts.get(State.OOM):
        return None
    return Advice(
        f"{_runs(facts.counts[State.OOM])} ran out of memory",
        "the pack or its micro-batch is too large for the device",
        "set [runtime] micro_batch to a smaller number; results do not change",
    )


def _unfinished(facts: Facts) -> Advice | None:
    if not facts.waiting:
        return None
    return Advice(
        f"{_runs(facts.waiting)} not finished",
        "the sweep was stopped or is still going on",
        f"scalectl sweep {facts.name}",
    )


def _diverged(facts: Facts) -> Advice | None:
    n = facts.counts.get(State.DIVERGED, 0)
    if not n:
        return None
    return Advice(
        f"{_runs(n)} diverged and {_is(n)} left out of every fit",
        "a learning rate too high for the size",
        "lower the learning rate of the largest models in params, or warm it up for longer"
        if facts.script
        else "lower train.lr for the widest models, or lengthen train.warmup",
    )


def _rising(facts: Facts) -> Advice | None:
    if not facts.rising:
        return None
    pairs = ", ".join(f"{small} to {large}" for small, large in facts.rising[:3])
    rate = "params.lr" if facts.script else "train.lr"
    return Advice(
        f"the loss rises with N from {pairs}",
        "a learning rate that does not suit both sizes, or too few tokens for the larger one",
        f"sweep {rate} at these sizes, then: scalectl fit {facts.name} --best-over {rate}",
    )


def _few_sizes(facts: Facts) -> Advice | None:
    if facts.waiting or not 0 < len(facts.sizes) < FEWEST_SIZES:
        return None
    return Advice(
        f"{len(facts.sizes)} size{'s' * (len(facts.sizes) != 1)} finished",
        f"a slope with an interval needs at least {FEWEST_SIZES}, and one more to hold out",
        "add values to the grid of sizes; only the new runs are trained",
    )


def _short_span(facts: Facts) -> Advice | None:
    if facts.waiting or len(facts.sizes) < FEWEST_SIZES:
        return None
    span = facts.sizes[-1] / facts.sizes[0]
    if span >= SHORTEST_SPAN:
        return None
    return Advice(
        f"the sizes span a factor {span:.2g}",
        "over less than a decade of N a slope is hard to tell from the noise of tuning",
        "add smaller and larger sizes to the grid",
    )


def _no_fit(facts: Facts) -> Advice | None:
    if facts.chosen is not None or facts.fits or facts.waiting or len(facts.sizes) < FEWEST_SIZES:
        return None
    return Advice(
        "no law was fitted",
        "the runs are there, and no law could be chosen for the axes that vary",
        f"scalectl fit {facts.name} says what it needs: --by splits, --where picks, --law names one",
    )


def _unusable(facts: Facts) -> Advice | None:
    if not facts.fits or (facts.chosen is not None and all(facts.chosen.identified.values())):
        return None
    return Advice(
        f"{_laws(len(facts.fits))} by these runs",
        "the runs cover too little of the axis for the parameters of the law",
        f"add sizes, or fix a parameter that is known: scalectl fit {facts.name} --fix NAME=VALUE",
    )


def _optimum(facts: Facts) -> Advice | None:
    fit = facts.chosen
    if fit is None or fit.starts < 2 or fit.starts_at_optimum >= FEW_STARTS * fit.starts:
        return None
    return Advice(
        f"{fit.starts_at_optimum} of {fit.starts} starts reached the best optimum of {fit.law}",
        "the objective has several basins, often through outliers",
        f"scalectl fit {facts.name} --where leaves points out that are wrong; --law tries another law",
    )


def _outliers(facts: Facts) -> Advice | None:
    fit = facts.chosen
    if fit is None or not fit.outliers:
        return None
    shown = ", ".join(fit.outliers[:5]) + (", ..." if len(fit.outliers) > 5 else "")
    return Advice(
        f"{_runs(len(fit.outliers))} beyond 5 robust deviations of {fit.law}: {shown}",
        "runs that went wrong, or a law that does not hold there",
        f"scalectl logs {fit.outliers[0]}; compare with scalectl fit {facts.name} --where without them",
    )


def _one_seed(facts: Facts) -> Advice | None:
    if facts.seeds != 1 or len(facts.sizes) < FEWEST_SIZES:
        return None
    return Advice(
        "one seed per size", "noise between runs cannot be told from misfit of the law", "seed = { grid = [0, 1, 2] }"
    )


def _limit(facts: Facts) -> Advice | None:
    fit = facts.chosen
    if fit is None or fit.misfit is None or fit.seed_noise is None:
        return None
    limit = limit_of(fit, facts.seeds)
    if limit == "law":
        return Advice(
            f"misfit {percent(fit.misfit)} against {percent(fit.seed_noise)} between seeds",
            "the law bends or a size is badly tuned; more seeds will not narrow the interval over sizes",
            f"tune train.lr per size, add sizes, or compare laws: scalectl fit {facts.name} --law LAW",
        )
    if limit == "noise":
        return Advice(
            f"{percent(fit.seed_noise)} between seeds explains the misfit of {percent(fit.misfit)}",
            "noise between runs limits this fit",
            "add seeds to the grid, or tokens to [eval] if the standard error of the loss is as large",
        )
    return None


def _holdout(facts: Facts) -> Advice | None:
    fit = facts.chosen
    if fit is None or not fit.holdout or fit.holdout[0].relative_error <= POOR_HOLDOUT:
        return None
    held = fit.holdout[0]
    return Advice(
        f"held out ({held.where}), {fit.law} is {percent(held.relative_error)} off",
        "the law does not hold beyond the sizes it was fitted to",
        "extrapolate no further than the next size, and train that size to check",
    )


def _edge(facts: Facts) -> Advice | None:
    tasks = [jump.task for jump in facts.jumps if jump.edge]
    if not tasks:
        return None
    return Advice(
        f"{', '.join(tasks[:3])} jump{'s' * (len(tasks) == 1)} at the largest size",
        "one size above a plateau is a lower bound: nobody knows how far the rise goes on",
        "add two larger sizes to the grid",
    )


def _thin_threshold(facts: Facts) -> Advice | None:
    thin = [jump for jump in facts.jumps if jump.seeds is not None and jump.seeds < NEAR_SEEDS]
    if not thin:
        return None
    fewest = min(jump.seeds for jump in thin if jump.seeds is not None)
    return Advice(
        f"{fewest} seed{'s' * (fewest != 1)} at the threshold of {', '.join(jump.task for jump in thin[:3])}",
        "a jump of one run may be luck of its seed",
        f"seed = {{ grid = {list(range(NEAR_SEEDS))} }}",
    )


RULES: tuple[Rule, ...] = (
    _failed,
    _out_of_memory,
    _unfinished,
    _diverged,
    _rising,
    _few_sizes,
    _short_span,
    _no_fit,
    _unusable,
    _optimum,
    _outliers,
    _one_seed,
    _edge,
    _thin_threshold,
    _limit,
    _holdout,
)


def _runs(n: int) -> str:
    return f"{n} run{'s' * (n != 1)}"


def _is(n: int) -> str:
    return "is" if n == 1 else "are"


def _laws(n: int) -> str:
    return "the law is not identified" if n == 1 else f"none of the {n} laws is identified"
