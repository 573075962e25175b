"""`scalectl init`: a commented sweep file to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scalectl.core.errors import StoreError, UsageError
from scalectl.store.files import atomic_write

TEMPLATE = """\
# A sweep: every combination of the grids below is one run. `scalectl plan {file}` shows what it costs.
name = "{name}"
question = "How does byte-level loss on the Python standard library fall with model size?"

[model]                                # science: a change here is another run
family = "decoder"                     # a GPT-2-shaped language model
d_model = {{ grid = [8, 16, 32, 64] }}   # the axis: width
n_layer = 2
n_head = 4                             # held fixed along the width axis
context = 96                           # tokens in a sequence
# position = "learned"                 # or "sinusoidal", "rotary"
# norm_first = true                    # false: norms after the residual sums
# activation = "gelu_tanh"             # or "gelu", "relu"
# window = 32                          # tokens that attention sees; 0 for all of the context

[data]
source = "stdlib"                      # Python's own source; or "text:PATH", "parquet:PATH#COLUMN", "hf:NAME",
                                       # "tokens:PATH.bin" (scalectl prepare), or "markov" (known floor)
# tokenizer = "PATH.json"              # of text: a file of the package tokenizers; bytes without it
# unique_tokens = 1e6                  # repeat this much data

[train]
tokens = 460800                        # exactly one of tokens, tokens_per_param, flops, steps; each may be a grid;
                                       # tokens_per_param counts all parameters
batch_tokens = 2304                    # a multiple of context
lr = {{ rule = "min(0.03, 0.4 / d_model)" }}
schedule = "wsd"                       # warm-up, stable, decay; or "cosine", "linear", "constant"
warmup = 20                            # steps, so that runs that differ in length alone share a trunk; or a share
decay = 0.2                            # share of the run
precision = "fp32"                     # or "bf16"; on a GPU also "tf32", "fp16"
seed = {{ grid = [0, 1] }}               # at least two, to tell noise from law

[eval]
every = 50                             # steps
"""


@dataclass(frozen=True)
class Created:
    """The file that was written."""

    path: Path


def run(folder: str) -> Created:
    """Write the file.

    Raises: UsageError if it exists already or cannot be written.
    """
    path = Path(folder) / "sweep.toml"
    if path.exists():
        raise UsageError(f"{path} exists already", remedy="name another folder: scalectl init DIR")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, TEMPLATE.format(file=path, name="my-ladder").encode())
    except (OSError, StoreError) as error:
        said = error.where if isinstance(error, StoreError) else f"{path.parent}: {error.strerror}"
        raise UsageError(
            f"{path} cannot be written", where=said, remedy="name another folder: scalectl init DIR"
        ) from error
    return Created(path)
