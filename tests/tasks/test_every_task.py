"""Every task with answers trains from a sweep file, and every evaluation stores what the detector of jumps needs."""

import pyarrow.parquet as pq
import pytest

SWEEP = """\
name = "every-task"

[model]
family = "decoder"
d_model = 8
n_layer = 1
n_head = 2

[train]
steps = 4
batch_tokens = { rule = "8 * context" }
lr = 0.01

[eval]
every = 2
tokens = 640

[[block]]
data.source = "arithmetic"
data.operation = { grid = ["add", "sub", "mul"] }
data.answer = { grid = ["plain", "reversed", "scratchpad"] }

[[block]]
data.source = "parity"
data.bits = 10
data.scratchpad = { grid = [false, true] }

[[block]]
data.source = "induction"

[[block]]
data.source = "in-context"
data.kind = { grid = ["classification", "regression"] }

[[block]]
data.source = "modular"
data.operation = { grid = ["add", "mul"] }

[[block]]
data.source = "multitask-parity"
data.subtasks = 4
data.bits = 12
"""
STORED = {"loss", "loss_se", "exact_match", "position_accuracy", "answer_logprob", "chance", "items"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory, scalectl):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "every-task.toml").write_text(SWEEP)
    scalectl("sweep", "every-task.toml", cwd=folder)
    index = pq.read_table(folder / "results" / "index.parquet").to_pylist()
    frame = pq.read_table(folder / "results" / "runs").to_pandas()
    return [(run, frame[(frame.run_id == run["run_id"]) & (frame.split == "held-out")]) for run in index]


def test_every_evaluation_of_every_task_stores_the_same_scores(rows):
    assert len(rows) == 17
    for run, held in rows:
        assert run["state"] == "done"
        assert set(held.step) == {2, 4}
        for _, found in held.groupby("step"):
            values = dict(zip(found.metric, found.value, strict=True))
            assert set(values) >= STORED, run
            assert 0 <= values["exact_match"] <= 1
            assert 0 < values["chance"] < 1
            assert values["items"] >= 30
            assert values["answer_logprob"] < 0
            places = [value for name, value in values.items() if name.startswith("position_accuracy_")]
            assert len(places) == (0 if run["model.answers"] == 1 else run["model.answers"])
            if places:
                assert sum(places) / len(places) == pytest.approx(values["position_accuracy"])
                assert values["exact_match"] <= min(places)
            assert ("generated_match" in values) == (
                run["data.answer"] == "scratchpad" or run["data.scratchpad"] is True
            ), run
