"""What tests of the command line share."""

import os
import time
import tomllib
from pathlib import Path

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


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCALECTL_", "COLUMNS"))}
    kept["SCALECTL_CACHE"] = os.environ["SCALECTL_CACHE"]  # of the tests (conftest.py), never the user's
    return {**kept, "NO_COLOR": "1", "COLUMNS": "100", **more}


def a_moment():
    """A second of an idle machine, on this one as it is: 6.5 times reading a harmless list of 100,000 numbers."""
    begin = time.process_time()
    tomllib.loads("x = [" + "1," * 100_000 + "]")
    return 6.5 * (time.process_time() - begin)
