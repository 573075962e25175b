import json

import pytest

from scalectl.core.job import Placement
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep
from scalectl.sweep.speeds import ENGINE, KIND, Cache, Measured, Point, engine_version, measured_from, shape_key

TEXT = """\
name = "tiny"
[model]
family = "decoder"
d_model = { grid = [8, 16] }
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
symbols = 8
[train]
batch_tokens = 64
lr = { grid = [0.01, 0.02] }
steps = 10
seed = { grid = [0, 1] }
"""
MEASURED = Measured((Point(1, 0.01, 2e-6, 1_000), Point(4, 0.02, 4e-6, 4_000), Point(8, 0.06, 12e-6, None)))


def runs_of(text=TEXT):
    return [planned.run for planned in expand(parse_sweep(text)).runs]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALECTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cache_of(device="CPU A", placement=None):
    return Cache(device, placement or Placement())


def test_a_measurement_lies_on_its_points_between_them_on_a_line_and_beyond_in_proportion():
    assert MEASURED.seconds(1) == 0.01
    assert MEASURED.seconds(4, evaluated=1000) == pytest.approx(0.024)
    assert MEASURED.seconds(2) == pytest.approx(0.01 + 0.01 / 3)
    assert MEASURED.seconds(16) == pytest.approx(0.12)
    assert MEASURED.memory(2) == pytest.approx(2_000)
    assert MEASURED.memory(8) == pytest.approx(8_000)
    assert Measured((Point(1, 1.0, 0.0, None),)).memory(1) is None


def test_the_best_pack_is_the_fastest_and_no_pack_where_none_pays():
    assert MEASURED.best() == 4
    slower = Measured((Point(1, 0.01, 0, None), Point(2, 0.0205, 0, None)))
    hardly = Measured((Point(1, 0.01, 0, None), Point(2, 0.0199, 0, None)))
    assert slower.best() == hardly.best() == 1
    evaluations_pay = Measured((Point(1, 0.01, 1e-4, None), Point(2, 0.0205, 1e-4, None)))
    assert evaluations_pay.best(evaluated=1000) == 2


def test_runs_that_differ_in_rate_seed_or_data_share_a_measurement_and_others_do_not():
    runs = runs_of()
    assert len({shape_key(run) for run in runs}) == 2
    cache = cache_of()
    assert cache.load(runs) == {}
    assert cache.save(runs[0], MEASURED) == ""
    assert cache.load(runs) == {shape_key(runs[0]): MEASURED}
    other_data = runs_of(TEXT.replace("symbols = 8", "symbols = 8\nlength = 50000"))
    assert other_data[0].task.fingerprint != runs[0].task.fingerprint
    assert cache.load(other_data) == {shape_key(runs[0]): MEASURED}
    for change in (("batch_tokens = 64", "batch_tokens = 128"), ("lr =", 'precision = "bf16"\nlr =')):
        assert cache.load(runs_of(TEXT.replace(*change))) == {}


def test_another_device_placement_torch_or_engine_has_speeds_of_its_own(monkeypatch):
    runs = runs_of()
    cache = cache_of()
    cache.save(runs[0], MEASURED)
    assert cache_of().load(runs)
    assert not cache_of(device="CPU B").load(runs)
    for other in ({"threads": 2}, {"micro_batch": 1}, {"recompute": True}, {"compile": True}, {"graph": True}):
        assert not cache_of(placement=Placement(**other)).load(runs)
    assert cache_of(placement=Placement(checkpoint_seconds=1.0)).load(runs)
    with monkeypatch.context() as patched:
        patched.setattr("scalectl.sweep.speeds.engine_version", lambda: "another")
        assert not cache.load(runs)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
    assert not cache.load(runs)


def test_the_engines_version_is_its_source(tmp_path, monkeypatch):
    for name in ("models/a.py", "optim/b.py", *(name for name in ENGINE if name.endswith(".py"))):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("one")
    monkeypatch.setattr("scalectl.__file__", str(tmp_path / "__init__.py"))
    seen = set()
    for name in ("models/a.py", "optim/b.py", "train/engine.py", "train/graph.py"):
        engine_version.cache_clear()
        seen.add(engine_version())
        (tmp_path / name).write_text("two")
    engine_version.cache_clear()
    seen.add(engine_version())
    engine_version.cache_clear()
    assert len(seen) == 5


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"points": []}',
        '{"points": [{"k": 2, "step": 1, "evaluation": 0, "memory": null}]}',
        '{"points": [{"k": 1, "step": 0, "evaluation": 0, "memory": null}]}',
        '{"points": [{"k": 1, "step": NaN, "evaluation": 0, "memory": null}]}',
        '{"points": [{"k": "one"}]}',
    ],
)
def test_a_damaged_cache_is_as_good_as_none(folder, damage):
    runs = runs_of()
    cache = cache_of()
    cache.save(runs[0], MEASURED)
    (path,) = (folder / KIND).iterdir()
    held = json.loads(path.read_text())
    assert measured_from(held["value"]) == MEASURED
    path.write_text(json.dumps({**held, "value": json.loads(damage)}) if damage.startswith('{"') else damage)
    assert cache.load(runs) == {}
    assert cache.save(runs[0], MEASURED) == ""
    assert cache.load(runs) == {shape_key(runs[0]): MEASURED}


def test_a_cache_that_cannot_be_written_says_so_and_harms_nothing(folder):
    folder.write_text("in the way")
    said = cache_of().save(runs_of()[0], MEASURED)
    assert "SCALECTL_CACHE" in said
    assert cache_of().load(runs_of()) == {}
