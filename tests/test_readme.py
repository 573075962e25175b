"""Every example of the README is executed, in order, and says what the README shows (its numbers aside)."""

import re
import shlex

import numpy as np
import pytest
from support import REPOSITORY

from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep
from scalectl.tasks import digits

README = REPOSITORY / "README.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SWEEP = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERBS = (
    "init",
    "plan",
    "sweep",
    "status",
    "logs",
    "fit",
    "predict",
    "compare",
    "backtest",
    "report",
    "import",
    "export",
    "prepare",
    "doctor",
)


def examples(text):
    """Command and shown output of each block; blocks hold one command."""
    for block in BLOCK.findall(text):
        command, _, shown = block.partition("\n")
        assert command.startswith("$ scalectl "), command
        yield command.removeprefix("$ "), shown


def words(text):
    """What does not depend on the machine: words, with every number alike."""
    return [re.sub(r"[\d.,]*\d", "#", word) for word in text.split() if not re.search(r"[⠀-⣿░]", word)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_examples_of_the_readme_run_and_say_what_it_shows(scalectl, place, request):
    text = README.read_text(encoding="utf-8")
    for command, shown in list(examples(text)):
        said = scalectl(*shlex.split(command)[1:], cwd=place, COLUMNS="80").stdout
        if request.config.getoption("--update-golden") and shown:
            text = text.replace(f"$ {command}\n{shown}```", f"$ {command}\n{said.rstrip()}\n```", 1)
        elif shown:
            assert words(said) == words(shown), f"{command} says:\n{said}"
    if request.config.getoption("--update-golden"):
        README.write_text(text, encoding="utf-8")


def test_the_notebook_of_the_readme_runs():
    (code,) = (block for block in PYTHON.findall(README.read_text(encoding="utf-8")) if "from scalectl" in block)
    held = {}
    exec(compile(code, "README.md", "exec"), held)
    assert len(held["table"]) == len(held["points"]) > 0
    assert held["intervals"]["identified"].dtype == bool
    assert (held["answers"]["low"] < held["answers"]["high"]).all()


def test_every_sweep_of_the_readme_can_be_planned(monkeypatch):
    monkeypatch.setattr(digits, "_samples", lambda: np.zeros((1_797, 65), np.uint8))  # scikit-learn is an extra
    monkeypatch.setattr(digits, "_split", digits._split.__wrapped__)
    sweeps = SWEEP.findall(README.read_text(encoding="utf-8"))
    assert len(sweeps) >= 2
    for text in sweeps:
        assert len(expand(parse_sweep(text, path="README.md"))) == 3


def test_every_verb_has_an_example_or_is_shown(scalectl):
    text = README.read_text(encoding="utf-8")
    assert all(f"scalectl {verb}" in text for verb in VERBS)
