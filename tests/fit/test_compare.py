"""How much one recipe saves over another: the ratio, its two intervals, and the seeds that a claim takes."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.errors import FitError, UsageError
from scalectl.core.rows import Points
from scalectl.fit.compare import Arm, Pairing, compare, pairing
from scalectl.fit.objective import Huber
from scalectl.laws import LAWS
from scalectl.store.points import places

POWER = LAWS["power"].along("C")
FLOORED = LAWS["power+constant"].along("C")
TRUTH = {"A": 20.0, "alpha": 0.08}


def arms(rng=None, *, sizes=5, seeds=3, gain=1.3, common=0.0, own=0.0, misfit=0.0, reach=(1e10, 1e13), **columns):
    """Two arms of one law, the second as good as the first at `gain` times its compute.

    common, own: relative noise that the runs of one size and seed share, and that they do not; misfit: of the law at
    each size, shared by the arms.
    """
    rng = rng or np.random.default_rng(0)
    C = np.geomspace(*reach, sizes)
    shared = misfit * rng.standard_normal((sizes, 1)) + common * rng.standard_normal((sizes, seeds))
    size, seed = (held.ravel() for held in np.meshgrid(np.arange(sizes), np.arange(seeds), indexing="ij"))
    made = []
    for name, factor in (("plain", 1.0), ("better", gain)):
        logs = np.log(TRUTH["A"] * (factor * C) ** -TRUTH["alpha"])[:, None] + shared
        logs = logs + own * rng.standard_normal((sizes, seeds))
        held = {"model.d_model": 8 * (size + 1), **{key: np.full(len(size), value) for key, value in columns.items()}}
        points = Points(
            L=np.exp(logs).ravel(), N=(C / 6e6)[size], D=np.full(len(size), 1e6), C=C[size], seed=seed, columns=held
        )
        made.append(Arm(name, points))
    return made


def about(pair, law=POWER, **options):
    options = {"draws": 100, "rng": np.random.default_rng(1), **options}
    return compare(*pair, law, options.pop("objective", Huber()), **options)


@pytest.mark.parametrize("law", [POWER, FLOORED])
def test_the_saving_of_exact_curves_is_exact_at_every_loss(law):
    found = about(arms(), law)
    assert_allclose([saving.value for saving in (*found.savings, found.shared)], 1.3, rtol=1e-6)
    for saving in found.savings:
        assert found.overlap[0] < saving.loss < found.overlap[1]
        assert_allclose(saving.needs[0], (TRUTH["A"] / saving.loss) ** (1 / TRUTH["alpha"]), rtol=1e-6)
        assert saving.beyond == (1.0, 1.0)


def test_a_stated_loss_beyond_the_runs_has_its_distance():
    found = about(arms(), losses=[1.5])
    (saving,) = found.savings
    assert_allclose(saving.beyond[0], (20 / 1.5) ** (1 / 0.08) / 1e13, rtol=1e-6)
    assert_allclose(saving.beyond[0] / saving.beyond[1], 1.3, rtol=1e-6)


def test_shared_batches_make_the_paired_interval_narrower():
    found = about(arms(common=0.01, own=0.002, misfit=0.005))
    assert found.paired_by == "model.d_model"
    for saving in (*found.savings, found.shared):
        assert saving.paired[0] <= saving.value <= saving.paired[1]
        assert math.log(saving.paired[1] / saving.paired[0]) < 0.6 * math.log(saving.unpaired[1] / saving.unpaired[0])
    assert found.noise[2] < 0.5 * found.noise[0]
    assert found.needed[0] < found.needed[1]


def test_curves_that_do_not_overlap_are_refused_with_the_runs_that_would_help():
    plain, _ = arms(reach=(1e10, 1e11))
    _, better = arms(reach=(1e13, 1e14))
    with pytest.raises(FitError, match=r"do not overlap in loss: plain from 3\.17 to 2\.637 and") as caught:
        about((plain, better))
    assert caught.value.remedy == "add larger runs of plain, or smaller ones of better"


def pairs_of(first, second, **options):
    return pairing(first, second, (places(first.points), places(second.points)), **options)


def test_runs_are_paired_by_size_and_seed_and_halves_stay():
    first, second = arms()
    second = Arm("better", second.points.take(np.arange(15) != 4))
    found = pairs_of(first, second)
    assert isinstance(found, Pairing)
    assert len(found.size) == 15
    assert found.first.tolist() == list(range(15))
    assert found.second.tolist() == [k for k in range(15) if k != 4]
    assert found.size.tolist() == np.repeat(np.arange(5), 3).tolist()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: Points(**{**vars(p), "seed": None}), "the runs have no seeds"),
        (lambda p: Points(**{**vars(p), "seed": p.seed + 7}), "not every size has a seed that both have"),
        (
            lambda p: Points(**{**vars(p), "C": 3.3 * p.C, "N": 3.3 * p.N, "columns": {}}),
            "the sizes do not match one another",
        ),
        (
            lambda p: Points(**{**vars(p), "columns": {**p.columns, "train.batch_tokens": np.full(15, 2048)}}),
            "train.batch_tokens differs, so that runs of one seed do not share their batches",
        ),
    ],
)
def test_what_cannot_be_paired_says_why(change, why):
    first, second = arms(**{"train.batch_tokens": 1024})
    second = Arm("better", change(second.points))
    assert pairs_of(first, second) == why
    found = about((first, second))
    assert (found.paired_by, found.unpaired_because) == ("", why)
    assert all(saving.paired is None and saving.unpaired is not None for saving in found.savings)
    assert found.needed[0] is None


def test_sizes_match_by_n_where_no_setting_names_them():
    first, second = (Arm(arm.name, Points(**{**vars(arm.points), "columns": {}})) for arm in arms())
    assert pairs_of(first, second).by == "N"


def test_one_seed_leaves_the_noise_unknown():
    found = about(arms(seeds=1, own=0.002))
    assert found.noise == (None, None, None)
    assert found.needed == (None, None)


def test_two_sizes_are_resampled_by_runs():
    assert about(arms(sizes=2, own=0.001)).unit == "run"
    with pytest.raises(UsageError, match="cannot be paired"):
        about(arms(), unit="residual")


def test_the_answer_does_not_change_from_one_call_to_the_next():
    pair = arms(common=0.01, own=0.002)
    assert about(pair).savings == about(pair).savings


def test_a_pinned_exponent_is_pinned_in_both():
    found = about(arms(own=0.01), fix={"alpha": 0.08})
    assert [held.theta["alpha"] for held in found.fits] == [0.08, 0.08]
    assert_allclose(found.slope, 0.08, rtol=1e-6)
    values = [saving.value for saving in found.savings]
    assert_allclose(values, values[0], rtol=1e-6)


def covered(data_sets, **design):
    """Shares of paired and unpaired intervals at the middle loss that hold the truth; of paired ones that exclude 1.

    Last, the mean width of paired ones in units of the one that a normal estimate of known spread would need.
    """
    hits = np.zeros(3)
    logs, widths = [], []
    for k in range(data_sets):
        rng = np.random.default_rng(k)
        found = about(arms(rng, **design), objective=Huber(1e-2), draws=150, rng=rng)
        middle = found.savings[1]
        truth = design.get("gain", 1.3)
        hits += [
            middle.paired[0] <= truth <= middle.paired[1],
            middle.unpaired[0] <= truth <= middle.unpaired[1],
            middle.paired[0] > 1 or middle.paired[1] < 1,
        ]
        logs.append(math.log(middle.value))
        widths.append(math.log(middle.paired[1] / middle.paired[0]))
    return *(hits / data_sets), np.mean(widths) / (2 * 1.96 * np.std(logs))


QUIET = {"common": 0.006, "own": 0.003, "misfit": 0.004}


@pytest.mark.slow
@pytest.mark.parametrize("design", [QUIET, {"own": 0.006}])
def test_paired_and_unpaired_intervals_cover(design):
    paired, unpaired, _, width = covered(150, **design)
    assert min(paired, unpaired) > 0.95 - 0.054  # three standard errors of a share of 150
    # Five sizes are Student's (1.62 times the normal width), and noise comes in twice (√2): 2.3. Measured 2.9 where
    # pairs share most of it, 2.7 where nothing; 150 data sets know a spread to 6 %.
    assert width < 2.9 * 1.18


@pytest.mark.slow
def test_the_seeds_that_a_claim_needs_show_it_in_about_four_of_five_repeats():
    seen = [
        about(arms(np.random.default_rng(k), gain=1.05, seeds=4, **QUIET), objective=Huber(1e-2), claim=0.05).needed[0]
        for k in range(20)
    ]
    seeds = int(np.median(seen))
    assert 5 <= seeds <= 20  # measured 11
    _, _, shown, _ = covered(60, gain=1.05, seeds=seeds, **QUIET)
    assert 0.6 < shown < 0.97  # .8 and three standard errors of a share of 60, and what the median of 20 leaves open
