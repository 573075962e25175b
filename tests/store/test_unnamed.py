"""Which columns of a table are settings that vary unsaid, and which are measurements, names or times."""

import numpy as np
import pandas as pd
import pytest
from support import PUBLISHED

from scalectl.store.points import table_points, vary

SIZES, BUDGETS = np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 4)
CELLS = [(N, D) for N in SIZES for D in BUDGETS]
RNG = np.random.default_rng(0)


def table(**columns):
    """Twenty cells with three rows each; every further column of shape (60,), or (3,), alike in every cell."""
    N, D = np.repeat(np.array(CELLS), 3, axis=0).T
    loss = 1.7 + 400 / N**0.34 + 410 / D**0.28 + 0.01 * RNG.random(60)
    return pd.DataFrame({"N": N, "D": D, "loss": loss, **{k: np.resize(v, 60) for k, v in columns.items()}})


def moving(steps):
    """Three rates about one that falls with the size, on one grid for all."""
    return np.concatenate([10.0 ** -(np.arange(3) + steps * size) for size in range(5) for _ in BUDGETS])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [1e-4, 3e-4, 1e-3]),
        ("eta", [1e-4, 3e-4, 1e-3]),  # a grid says by its values that it is one
        ("eta", moving(1)),
        ("peakLR", 10.0 ** RNG.uniform(-4, -2, 60)),  # a random search says by its name
        ("learning_rate", 10.0 ** RNG.uniform(-4, -2, 60)),
        ("global_batch_size", [32, 64, 128]),
        ("heads", [2, 2, 4]),
        ("recipe", np.array(["a", "b", "b"])),
        ("tied", np.array([True, False, False])),
        ("dataset", np.array(["c4", "pile", None], dtype=object)),
        ("k", [0, 1, 2]),  # may count repeats: whoever fits says so
    ],
)
def test_a_setting_that_crosses_sizes_and_budgets_is_named(name, values):
    assert vary(table(**{name: values})[["N", "D", "loss", name]].pipe(table_points)) == (name,)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("run", [f"run-{k}" for k in range(60)]),
        ("row", np.arange(60)),
        ("train_loss", RNG.random(60)),
        ("grad_norm", RNG.random(60)),
        ("accuracy", RNG.integers(5, 8, 60) / 10),
        ("n_correct", RNG.integers(5, 8, 60)),
        ("mmlu", RNG.integers(250, 400, 60) / 1000),  # rounded, and still many values beside those of a cell
        ("wall_time", RNG.integers(1, 4, 60)),
        ("date", np.array(["2024-01-01", "2024-01-02", "2024-01-02"])),
        ("gpus", [8, 16, 16]),
        ("width", np.repeat(np.arange(5), 12)),  # follows from N
        ("budget", np.tile(np.repeat(np.arange(4), 3), 5)),  # follows from D
        ("seed", [0, 1, 2]),
        ("replicate", [0, 1, 2]),
        ("lr", np.repeat(10.0 ** -np.arange(5), 12)),  # one for each size
    ],
)
def test_a_measurement_a_name_and_what_follows_from_the_size_are_not(name, values):
    assert vary(table_points(table(**{name: values}))) == ()


def test_steps_of_dense_checkpoints_follow_from_the_tokens():
    step = np.tile(np.arange(1, 201), 3)
    N = np.repeat(SIZES[:3], 200)
    frame = pd.DataFrame({"N": N, "D": 1e6 * step, "loss": 3 + 1 / step + 1e5 / N, "step": step, "epoch": step / 50})
    assert vary(table_points(frame)) == ()


def test_a_column_that_was_named_as_the_seed_is_no_axis():
    assert vary(table_points(table(k=[0, 1, 2]), {"seed": "k"})) == ()


EPOCH = {"N": "Model Size", "C": "Training FLOP", "L": "loss"}
GEMSTONES = {"N": "params_active_precise", "D": "tokens", "L": "final_loss"}
GADRE = {"N": "params", "D": "tokens", "L": "loss_c4_val"}
BIGBENCH = {"N": "n_params_nominal", "L": "score"}
PORIAN = {"N": "params", "D": "tokens", "C": "flops", "L": "loss"}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs the published tables")
@pytest.mark.parametrize(
    ("file", "mapping", "where", "named"),
    [
        ("epoch_chinchilla/svg_extracted_data", EPOCH, None, ()),
        *((f"gemstones/{name}", GEMSTONES, None, ()) for name in ("hot", "cool_end", "lr_ablation_hot")),
        ("gemstones/hot_sampled_like_chinchilla", GEMSTONES, None, ()),
        ("gemstones/slim_chinchilla", GEMSTONES, None, ()),
        ("gadre_overtraining/models", GADRE, None, ("dataset",)),
        ("gadre_overtraining/models", GADRE, "dataset == 'rpj'", ()),
        ("porian_discrepancies/isoflop_points", PORIAN, None, ("config_id", "dataset", "hparams", "warmup", "decay")),
        ("porian_discrepancies/isoflop_points", PORIAN, "config_id == 'main_0'", ()),
        ("bigbench_lite/bigbench_lite_long", BIGBENCH, "task == 'bbq_lite_json' and family == 'BIG-G T=0'", ()),
    ],
)
def test_published_tables_vary_in_what_their_authors_varied(file, mapping, where, named):
    frame = pd.read_csv(PUBLISHED / f"{file}.csv")
    frame = frame if where is None else frame.query(where)
    assert vary(table_points(frame, mapping)) == named
