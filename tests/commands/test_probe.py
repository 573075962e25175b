"""`plan --probe`, and sweeps that know or measure the speed of the machine."""

import json
from dataclasses import replace

import pytest
from support import SWEEP

from scalectl.commands import plan, speed, sweep
from scalectl.core.job import Placement
from scalectl.sweep.pack import CPU_CORE, most_packed, step_seconds
from scalectl.sweep.speeds import Measured, Point, shape_key


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.toml").write_text(SWEEP)

    def make(*overrides):
        return sweep.prepare(str(tmp_path / "tiny.toml"), str(tmp_path / "results"), overrides)

    return make


def known(held, planned, step_by_k, precision=None):
    """The plan, on a machine that is known to take these seconds a step."""
    run = planned.run if precision is None else replace(planned.run, precision=precision)
    points = tuple(Point(k, seconds, 0.0, 1000 * k) for k, seconds in step_by_k.items())
    at = held.at
    return replace(
        held,
        at=replace(at, speed=replace(at.speed, measured={**at.speed.measured, shape_key(run): Measured(points)})),
    )


@pytest.mark.slow
def test_plan_says_what_was_measured_here_and_the_next_plan_remembers(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8]"))
    cache = {"SCALECTL_CACHE": str(tmp_path / "cache")}
    before = scalectl("plan", "tiny.toml", cwd=tmp_path, **cache)
    assert "estimated from shapes" in before.stdout
    probed = scalectl("plan", "tiny.toml", "--probe", cwd=tmp_path, **cache)
    assert "measured here" in probed.stdout
    assert "tokens/s" in probed.stderr
    assert "tokens/s" not in probed.stdout
    view = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=tmp_path, **cache).stdout)
    assert (view["measured"], view["shapes"]) == (1, 1)
    assert view["seconds"] > 0
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8, 16]"))
    wider = scalectl("plan", "tiny.toml", cwd=tmp_path, **cache)
    assert "1 of 2 shapes measured here, the others estimated" in " ".join(wider.stdout.split())
    assert not (tmp_path / "results").exists()


def test_a_cache_that_cannot_be_written_is_a_note_and_the_plan_uses_what_it_measured(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8]"))
    (tmp_path / "cache").write_text("in the way")
    said = scalectl("plan", "tiny.toml", "--probe", cwd=tmp_path, SCALECTL_CACHE=str(tmp_path / "cache"))
    assert "note: the measured speeds cannot be kept" in said.stderr
    assert "measured here" in said.stdout


@pytest.mark.slow
def test_a_sweep_told_to_probe_measures_first_and_trains(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8]") + "[runtime]\nprobe = true\n")
    cache = {"SCALECTL_CACHE": str(tmp_path / "cache")}
    done = scalectl("sweep", "tiny.toml", cwd=tmp_path, **cache)
    assert "measuring the speed of 1 shape" in done.stderr
    assert "2 done" in done.stdout
    again = scalectl("sweep", "tiny.toml", "--set", "train.steps=31", cwd=tmp_path, **cache)
    assert "measuring" not in again.stderr


def test_a_sweep_measures_unasked_only_where_that_is_little_beside_its_training(prepared):
    short, long = prepared(), prepared("train.steps=2000000")
    assert speed.worth_measuring(short.todo, short.at, None) == []
    assert len(speed.worth_measuring(long.todo, long.at, None)) == 3
    assert len(speed.worth_measuring(short.todo, short.at, True)) == 3
    assert speed.worth_measuring(long.todo, long.at, False) == []
    alone = prepared("train.steps=2000000", "train.seed=0")
    assert speed.worth_measuring(alone.todo, alone.at, None) == []  # nothing to pack
    told = known(long, long.todo[0], {1: 0.01, 2: 0.011})
    assert len(speed.worth_measuring(told.todo, told.at, None)) == 2


def test_what_is_known_of_the_machine_packs_the_plan(prepared):
    held = prepared()
    for planned in held.todo:
        held.at.cache.save(planned.run, Measured((Point(1, 0.01, 0.0, 1000), Point(2, 0.03, 0.0, 2000))))
    anew = prepared()
    assert all(len(job.runs) == 1 for job in anew.jobs)
    view = plan.view(anew)
    assert (view.jobs, view.measured, view.shapes) == (6, 3, 3)


def test_memory_at_hand_is_shared_by_the_slots_and_packs_keep_within_it(prepared, monkeypatch):
    monkeypatch.setattr(speed, "memory_available", lambda: 2 * (speed.BARE_BYTES + 1000) / speed.MEMORY_SHARE)
    monkeypatch.setattr(speed, "slots", lambda count=None: (speed.Slot("cpu", 0), speed.Slot("cpu", 1)))
    held = prepared()
    assert held.at.speed.memory == pytest.approx(1000)
    assert all(most_packed(planned, held.at.speed) == 1 for planned in held.todo)


def test_precision_advice_is_a_ratio_that_was_measured_clearly_above_noise(prepared):
    held = prepared("model.d_model=512")
    assert speed.precision_advice(held.todo, held.at) == ""
    run = held.todo[0]
    for seconds, said in ((0.005, "bf16 is 2.0 times as fast as fp32 here, measured"), (0.0083, "")):
        told = known(known(held, run, {1: 0.01}), run, {1: seconds}, "bf16")
        assert speed.precision_advice(told.todo, told.at) == said


def test_precision_advice_names_the_shapes_that_it_is_about(prepared):
    told = prepared()  # widths 8, 16 and 32, two seeds
    faster = {8: 0.012, 16: 0.009, 32: 0.005}
    for planned in told.todo:
        told = known(told, planned, {1: 0.01})
        told = known(told, planned, {1: faster[planned.cell["model.d_model"]]}, "bf16")
    assert speed.precision_advice(told.todo, told.at) == (
        "bf16 is 2.0 times as fast as fp32 here for d_model 32, measured"
    )
    for planned in told.todo:
        told = known(told, planned, {1: 0.004 + planned.cell["model.d_model"] / 32000}, "bf16")
    assert speed.precision_advice(told.todo, told.at) == (
        "bf16 is 2.0 to 2.4 times as fast as fp32 here for every shape, measured"
    )


def test_a_twin_differs_in_precision_alone(prepared):
    run = prepared().todo[0].run
    assert speed.twin(run) == replace(run, precision="bf16")
    assert speed.twin(speed.twin(run)) == run
    assert CPU_CORE.measured == {}
    assert prepared().at.cache.placement == Placement()


def test_jobs_of_several_threads_are_as_many_with_trunks_as_without(prepared, monkeypatch):
    monkeypatch.setattr(speed, "slots", lambda count=None: (speed.Slot("cpu", 0), speed.Slot("cpu", 1)))
    held = prepared("train.steps=3000", "train.decay=0.5", "runtime.threads=2", "model.d_model=8")
    assert held.at.jobs == 1
    flops, seconds = plan._alone(held)
    assert (flops, seconds) == pytest.approx((held.flops, held.seconds))  # no run has a trunk to share


def test_the_disk_of_a_checkpoint_is_that_of_the_jobs_which_train_at_once(prepared):
    def checkpoints(held):
        return held.disk - sum(12 * 12 + 9_000 for _ in held.todo) - sum(200 * 12 for _ in held.todo)

    one = prepared("runtime.slots=1", "model.d_model=64")
    assert checkpoints(one) == 2 * 4 * sum(p.n["total"] + p.state for p in one.todo)
    small = prepared("runtime.slots=1", "model.d_model={ grid = [8, 8, 8, 64] }")
    largest = max(sum(200 * 12 + 8 * 3 * size[run.run_id] for run in job.runs)
                  for size in [{p.run_id: p.n["total"] for p in small.todo}] for job in small.jobs)  # fmt: skip
    assert small.disk == sum(12 * 12 + 9_000 for _ in small.todo) + largest


def test_runs_of_a_pack_train_for_its_seconds_together_not_each(prepared):
    seeds = "train.seed={ grid = [0, 1, 2, 3, 4, 5, 6, 7] }"
    run = prepared("model.d_model=8", seeds).todo[0]
    needed = speed.WORTH * (speed.PROBE_START + speed.PROBE_SHAPE + speed.PROBE_STEPS * step_seconds(run, 1))
    steps = needed / step_seconds(run, 8)
    for share, measured in ((0.7, 0), (1.4, 1)):
        held = prepared("model.d_model=8", seeds, f"train.steps={int(share * steps)}")
        assert len(speed.worth_measuring(held.todo, held.at, None)) == measured
