"""A laboratory for faults: tiny runs of the known language in real workers, driven from the test's own process."""

import psutil
import pytest

from scalectl.core.job import Job, Placement
from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.executors.drive import Policy, drive
from scalectl.executors.local import LocalExecutor, slots
from scalectl.models.decoder.spec import Options as DecoderOptions
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.store.layout import open_store
from scalectl.store.live import state_of
from scalectl.store.reader import read_run
from scalectl.tasks import TASKS, markov

DATA = markov.Options(length=50_000)


class Lab:
    def __init__(self, root):
        self.store = open_store(root / "results")
        self.store.prepare()
        self.root = root
        self.executor = LocalExecutor(self.store.root, slots("cpu", 1))
        self.others = []

    def beside(self, name):
        """Another laboratory, with a store of its own."""
        self.others.append(Lab(self.root / name))
        return self.others[-1]

    def close(self):
        for held in (*self.others, self):
            held.executor.close(kill=True)

    def run(self, seed=0, steps=20, sequences=2):
        about = TASKS["markov"].describe(DATA)
        return RunConfig(
            model=Member("decoder", 1, DecoderOptions(8, 1, 2, 16, about.vocab)),
            task=Task("markov", 1, DATA, about.fingerprint, 160),
            optim=Member("adamw", 1, AdamWOptions(3e-3)),
            schedule=Member("wsd", 1, ScheduleOptions(2, 4)),
            steps=steps,
            sequences=sequences,
            seed=seed,
            precision="fp32",
            evaluation=Evaluation(10),
        )

    def job(self, *runs, **placement):
        return Job(runs, Placement(**placement))

    def driven(self, *jobs, policy=None, stopping=lambda: 0):
        """Everything that happens; idle workers end first, so that a change of the environment is seen."""
        self.executor.close()
        return list(drive(jobs, self.executor, self.store, policy or Policy(), stopping))

    def state(self, run):
        return str(state_of(self.store, run.run_id).state)

    def rows(self, run):
        return read_run(self.store.run_file(run.run_id)).rows()


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    yield made
    made.close()
    assert not [child for child in psutil.Process().children() if "scalectl.train.worker" in child.cmdline()]
