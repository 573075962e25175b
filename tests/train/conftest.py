"""Tiny runs to train."""

import pytest
import torch

from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.models.decoder.spec import Options as DecoderOptions
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.tasks import TASKS, markov


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_run():
    def make(
        *,
        d_model=16,
        seed=0,
        steps=12,
        decay=4,
        lr=3e-3,
        precision="fp32",
        every=5,
        sequences=4,
        context=24,
        n_head=4,
        **options,
    ):
        data = markov.Options(length=100_000)
        about = TASKS["markov"].describe(data)
        optim = {name: options.pop(name) for name in ("weight_decay", "clip", "beta2") if name in options}
        return RunConfig(
            model=Member("decoder", 1, DecoderOptions(d_model, 2, n_head, context, about.vocab, **options)),
            task=Task("markov", 1, data, about.fingerprint, 480),
            optim=Member("adamw", 1, AdamWOptions(lr, **optim)),
            schedule=Member("wsd", 1, ScheduleOptions(warmup=3, decay=decay)),
            steps=steps,
            sequences=sequences,
            seed=seed,
            precision=precision,
            evaluation=Evaluation(every),
        )

    return make
