"""A sweep of twelve tiny runs on a real cluster, as a process under way whose words are read as they come."""

import re
import subprocess
import sys

import pandas as pd
from cluster import wait_for
from support import SWEEP, environment


class Lab:
    """`write(steps)` writes the sweep with what a cluster needs more (block); `sweep()` starts it on the engine."""

    def __init__(self, folder, engine, block, variables):
        self.folder, self.engine, self.block, self.variables = folder, engine, block, variables
        self.started = None

    def write(self, steps):
        text = SWEEP.replace("steps = 30", f"steps = {steps}").replace("[0, 1]", "[0, 1, 2, 3]") + self.block
        (self.folder / "tiny.toml").write_text(text.replace("every = 10", "every = 50"))

    def sweep(self, *more):
        with (self.folder / "out").open("a") as log:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml", "--engine", self.engine, *more],
                cwd=self.folder, env=environment(**self.variables), stdout=log, stderr=log,
            )  # fmt: skip

    def said(self):
        return " ".join((self.folder / "out").read_text().split())

    def hears(self, pattern, seconds=200):
        wait_for(lambda: re.search(pattern, self.said()) or self.started.poll() is not None, seconds)
        found = re.search(pattern, self.said())
        assert found, self.said()
        return found

    def end(self):
        if self.started is not None and self.started.poll() is None:
            self.started.kill()
            self.started.wait()


def measured(folder):
    """Every held-out loss, once."""
    frame = pd.read_parquet(folder / "results/runs")
    assert not frame.duplicated(["run_id", "step", "split", "metric"]).any()
    kept = frame[(frame["split"] == "held-out") & (frame["metric"] == "loss")]
    return kept.set_index(["run_id", "step"])["value"].sort_index()
