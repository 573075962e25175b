"""Every example of the README is executed, in order, and says what the README shows (its numbers aside)."""

import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
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
    "stop",
    "clean",
)


def examples(text):
    """Command and shown output of each block; blocks hold one command."""
    for block in BLOCK.findall(text):
        command, _, shown = block.partition("\n")
        assert command.startswith("$ scalectl "), command
        yield command.removeprefix("$ "), shown


def words(text):
    """What does not depend on the machine: words, with every number alike, and one core or several."""
    text = re.sub(r"\bcores\b", "core", text)
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
        if "[run]" in text:  # its script is no file here
            continue
        assert len(expand(parse_sweep(text, path="README.md"))) == 3


def test_the_script_of_the_readme_is_swept_as_it_shows(scalectl, tmp_path):
    text = README.read_text(encoding="utf-8")
    (script,) = (block for block in PYTHON.findall(text) if block.startswith("# train.py"))
    (sweep,) = (block for block in SWEEP.findall(text) if "[run]" in block)
    assert len(script.splitlines()) <= 36
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "mine.toml").write_text(sweep)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = scalectl("sweep", "mine.toml", "--set", "seed=1", cwd=tmp_path, PATH=path)
    assert "Finished: 3 done." in said.stdout
    scalectl("export", "mine", "-o", "mine.csv", cwd=tmp_path)
    runs = pd.read_csv(tmp_path / "mine.csv").sort_values("params.width")
    assert runs.N_non_embedding.tolist() == [10 * width + 1 for width in runs["params.width"]]
    assert runs["held-out/loss"].is_monotonic_decreasing
    assert set(runs.D) == {200 * 256}


def test_every_verb_has_an_example_or_is_shown(scalectl):
    text = README.read_text(encoding="utf-8")
    assert all(f"scalectl {verb}" in text for verb in VERBS)
