"""Run identity: pinned ids of recorded runs, and what may and may not move an id."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalectl.core.run import Member, canonical, new_field, record, restore
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.optim.schedules import SCHEDULES
from scalectl.sweep.spec import parse_sweep
from scalectl.tasks import TASKS

OPTIONS = {
    "model": {name: member.options for name, member in MODELS.items()},
    "task": {name: member.options for name, member in TASKS.items()},
    "optim": {name: member.options for name, member in OPTIMIZERS.items()},
    "schedule": {name: member.options for name, member in SCHEDULES.items()},
}
# An id in this file is in somebody's store. A test that fails here means that their runs would be trained again:
# the change that did it needs `new_field(as_before=...)`, the file stays.
GOLDEN = json.loads((Path(__file__).parent / "golden_ids.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["what"])
def test_a_recorded_run_keeps_its_id(case):
    run = restore(case["record"], OPTIONS)
    assert run.run_id == case["id"]
    assert restore(json.loads(json.dumps(record(run))), OPTIONS) == run


def test_the_pinned_ids_differ():
    assert len(GOLDEN) == 10
    assert len({case["id"] for case in GOLDEN}) == 10


def paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict):
        return [found for key, held in value.items() for found in paths(held, (*path, key))]
    return [path]


UNHASHED = {("task", "origin"), ("evaluation", "every"), ("evaluation", "sets")}


@pytest.mark.parametrize("path", paths(GOLDEN[0]["record"]), ids=".".join)
def test_every_field_but_the_unhashed_ones_moves_the_id(path):
    changed = json.loads(json.dumps(GOLDEN[0]["record"]))
    at = changed
    for key in path[:-1]:
        at = at[key]
    held = at[path[-1]]
    if path[-1] == "name":  # another member, under whatever name
        run = restore(GOLDEN[0]["record"], OPTIONS)
        part = getattr(run, path[0])
        other = dataclasses.replace(run, **{path[0]: dataclasses.replace(part, name="other")})
        assert other.run_id != run.run_id
        return
    if isinstance(held, bool):
        at[path[-1]] = not held
    elif isinstance(held, str):
        at[path[-1]] = f"{held}x"
    elif isinstance(held, list):
        at[path[-1]] = [*held, "x"]
    else:
        at[path[-1]] = (held or 0) + 1
    moved = restore(changed, OPTIONS).run_id != GOLDEN[0]["id"]
    assert moved == (path not in UNHASHED)


@given(st.randoms(use_true_random=False), st.sampled_from(GOLDEN))
def test_an_id_ignores_the_order_of_keys_and_how_a_number_is_written(random, case):
    def shuffled(value):
        if isinstance(value, dict):
            items = [(key, shuffled(held)) for key, held in value.items()]
            random.shuffle(items)
            return dict(items)
        if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5 and abs(value) < 2**53:
            return float(value)
        return value

    assert restore(shuffled(case["record"]), OPTIONS).run_id == case["id"]


def test_a_field_added_later_leaves_the_ids_of_older_runs_alone():
    @dataclasses.dataclass(frozen=True)
    class Before:
        width: int

    @dataclasses.dataclass(frozen=True)
    class After:
        width: int
        qk_norm: bool = new_field(default=True, as_before=False)

    old = dataclasses.replace(restore(GOLDEN[0]["record"], OPTIONS), model=Member("m", 1, Before(8)))
    options = {**OPTIONS, "model": {"m": After}}
    read = restore(record(old), options)
    assert read.model.options == After(8, qk_norm=False)
    assert read.run_id == old.run_id
    new = dataclasses.replace(old, model=Member("m", 1, After(8)))
    assert new.run_id != old.run_id


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_has_no_identity(value):
    with pytest.raises(ValueError, match="no place in an identity"):
        canonical({"lr": value})


SWEEP = """\
name = "tiny"
[model]
family = "decoder"
d_model = {width}
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
symbols = 8
[train]
tokens = {tokens}
batch_tokens = 64
lr = {lr}
{more}
"""


def run_id(width="8", tokens="640", lr="0.01", more=""):
    return parse_sweep(SWEEP.format(width=width, tokens=tokens, lr=lr, more=more)).cells[0].run.run_id


def test_an_id_does_not_depend_on_how_the_file_says_it():
    same = {
        run_id(),
        run_id(tokens="6.4e2", lr="1e-2"),
        run_id(width="{ grid = [8.0] }"),
        run_id(lr='{ rule = "0.08 / d_model" }'),
        run_id(tokens="650"),
        run_id(more="weight_decay = 0.1\nseed = 0"),
        run_id(
            more='[runtime]\nmicro_batch = 1\n[on_error]\nretries = 9\n[slurm]\naccount = "x"\n'
            "[ray]\npilots = 3\n[eval]\nevery = 3"
        ),
    }
    assert len(same) == 1


def test_what_changes_the_number_changes_the_id():
    ids = [
        run_id(),
        run_id(width="16"),
        run_id(tokens="704"),
        run_id(lr="0.02"),
        run_id(more="seed = 1"),
        run_id(more='precision = "bf16"'),
        run_id(more="warmup = 2"),
        run_id(more="[eval]\ntokens = 640"),
    ]
    assert len(set(ids)) == len(ids)


def test_a_text_in_another_place_is_the_same_run_and_its_record_knows_the_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("some text " * 5_000)
    (tmp_path / "other.txt").write_text("other text " * 5_000)

    def planned(path):
        text = SWEEP.format(width="8", tokens="640", lr="0.01", more="")
        return parse_sweep(text.replace('"markov"\nsymbols = 8', f'"text:{path}"')).cells[0].run

    here, there = planned("./t.txt"), planned(tmp_path / "t.txt")
    assert here.run_id == there.run_id != planned("other.txt").run_id
    assert restore(record(there), OPTIONS).task.options.source == f"text:{tmp_path / 't.txt'}"
