"""The places where tests break real processes."""

import pytest

from scalectl.core import fault
from scalectl.core.errors import UsageError


def test_a_setting_is_read():
    found = fault.planned("worker.after_step:412=kill,worker.rows=raise@a/file")
    assert found == (("worker.after_step", 412, "kill", ""), ("worker.rows", None, "raise", "a/file"))
    assert fault.planned("") == ()
    assert fault.PLANNED == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker.after_stp:3=kill", "did you mean worker.after_step"),
        ("worker.rows=kil", "did you mean kill"),
        ("worker.rows:x=kill", "is not a step"),
        ("worker.rows", "is not known"),
        ("worker.rows=note", "a note needs a file"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        fault.planned(text)
    assert said in str(caught.value)


def test_a_fault_with_a_step_happens_when_it_is_passed(monkeypatch):
    monkeypatch.setattr(fault, "PLANNED", fault.planned("engine.loss:5=nan"))
    assert [fault.hit("engine.loss", step) for step in (4, 5, 6)] == ["", "nan", ""]
    assert fault.hit("engine.loss", 8, since=3) == "nan"
    assert fault.hit("engine.gradients", 5) == ""


def test_a_fault_with_a_file_happens_once(monkeypatch, tmp_path):
    monkeypatch.setattr(fault, "PLANNED", fault.planned(f"worker.rows=raise@{tmp_path / 'once'}"))
    with pytest.raises(RuntimeError, match=r"planned at worker\.rows"):
        fault.hit("worker.rows")
    assert fault.hit("worker.rows") == ""


def test_a_note_says_each_time_who_was_where(monkeypatch, tmp_path):
    monkeypatch.setattr(fault, "PLANNED", fault.planned(f"worker.after_file=note@{tmp_path / 'notes'}"))
    for step in (3, 5):
        assert fault.hit("worker.after_file", step, run="ab12") == ""
    lines = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert [line[2:] for line in lines] == [["worker.after_file", "ab12", "3"], ["worker.after_file", "ab12", "5"]]
