from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalectl.core.job import Placement
from scalectl.optim.trunks import occupancy, split_step, trunks
from scalectl.sweep.pack import (
    CPU_CORE,
    makespan,
    most_packed,
    pack,
    pack_key,
    pack_memory,
    pack_seconds,
    step_seconds,
)
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep
from scalectl.sweep.speeds import Measured, Point, shape_key

SWEEP = """\
name = "tiny"
[model]
family = "decoder"
d_model = {widths}
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
symbols = 8
[train]
batch_tokens = 64
lr = {rates}
steps = {steps}
seed = {seeds}
"""


def estimate_seconds(run, k=1, speed=CPU_CORE):
    """Seconds of a run in a pack of k equal ones."""
    return run.run.steps * step_seconds(run, k, speed)


def grid(values):
    return "{ grid = [" + ", ".join(map(str, values)) + "] }"


def planned(widths=(8,), rates=(0.01,), steps=(10,), seeds=(0,)):
    text = SWEEP.format(widths=grid(widths), rates=grid(rates), steps=grid(steps), seeds=grid(seeds))
    return expand(parse_sweep(text)).runs


def test_runs_that_would_round_otherwise_in_a_pack_train_alone():
    text = SWEEP.format(widths=8, rates=0.01, steps=10, seeds=grid([0, 1]))
    even, odd = (expand(parse_sweep(text.replace("d_model = 8", f"d_model = {d}"))).runs for d in (8, 10))
    assert len(pack(even)) == 1
    assert len(pack(odd)) == 2


def ids(jobs):
    return sorted(run.run_id for job in jobs for run in job.runs)


@given(
    widths=st.lists(st.sampled_from([8, 16, 64, 128, 1024]), min_size=1, max_size=3, unique=True),
    rates=st.lists(st.sampled_from([0.1, 0.01, 0.001]), min_size=1, max_size=3, unique=True),
    steps=st.lists(st.integers(3, 5000), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    slots=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_every_run_lands_in_exactly_one_job_and_packing_costs_no_expected_time(widths, rates, steps, seeds, slots):
    runs = planned(widths, rates, steps, seeds)
    jobs = pack(runs, slots=slots, placement=Placement(branch=False))
    assert ids(jobs) == sorted(run.run_id for run in runs)
    alone = makespan([estimate_seconds(run) for run in runs], slots)
    assert makespan([job.seconds for job in jobs], slots) <= alone * (1 + 1e-9)
    assert [job.seconds for job in jobs] == sorted((job.seconds for job in jobs), reverse=True)
    by_id = {run.run_id: run for run in runs}
    for job in jobs:
        assert len({pack_key(by_id[run.run_id]) for run in job.runs}) == 1
        assert len(job.runs) <= CPU_CORE.max_pack
        assert job.seconds == pytest.approx(pack_seconds([by_id[run.run_id] for run in job.runs], branch=False))


def test_runs_that_differ_in_what_is_free_per_row_share_a_step():
    (job,) = pack(planned(rates=(0.1, 0.2), steps=(9, 10), seeds=(0, 1)))
    assert len(job.runs) == 8


@pytest.mark.parametrize(
    "change", ["widths", "precision", "batch_tokens", "context", "symbols", "schedule", "held-out"]
)
def test_runs_that_cannot_share_a_step_are_kept_apart(change):
    text = SWEEP.format(widths=8, rates=0.01, steps=10, seeds=0)
    other = {
        "widths": text.replace("d_model = 8", "d_model = 16"),
        "precision": text + 'precision = "bf16"\n',
        "batch_tokens": text.replace("batch_tokens = 64", "batch_tokens = 128"),
        "context": text.replace("context = 16", "context = 32"),
        "symbols": text.replace("symbols = 8", "symbols = 9"),
        "schedule": text + 'schedule = "cosine"\n',
        "held-out": text + "[eval]\ntokens = 640\n",
    }[change]
    runs = [expand(parse_sweep(held)).runs[0] for held in (text, other)]
    assert [len(job.runs) for job in pack(runs)] == [1, 1]


def test_large_models_train_alone():
    runs = planned(widths=(2048,), seeds=range(4))
    assert runs[0].ledger.saved_activations * runs[0].run.batch_tokens > CPU_CORE.pack_one
    assert [len(job.runs) for job in pack(runs)] == [1, 1, 1, 1]


def test_packs_are_split_so_that_every_slot_has_work():
    runs = planned(seeds=range(16), steps=(1000,))
    assert len(pack(runs, slots=1)) == 1
    assert sorted(len(job.runs) for job in pack(runs, slots=4)) == [4, 4, 4, 4]


def test_jobs_carry_the_placement():
    place = Placement(micro_batch=2, checkpoint_seconds=3.0)
    assert {job.placement for job in pack(planned(seeds=(0, 1)), slots=2, placement=place)} == {place}
    assert pack([]) == ()


def test_expected_time_grows_with_size_length_and_pack_but_a_pack_is_cheaper_than_its_runs_alone():
    small, large = planned(widths=(8, 64), steps=(100,))
    (long,) = planned(steps=(200,))
    assert estimate_seconds(large) > estimate_seconds(small)
    assert estimate_seconds(long) == pytest.approx(2 * estimate_seconds(small))
    assert estimate_seconds(small) < estimate_seconds(small, 8) < 8 * estimate_seconds(small)
    assert pack_seconds([small] * 8, branch=False) == pytest.approx(estimate_seconds(small, 8))
    assert pack_seconds([long, small], branch=False) < pack_seconds([long, long], branch=False)


@pytest.mark.parametrize(
    ("shape", "batch_tokens", "measured"), [((1, 16, 2, 64), 256, 0.34), ((2, 64, 4, 128), 1024, 0.13)]
)
def test_fp16_is_as_slow_on_a_cpu_as_it_was_measured(shape, batch_tokens, measured):
    layers, width, heads, context = shape
    text = SWEEP.format(widths=width, rates=0.01, steps=100_000, seeds=0)
    for old, new in (
        ("n_layer = 1", f"n_layer = {layers}"),
        ("n_head = 2", f"n_head = {heads}"),
        ("context = 16", f"context = {context}"),
        ('"markov"\nsymbols = 8', '"stdlib"'),
        ("batch_tokens = 64", f"batch_tokens = {batch_tokens}"),
    ):
        assert old in text
        text = text.replace(old, new)
    ((full,), (half,)) = (
        expand(parse_sweep(f'{text}precision = "{p}"\n[eval]\nevery = 100000')).runs for p in ("fp32", "fp16")
    )
    assert step_seconds(full, 1) / step_seconds(half, 1) == pytest.approx(measured, rel=0.05)
    gpu = replace(CPU_CORE, fp16=1.0)
    assert step_seconds(half, 1, gpu) == step_seconds(full, 1, gpu)


def test_a_faster_slot_is_an_argument():
    slow = replace(
        CPU_CORE, overhead=2 * CPU_CORE.overhead, flops=CPU_CORE.flops / 2, activation=2 * CPU_CORE.activation
    )
    (run,) = planned()
    assert estimate_seconds(run, speed=slow) == pytest.approx(2 * estimate_seconds(run))


def test_the_longest_start_first():
    assert makespan([3, 3, 2, 2, 2], 2) == 7
    assert makespan([5, 4, 3, 3, 3], 3) == 7
    assert makespan([4.0], 8) == 4


def test_a_pack_stays_in_the_caches():
    runs = planned(widths=(512,), seeds=range(16))
    kept = runs[0].ledger.saved_activations * runs[0].run.batch_tokens
    assert kept < CPU_CORE.pack_one < 16 * kept
    assert max(len(job.runs) for job in pack(runs)) <= CPU_CORE.pack_all / kept


def test_evaluations_take_time_too():
    text = SWEEP.format(widths=8, rates=0.01, steps=100, seeds=0)
    often, rarely = (expand(parse_sweep(f"{text}[eval]\nevery = {every}\n")).runs[0] for every in (1, 100))
    assert estimate_seconds(often) > 2 * estimate_seconds(rarely)


def measured(run, *, memory=1_000, **step_by_k):
    """Speed of a slot on which a probe saw these milliseconds a step: k1=10, k2=12, ..."""
    points = tuple(Point(int(k[1:]), ms / 1e3, 0.0, memory * int(k[1:])) for k, ms in step_by_k.items())
    return replace(CPU_CORE, measured={shape_key(run.run): Measured(points)})


def test_what_was_measured_decides_how_many_train_in_one_step():
    runs = planned(seeds=range(12), steps=(1000,))
    pays = measured(runs[0], k1=10, k2=12, k4=16, k8=40)
    assert sorted(len(job.runs) for job in pack(runs, speed=pays)) == [4, 4, 4]
    assert pack(runs, speed=pays)[0].seconds == pytest.approx(16)
    loses = measured(runs[0], k1=10, k2=20.1, k4=41)
    assert [len(job.runs) for job in pack(runs, speed=loses)] == [1] * 12
    assert most_packed(runs[0], measured(runs[0], k1=10, k2=15, k32=60)) == 32 > CPU_CORE.max_pack
    assert len(pack(planned(seeds=range(32)), speed=measured(runs[0], k1=10, k2=15, k32=60))) == 1


def test_a_rest_too_small_to_pay_trains_alone():
    runs = planned(seeds=range(10), steps=(1000,))
    speed = measured(runs[0], k1=10, k2=30, k8=40)
    assert step_seconds(runs[0], 2, speed) > 2 * step_seconds(runs[0], 1, speed)
    assert most_packed(runs[0], speed) == 8
    assert all(len(job.runs) != 2 for job in pack(runs, slots=3, speed=speed))


def test_measured_runs_that_would_round_otherwise_in_a_pack_still_train_alone():
    text = SWEEP.format(widths=10, rates=0.01, steps=10, seeds=grid([0, 1]))
    runs = expand(parse_sweep(text)).runs
    assert [len(job.runs) for job in pack(runs, speed=measured(runs[0], k1=10, k2=11))] == [1, 1]


def test_packs_fit_into_the_memory_at_hand():
    runs = planned(seeds=range(16), steps=(1000,))
    speed = measured(runs[0], k1=10, k16=16)
    assert most_packed(runs[0], speed) == 16
    assert most_packed(runs[0], replace(speed, memory=5_500)) == 5
    for held in (replace(speed, memory=5_500), replace(CPU_CORE, memory=3.5 * runs[0].bytes)):
        jobs = pack(runs, speed=held)
        assert len(jobs) > 1
        assert all(pack_memory(runs[0], len(job.runs), held) <= held.memory for job in jobs)
    assert most_packed(runs[0], replace(speed, memory=1)) == 1


@given(count=st.integers(1, 40), most=st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=30, deadline=None)
def test_where_every_size_is_captured_anew_packs_are_powers_of_two(count, most):
    runs = planned(seeds=range(count), steps=(1000,))
    times = {f"k{k}": 10 + k for k in (1, 2, 4, 8, 16) if k <= most}
    sizes = [len(job.runs) for job in pack(runs, speed=replace(measured(runs[0], **times), buckets=True))]
    assert sum(sizes) == count
    assert all(size & (size - 1) == 0 and size <= most for size in sizes)


def test_rows_that_end_early_leave_and_the_rest_goes_on_as_a_smaller_pack():
    long, short = planned(steps=(100, 40))
    speed = measured(long, k1=10, k2=14)
    assert pack_seconds([short, long], speed) == pytest.approx(40 * 0.014 + 60 * 0.010)


LENGTHS = [round(1000 * 2 ** (i / 2)) for i in range(9)]


def branched(steps=LENGTHS, seeds=(0,), **more):
    text = SWEEP.format(widths=8, rates=0.01, steps=grid(steps), seeds=grid(seeds)) + "warmup = 2\n"
    text = text.replace("batch_tokens = 64", "batch_tokens = 2048")  # a row's work, not the overhead of a pack
    for key, value in more.items():
        text = text.replace("n_head", f"{key} = {value}\nn_head") if key != "d_model" else text
    return expand(parse_sweep(text.replace("d_model = 8", f"d_model = {more.get('d_model', 8)}"))).runs


def test_a_grid_of_lengths_is_one_trunk_whose_steps_cost_once():
    runs = branched()
    (job,) = pack(runs)
    assert [run.steps for run in job.runs] == [LENGTHS[-1], *LENGTHS[:-1]]
    cooled = sum(run.run.schedule.options.decay for run in runs)
    work = LENGTHS[-1] - runs[-1].run.schedule.options.decay + cooled
    assert sum(k * steps for k, steps in occupancy(trunks(job.runs))) == work
    assert sum(LENGTHS) / work == pytest.approx(2.25, rel=0.01)
    assert job.seconds < sum(estimate_seconds(run) for run in runs) / 2


def test_without_branches_every_length_is_trained_by_itself():
    runs = branched()
    jobs = pack(runs, placement=Placement(branch=False))
    assert sum(pack_seconds([r for r in runs if r.run in job.runs], branch=False) for job in jobs) == pytest.approx(
        sum(job.seconds for job in jobs)
    )
    assert sum(job.seconds for job in jobs) > 1.4 * pack(runs)[0].seconds


def test_a_trunk_that_may_not_share_a_step_with_its_branches_goes_on_after_them():
    (job,) = pack(branched(d_model=10))
    assert job.placement.rows == 1
    (job,) = pack(branched(d_model=16))
    assert job.placement.rows > 1


def test_a_trunk_is_trained_twice_only_where_slots_would_stand_idle():
    runs = branched()
    assert len(pack(runs, slots=1)) == 1
    one, two = pack(runs, slots=2)
    assert one.seconds + two.seconds > pack(runs)[0].seconds
    assert one.seconds < 0.9 * pack(runs)[0].seconds
    many = branched(seeds=range(4))
    jobs = pack(many, slots=2)
    assert sorted(len({run.seed for run in job.runs}) for job in jobs) == [2, 2]


@given(
    steps=st.lists(st.integers(5, 3000), min_size=1, max_size=6, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    width=st.sampled_from([8, 10, 64, 1024]),
    slots=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_every_run_of_every_trunk_is_in_one_job_and_a_job_counts_a_trunk_once(steps, seeds, width, slots):
    runs = branched(steps, seeds, d_model=width)
    jobs = pack(runs, slots=slots)
    assert ids(jobs) == sorted(run.run_id for run in runs)
    one = pack(runs)
    assert makespan([job.seconds for job in jobs], slots) <= sum(job.seconds for job in one) * (1 + 1e-9)
    apart = pack(runs, placement=Placement(branch=False))
    assert sum(job.seconds for job in one) <= sum(job.seconds for job in apart) * (1 + 1e-9)
    by_id = {run.run_id: run for run in runs}
    for job in jobs:
        held = [by_id[run.run_id] for run in job.runs]
        assert job.seconds == pytest.approx(pack_seconds(held, rows=job.placement.rows))
        work = sum(k * count for k, count in occupancy(trunks(job.runs), job.placement.rows))
        assert work == sum(
            max(run.steps for run in job.runs if run.seed == seed and split_step(run) == last) + sum(own)
            for seed in {run.seed for run in job.runs}
            for last in [max(split_step(run) for run in job.runs if run.seed == seed)]
            for own in [
                sorted(run.steps - split_step(run) for run in job.runs if run.seed == seed and split_step(run) != last)
                + sorted(run.steps - last for run in job.runs if run.seed == seed and split_step(run) == last)[:-1]
            ]
        )
    if slots == 1:
        assert len({(run.seed, i) for i, job in enumerate(jobs) for run in job.runs}) == len(seeds)
