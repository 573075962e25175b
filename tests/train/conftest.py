"""Tiny runs to train."""

import pytest
import torch

from scalectl.core.run import Evaluation, Member, RunConfig, Task
from scalectl.models import MODELS
from scalectl.optim import AdamWOptions
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.tasks import TASKS, arithmetic, markov, parity, two_patches

# what each family learns from
LEARNT = {
    "decoder": ("markov", markov.Options(length=100_000)),
    "encoder-decoder": ("arithmetic", arithmetic.Options(problems=2_000)),
    "mlp": ("parity", parity.Options(problems=2_000)),
    "vit": ("two-patches", two_patches.Options(images=2_000)),
}


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
        family="decoder",
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
        task, data = LEARNT[family]
        about = TASKS[task].describe(data)
        own = {"d_model": d_model, "n_layer": 2, "n_head": n_head, "context": context, "patch": 4, "width": d_model}
        known = MODELS[family].options.__dataclass_fields__
        held = {name: value for name, value in {**own, **about.given}.items() if name in known}
        optim = {name: options.pop(name) for name in ("weight_decay", "clip", "beta2") if name in options}
        return RunConfig(
            model=Member(family, 1, MODELS[family].options(**{**held, **options})),
            task=Task(task, 1, data, about.fingerprint, 480),
            optim=Member("adamw", 1, AdamWOptions(lr, **optim)),
            schedule=Member("wsd", 1, ScheduleOptions(warmup=3, decay=decay)),
            steps=steps,
            sequences=sequences,
            seed=seed,
            precision=precision,
            evaluation=Evaluation(every),
        )

    return make
