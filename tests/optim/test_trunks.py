"""Which runs share a trunk, and that no step of it is trained twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scalectl.core.run import Member, RunConfig, Task
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import SCHEDULES, Options
from scalectl.optim.trunks import split_step, trunk_key, trunks


def run_of(steps=100, decay=20, warmup=5, seed=0, schedule="wsd", final=0.0, **more):
    options = SCHEDULES[schedule].normal(Options(warmup, decay, final))
    made = {"model": Member("decoder", 1, ()), "sequences": 2, "precision": "fp32", **more}
    optim, task = Member("adamw", 1, AdamWOptions(0.01)), Task("markov", 1, (), "sha256:0", 64)
    return RunConfig(optim=optim, task=task, schedule=Member(schedule, 1, options), steps=steps, seed=seed, **made)


def test_runs_that_differ_in_length_and_cooldown_alone_share_a_trunk():
    same = [run_of(), run_of(200, 40), run_of(200, 0), run_of(100, 20, final=0.1)]
    assert len({trunk_key(run) for run in same}) == 1
    assert [split_step(run) for run in same] == [80, 160, 199, 80]
    others = [run_of(warmup=6), run_of(seed=1), run_of(precision="bf16"), run_of(sequences=4)]
    assert len({trunk_key(run) for run in (same[0], *others)}) == 5


def test_a_cosine_depends_on_its_length_from_the_start_and_a_constant_rate_never():
    assert split_step(run_of(schedule="cosine")) == split_step(run_of(schedule="linear")) == 0
    assert split_step(run_of(schedule="constant")) == 99
    runs = [run_of(steps, schedule="cosine") for steps in (100, 200)]
    assert [trunk.followers for trunk in trunks(runs)] == [(), ()]


def test_the_factor_of_the_shared_steps_is_the_same_for_every_run_of_a_trunk():
    runs = [run_of(), run_of(200, 40, final=0.3), run_of(150, 100), run_of(90, 0)]
    for name in ("wsd", "constant"):
        for run in runs:
            options = SCHEDULES[name].normal(run.schedule.options)
            for step in range(SCHEDULES[name].stable(options, run.steps)):
                assert SCHEDULES[name].factor(options, step, run.steps) == min(1.0, (step + 1) / 6)


def test_the_longest_carries_and_the_others_follow_in_the_order_of_their_splits():
    short, middle, long = run_of(50, 10), run_of(100, 20), run_of(200, 40)
    (trunk,) = trunks([short, long, middle])
    assert (trunk.carrier, trunk.followers, trunk.origin) == (long, (short, middle), long)
    slow = run_of(180, 150)  # longer than middle, but it cools down first
    (trunk,) = trunks([slow, middle])
    assert (trunk.carrier, trunk.followers) == (middle, (slow,))


def test_who_has_come_further_is_followed_by_all_who_have_not_split_by_then():
    short, middle, long, more = run_of(50, 10), run_of(100, 20), run_of(200, 40), run_of(400, 80)
    one, two, three = trunks([short, middle, long, more], {middle: 80, long: 30})
    assert (one.carrier, one.followers, one.origin) == (short, (), short)  # it splits at 40, before all progress
    assert (two.carrier, two.origin) == (middle, middle)  # at its split: by itself from now on
    assert (three.carrier, three.followers, three.origin) == (more, (long,), middle)
    cooling, rest = trunks([short, long], {short: 41})
    assert (cooling.runs, rest.runs) == ((short,), (long,))


def test_branching_can_be_left_out():
    runs = [run_of(), run_of(200, 40)]
    assert [trunk.runs for trunk in trunks(runs, branch=False)] == [(runs[0],), (runs[1],)]


@given(
    st.lists(
        st.tuples(st.integers(2, 60), st.floats(0, 1), st.integers(0, 2), st.floats(0, 1)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_every_run_is_in_one_trunk_which_it_can_follow_and_no_more_steps_are_trained_than_alone(given_runs):
    runs, taken = [], {}
    for steps, cooled, seed, done in given_runs:
        run = run_of(steps, int(cooled * (steps - 1)), warmup=1, seed=seed)
        if run not in runs:
            runs.append(run)
            taken[run] = int(done * (steps - 1))
    found = trunks(runs, taken)
    assert sorted(run.run_id for trunk in found for run in trunk.runs) == sorted(run.run_id for run in runs)
    cost = 0
    for trunk in found:
        begin = taken[trunk.origin]
        assert len({trunk_key(run) for run in (*trunk.runs, trunk.origin)}) == 1
        assert trunk.origin == trunk.carrier or begin <= min(split_step(trunk.origin), split_step(trunk.carrier))
        splits = [split_step(run) for run in trunk.followers]
        assert splits == sorted(splits)
        assert all(begin < split <= split_step(trunk.carrier) for split in splits)
        assert begin >= taken[trunk.carrier]
        cost += trunk.carrier.steps - begin + sum(run.steps - split_step(run) for run in trunk.followers)
    assert cost <= sum(run.steps - taken[run] for run in runs)
    fresh = trunks(runs)
    assert len(fresh) == len({trunk_key(run) for run in runs if split_step(run)}) + sum(not split_step(r) for r in runs)
