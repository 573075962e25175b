"""Whatever trains a decoder: this engine and its peers, each as a function that takes one training step.

    python bench/contenders.py CORE     requests on stdin, answers on stdout, one JSON line each

A step is: fetch the batch, forward, backward, clip the gradient at norm 1, AdamW. All fetch by the engine's own
gather. One process holds all contenders of a shape and runs one at a time, on one thread of one core.

A contender is named by a dict: `kind` (engine, plain, hf, nanogpt, litgpt, peak) and what it can be set to:
    engine   precision, k (models in one step)
    peers    precision (bf16 is autocast), optimizer (fused, foreach, as_is), compile
    hf       attention, activation besides
    nanogpt, litgpt   path of a checkout besides
    peak     precision: a product of large matrices
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from plain_gpt2 import GPT2, parameter_groups
from shapes import Shape
from torch import Tensor, nn

from scalectl.core.job import Job, Placement
from scalectl.tasks import TASKS
from scalectl.train.loop import Trainer

VOCAB = 256
RATE, BETAS = 1e-3, (0.9, 0.95)
PEAK_SIZE = {"fp32": 1024, "bf16": 2048}  # a side of the matrices; larger ones were no faster
Spec = dict[str, Any]
Model = Callable[[Tensor, Tensor], Tensor]  # tokens and targets, each (B, T), to the mean loss


@dataclass(frozen=True)
class Contender:
    """step: takes one step; work: of a step, in tokens or, for the peak, FLOPs."""

    step: Callable[[], Any]
    work: float


def build(spec: Spec, shape: Shape) -> Contender:
    """The contender of a spec. Raises: ImportError where a package or a checkout is not what it should be."""
    if spec["kind"] == "peak":
        return peak(spec["precision"])
    if spec["kind"] == "engine":
        return Contender(trainer(shape, spec["precision"], spec["k"]).step, shape.batch_tokens * spec["k"])
    module, model = {"plain": plain, "hf": hugging_face, "nanogpt": nanogpt, "litgpt": litgpt}[spec["kind"]](
        spec, shape
    )
    module.train()
    if spec.get("compile"):
        model = torch.compile(model)
    optimizer = optimizer_of(module, spec["optimizer"])
    parameters = list(module.parameters())
    batches = batches_of(shape)
    half = spec["precision"] == "bf16"

    def step() -> None:
        tokens, targets = next(batches)
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            loss = model(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return Contender(step, shape.batch_tokens)


def trainer(shape: Shape, precision: str, k: int) -> Trainer:
    """The engine with k models of other seeds."""
    return Trainer(Job(tuple(shape.run(precision, seed) for seed in range(k)), Placement()))


def batches_of(shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets, the batches of the engine's seed 0."""
    data = TASKS["text"].open_data(shape.run("fp32", 0).task.options)
    for step in itertools.count():
        tokens = torch.from_numpy(data.batch(0, step, shape.sequences, shape.context))
        yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def optimizer_of(module: nn.Module, how: str) -> torch.optim.Optimizer:
    """AdamW. how: fused, foreach, or as_is: what the peer's own recipe makes of it on a CPU."""
    if how == "as_is" and hasattr(module, "configure_optimizers"):
        made: torch.optim.Optimizer = module.configure_optimizers(0.1, RATE, BETAS, "cpu")
        return made
    chosen = {} if how == "as_is" else {how: True}
    return torch.optim.AdamW(parameter_groups(module), lr=RATE, betas=BETAS, **chosen)


def with_loss(logits_of: Callable[[Tensor], Tensor]) -> Model:
    """Cross-entropy on the logits of a model."""
    return lambda tokens, targets: F.cross_entropy(logits_of(tokens).flatten(0, 1), targets.flatten())


def plain(spec: Spec, shape: Shape) -> tuple[nn.Module, Model]:
    """plain_gpt2.py."""
    module = GPT2(shape.layers, shape.width, shape.heads, shape.context, VOCAB)
    return module, with_loss(module)


def hugging_face(spec: Spec, shape: Shape) -> tuple[nn.Module, Model]:
    """GPT-2 of transformers, without dropout. The loss is ours: its own copies the logits once more."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        activation_function=spec["activation"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=spec["attention"],
    )
    module = GPT2LMHeadModel(config)
    return module, with_loss(lambda tokens: module(input_ids=tokens).logits)


def nanogpt(spec: Spec, shape: Shape) -> tuple[nn.Module, Model]:
    """model.py of a nanoGPT checkout."""
    with on_path(spec["path"]):
        from model import GPT, GPTConfig
    config = GPTConfig(
        block_size=shape.context,
        vocab_size=VOCAB,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        dropout=0.0,
        bias=True,
    )
    module = GPT(config)
    return module, lambda tokens, targets: module(tokens, targets)[1]


def litgpt(spec: Spec, shape: Shape) -> tuple[nn.Module, Model]:
    """GPT of a litgpt checkout in its sequential GPT-NeoX form; positions are rotary, as litgpt has no others."""
    with on_path(spec["path"]):
        from litgpt.config import Config
        from litgpt.model import GPT
    config = Config(
        block_size=shape.context,
        vocab_size=VOCAB,
        padded_vocab_size=VOCAB,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        parallel_residual=False,
        rotary_percentage=1.0,
        attn_bias=True,
        gelu_approximate="tanh",
    )
    module = GPT(config)
    module.apply(module._init_weights)
    module.lm_head.weight = module.transformer.wte.weight  # tied, as the others
    return module, with_loss(module)


@contextlib.contextmanager
def on_path(folder: str) -> Iterator[None]:
    """A checkout first on the import path."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def peak(precision: str) -> Contender:
    """The product of two large matrices."""
    size = PEAK_SIZE[precision]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = (torch.randn(size, size).to(kind) for _ in range(2))
    out = torch.empty(size, size, dtype=kind)
    return Contender(lambda: torch.mm(a, b, out=out), 2 * size**3)


def measure(contender: Contender, seconds: float) -> dict[str, float]:
    """Work per second of the clock and of the processor, over at least one step after one that is not timed."""
    contender.step()
    steps, begin, worked = 0, time.perf_counter(), time.process_time()
    while steps < 1 or time.perf_counter() - begin < seconds:
        contender.step()
        steps += 1
    done = steps * contender.work
    return {"wall": done / (time.perf_counter() - begin), "cpu": done / (time.process_time() - worked)}


def serve(core: int) -> None:
    """Answer requests until stdin ends; contenders are built when first asked for, and forgotten with their shape."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what peers print is no answer
    shape: Shape | None = None
    held: dict[str, Contender] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if Shape(**request["shape"]) != shape:
            shape = Shape(**request["shape"])
            held.clear()
        if "profile" in request:
            from components import profile

            answers.write(json.dumps(profile(shape, **request["profile"])) + "\n")
            continue
        name = json.dumps(request["spec"])
        try:
            if name not in held:
                held[name] = build(request["spec"], shape)
            answer: Any = measure(held[name], request["seconds"])
        except ImportError as error:
            answer = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
