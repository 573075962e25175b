"""Twenty steps on the language that is the same on every machine. Kernels differ between CPUs, so to 1e-4.

A loss near 0 differs by as much as its logits do, whatever is left of it: 6e-8 of 4.4e-4 between two CPUs.
"""

import json
from pathlib import Path

import pytest

from scalectl.core.job import Job, Placement
from scalectl.core.rows import Row
from scalectl.models import MODELS
from scalectl.train.loop import train

GOLDEN = Path(__file__).parent / "golden/twenty-steps.json"


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "rotary", "encoder-decoder", "vit"])
def test_twenty_steps_give_the_losses_of_the_golden_file(make_run, request, name):
    run = make_run(steps=20, every=5, **({"family": name} if name in MODELS else {"position": name}))
    rows = [event for event in train(Job((run,), Placement())) if isinstance(event, Row)]
    found = [[row.step, row.split, row.metric, row.value] for row in rows]
    held = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(held | {name: found}, indent=1) + "\n")
        return
    assert [row[:3] for row in found] == [row[:3] for row in held[name]]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in held[name]], rel=1e-4, abs=1e-6)
