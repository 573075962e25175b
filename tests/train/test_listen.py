"""What a script says, as rows: JSON, printed lines, nonsense between them, steps said twice, losses that are none."""

import json
import math
import re

import pytest

from scalectl.core.rows import Row
from scalectl.core.run import CommandRun
from scalectl.train.listen import Heard, Tail, completed, printed, said

RUN = CommandRun(("python", "train.py"), (), (), "sha256:0", "")


def heard(*lines, known=()):
    found = Heard(RUN, {(row.step, row.split, row.metric): row for row in known}, lambda: 5.0)
    for line in lines:
        found.hear(said(line if isinstance(line, bytes) else json.dumps(line).encode()))
    return found


def row(step, value=1.0, seconds=0.0, **more):
    return Row(RUN.run_id, step, 0, 0.0, "held-out", "loss", value, seconds)._replace(**more)


def test_losses_metrics_and_counts_are_taken_in():
    found = heard(
        {"step": 10, "loss": 3.5},
        {"step": 10, "loss": 3.25, "split": "train", "tokens": 640, "flops": 1e6, "lr": 0.1},
        {"step": 20, "metric": "accuracy", "value": 0.5, "split": "test"},
        {"N": 123, "D": 4e6},
    )
    assert found.fresh == [
        row(10, 3.5, 5.0),
        row(10, 3.25, 5.0, split="train", tokens=640, flops=1e6),
        row(20, 0.5, 5.0, split="test", metric="accuracy"),
    ]
    assert found.counts == {"N": 123, "D": 4e6}
    assert found.unread == 0


def test_counts_that_no_run_can_have_are_left_out_and_named():
    found = heard({"N": 1e30, "D": 64}, {"N": 100, "C": 1e308}, {"D": 2**63, "C": "lots"}, {"N": 10**400})
    assert found.counts == {"N": 100, "D": 64, "C": 1e308}
    assert found.no_counts == {"N": "a huge integer", "D": "9223372036854775808", "C": '"lots"'}
    assert found.unread == 0


@pytest.mark.parametrize(
    "line",
    [
        b"epoch 3 done",
        b"[1, 2]",
        b'{"step": 1}',
        b'{"loss": 2.0}',
        b'{"step": 1.5, "loss": 2}',
        b'{"step": -1, "loss": 2}',
        b'{"step": 1, "loss": "low"}',
        b'{"step": 1, "loss": 2',
        b'{"step": true, "loss": 2}',
        b'{"step": 1, "loss": 2, "tokens": -1}',
        b'{"step": 1, "metric": "a/b", "value": 2}',
        b'{"step": 1, "metric": 3, "value": 2}',
        b'{"step": 1e400, "loss": 2}',
        b'{"N": -3}',
        b'{"N": "many"}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"step": 1, "metric": "accuracy", "value": NaN}',
    ],
)
def test_what_is_no_row_is_counted_and_left_out(line):
    found = heard({"step": 1, "loss": 2.0}, line, {"step": 2, "loss": 1.0})
    assert [held.step for held in found.fresh] == [1, 2]
    assert not found.diverged
    assert found.unread == (line[:4] != b'{"N"')


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", "null", '"nan"'])
def test_a_loss_that_is_no_number_ends_the_run_at_its_step(loss):
    text = f'{{"step": 30, "loss": {loss}}}'.encode()
    found = heard({"step": 20, "loss": 2.5}, text, {"step": 40, "loss": 1.0})
    assert found.diverged.startswith("diverged at step 30 (loss 2.5 -> ")
    assert [held.step for held in found.fresh] == [20]
    assert all(math.isfinite(held.value) for held in found.known.values())


def test_an_attempt_replaces_the_steps_from_where_it_goes_on():
    before = [row(step, 9.0, step) for step in (10, 20, 25, 30)]
    found = heard({"step": 20, "loss": 2.0}, {"step": 30, "loss": 1.0}, {"step": 20, "loss": 1.5}, known=before)
    assert sorted((held.step, held.value, held.seconds) for held in found.known.values()) == [
        (10, 9.0, 10), (20, 1.5, 15.0), (30, 1.0, 15.0)]  # fmt: skip
    assert found.cut
    later = heard({"step": 40, "loss": 2.0}, known=before)
    assert len(later.known) == 5
    assert not later.cut


def test_what_a_dead_attempt_said_is_taken_in_once():
    lines = [{"step": step, "loss": step / 10} for step in (20, 30, 40)]
    on_disk = [row(10, 9.0, 1.0), row(20, 2.0, 2.0), row(30, 3.0, 3.0)]
    found = heard(known=on_disk)
    for line in lines:
        found.again(line)
    assert [(held.step, held.value) for held in found.fresh] == [(40, 4.0)]
    assert [held.seconds for held in found.known.values()][:3] == [1.0, 2.0, 3.0]
    never_read = heard(known=[row(10, 9.0, 1.0), row(35, 9.0, 2.0)])
    for line in lines:
        never_read.again(line)
    assert sorted(held.step for held in never_read.known.values()) == [10, 20, 30, 40]


def test_printed_lines_are_rows_by_the_groups_of_an_expression():
    pattern = re.compile(r"step (?P<step>\d+): train loss \S+, val loss (?P<loss>\S+)")
    found = Heard(RUN, {}, lambda: 0.0)
    for line in (b"loading", b"step 250: train loss 1.9, val loss 2.125", b"step 500: train loss nan, val loss nan"):
        held = printed(pattern, line)
        if held is not None:
            found.hear(held)
    assert [(held.step, held.value) for held in found.fresh] == [(250, 2.125)]
    assert found.diverged == "diverged at step 500 (loss 2.125 -> nan)"


def test_a_growing_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "rows"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntw")
    assert tail.lines() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\nthr")
    assert tail.lines() == [b"two"]
    assert tail.lines(last=True) == [b"thr"]
    assert tail.lines(last=True) == []
    path.write_bytes(b"new\n")
    assert tail.lines() == [b"new"]


def test_tokens_and_flops_follow_from_the_steps_where_the_script_does_not_say():
    rows = [row(50), row(100), row(100, split="train", tokens=7, flops=3.0)]
    assert [(held.tokens, held.flops) for held in completed(rows, {"N": 10, "D": 1000.0, "C": None}, 100)] == [
        (500, 30_000.0), (1000, 60_000.0), (7, 3.0)]  # fmt: skip
    assert [held.flops for held in completed(rows, {"N": 10, "D": 1000.0, "C": 8.0}, 100)] == [4.0, 8.0, 3.0]
    assert completed(rows, {"N": None, "D": 1000.0, "C": None}, None) == rows


def test_a_row_without_a_split_is_held_out_only_where_no_other_says_it_is():
    held = {"split": "held-out"}
    assert heard({"step": 1, "loss": 3}, {"step": 2, "loss": 2}).fresh == [row(1, 3.0, 5.0), row(2, 2.0, 5.0)]
    found = heard(
        {"step": 1, "loss": 9}, {"step": 1, "loss": 3} | held, {"step": 1, "loss": 8}, {"step": 2, "loss": 7},
        {"step": 2, "metric": "accuracy", "value": 0.5}, {"step": 2, "loss": 6, "split": "train"},
    )  # fmt: skip
    assert found.fresh == [
        row(1, 3.0, 5.0),
        row(2, 0.5, 5.0, metric="accuracy"),
        row(2, 6.0, 5.0, split="train"),
    ]
    assert found.left_out == 3
    found = heard({"step": 1, "loss": 9}, {"step": 2, "loss": 8}, {"step": 2, "loss": 3} | held)
    assert list(found.known.values()) == found.fresh == [row(2, 3.0, 5.0)]
    assert (found.left_out, found.cut) == (2, True)
    assert heard({"step": 1, "loss": 3} | held, {"step": 2, "loss": math.nan}).diverged  # whichever loss it is
