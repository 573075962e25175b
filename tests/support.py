"""What tests of the command line share."""

import contextlib
import itertools
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[1]
# The published tables, which are no part of the repository; tests that read them are skipped where they are not.
PUBLISHED = Path(os.environ.get("SCALECTL_REFERENCES") or REPOSITORY.parent / "shared" / "data")
SWEEP = """\
name = "tiny"
question = "Does loss fall with width?"

[model]
family = "decoder"
d_model = { grid = [8, 16, 32] }
n_layer = 1
n_head = 2
context = 16

[data]
source = "markov"
length = 200000

[train]
steps = 30
batch_tokens = 64
lr = 0.01
warmup = 4
seed = { grid = [0, 1] }

[eval]
every = 10
tokens = 480
"""


def pairwise(*axes, slow=lambda *values: False):
    """The product of these axes as parameters. In every run of the tests are those that together hold each pair of
    values of two axes, where the last is no longer than the others; the rest, and what slow(*values) says, are slow."""
    cells = []
    for at in itertools.product(*(range(len(axis)) for axis in axes)):
        values = [axis[i] for axis, i in zip(axes, at, strict=True)]
        left_out = sum(at) % len(axes[-1]) != 0 or slow(*values)
        cells.append(pytest.param(*values, marks=[pytest.mark.slow] if left_out else []))
    return cells


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCALECTL_", "COLUMNS"))}
    kept["SCALECTL_CACHE"] = os.environ["SCALECTL_CACHE"]  # of the tests (conftest.py), never the user's
    return {**kept, "NO_COLOR": "1", "COLUMNS": "100", **more}


def a_moment():
    """A second of an idle machine, on this one as it is: 6.5 times reading a harmless list of 100,000 numbers."""
    begin = time.process_time()
    tomllib.loads("x = [" + "1," * 100_000 + "]")
    return 6.5 * (time.process_time() - begin)


def in_moments(work, moments=1.0, tries=3):
    """What work() returns, which may take so many moments at the best of these tries: a busy machine slows one of two
    measurements more than the other."""
    for left in reversed(range(tries)):
        most = moments * a_moment()
        begin = time.process_time()
        done = work()
        spent = time.process_time() - begin
        if spent < most:
            return done
        assert left, f"{spent:.2f} s, and {most:.2f} s are allowed"
    raise AssertionError


def one_run(steps, seeds="[0]", **runtime):
    """A sweep file of the smallest model, one run for each seed, with its [runtime] table."""
    text = SWEEP.replace("[8, 16, 32]", "[8]").replace("[0, 1]", seeds).replace("steps = 30", f"steps = {steps}")
    return text + "\n[runtime]\n" + "".join(f"{key} = {value}\n" for key, value in runtime.items())


def started(folder, *arguments, prefix=(), **more):
    """`scalectl ARGUMENTS` in a folder, a process under way with its output in pipes."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "scalectl.cli", *map(str, arguments)],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Kill a process of `started`, if it goes on, and close its pipes."""
    process.kill()
    process.communicate()


def wait_until(found, process=None, seconds=200):
    """Wait for something true, while the process goes on; returns it."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError):  # of a folder that is just being removed
            if held := found():
                return held
        assert time.monotonic() < deadline, "it never happened"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended with code {process.returncode}\n" + "\n".join(process.communicate()))
        time.sleep(0.02)


def rows_of(folder):
    """All measurements of a folder's results, without their times, in one order."""
    import pandas as pd

    frame = pd.read_parquet(Path(folder) / "results/runs").drop(columns="seconds")
    return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


def trainers(folder):
    """Living processes that train into a folder's results, by pid."""
    root = str((Path(folder) / "results").resolve())
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "scalectl.train.worker" in line and root in line and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    return found
