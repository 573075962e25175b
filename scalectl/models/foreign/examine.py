"""Looks at somebody's own model: its arguments, its parameters by use, its FLOPs and memory, and whether it may be one.

    python -m scalectl.models.foreign.examine FOLDER...     questions on stdin, answers on stdout, one JSON line each

Everything is counted on the meta device, where no size costs time and no fused kernel hides its products. What is small
is also computed once: a model that sees the future or another sequence would be trained to a loss that means nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from scalectl.core.cost import Ledger
from scalectl.core.cost import Tensor as Shape
from scalectl.core.errors import UsageError
from scalectl.core.names import escaped
from scalectl.models.foreign.spec import GIVEN, RESERVED

SEQUENCES = 2  # counted at once: one would hide a model that mixes sequences
COMPUTED_FLOPS = 2e10  # of one forward pass up to which a model is also computed; ours: under a second each
LEAK = 1e-3  # share of the logits' own change that counts as none; ours: long convolutions round at 1e-6


def load(name: str, folders: Sequence[str]) -> Callable[..., nn.Module]:
    """Import a model. Raises: UsageError."""
    module, _, attribute = name.partition(":")
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"importing {module} fails: {_said(error)}") from error
        raise UsageError(
            f"there is no module {module} in {', '.join(folders) or 'the installed packages'}",
            remedy="it has to lie beside the sweep file, in the working directory, or be installed",
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"importing {module} fails: {_said(error)}") from error
    model: Any = getattr(found, attribute, None)
    if not callable(model):
        names = [n for n, held in vars(found).items() if inspect.isclass(held) and issubclass(held, nn.Module)]
        known = f"its modules: {', '.join(names)}" if names else None
        raise UsageError(f"{module} has no class or function {attribute}", remedy=known)
    return model  # type: ignore[no-any-return]


def arguments(name: str, model: Callable[..., nn.Module]) -> list[tuple[str, Any, list[Any] | None]]:
    """The keys that a sweep file may give: name, type, and its default in a list of one.

    Arguments of other types keep their defaults. Raises: UsageError for one without a default that no key can fill.
    """
    try:
        signature = inspect.signature(model, eval_str=True)
    except Exception as error:
        raise UsageError(f"the arguments of {name} cannot be read: {_said(error)}") from error
    found = []
    for key, held in signature.parameters.items():
        if held.kind in (held.VAR_POSITIONAL, held.VAR_KEYWORD) or key in GIVEN:
            continue
        optional = held.default is not held.empty
        kind = None if held.kind is held.POSITIONAL_ONLY or key in RESERVED else _kind(held)
        if kind is None and not optional:
            remedy = "its type has to be int, float, bool, str or Literal of texts; give it a default otherwise"
            raise UsageError(f"the argument {key} of {name} cannot be given in a sweep file", remedy=remedy)
        if kind is not None:
            found.append((key, kind, [held.default] if optional else None))
    return found


def _kind(held: inspect.Parameter) -> Any:
    hint = type(held.default) if held.annotation is held.empty and held.default is not held.empty else held.annotation
    choices = get_args(hint)
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in choices):
        return list(choices)
    optional = len(choices) == 2 and type(None) in choices
    plain = next(choice for choice in choices if choice is not type(None)) if optional else hint
    if plain not in (int, float, bool, str):
        return None
    return f"{plain.__name__}?" if optional else plain.__name__


def called(model: Callable[..., nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """The module with these options; vocab and context go only to those that ask for them."""
    asked = inspect.signature(model).parameters
    return model(**{key: held for key, held in options.items() if key in asked or key not in GIVEN})


def built(model: Callable[..., nn.Module], options: Mapping[str, Any], seed: int) -> nn.Module:
    """The module with its initial parameters drawn from a seed; the global generator is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return called(model, options)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; a tied one under its first name."""
    return {name: held for name, held in module.named_parameters() if held.requires_grad}


def measure(name: str, model: Callable[..., nn.Module], options: Mapping[str, Any]) -> Ledger:
    """Parameters by their use, FLOPs and memory. Raises: UsageError if the model breaks the contract."""
    title = f"{name.partition(':')[2]}({', '.join(f'{k}={v}' for k, v in options.items() if k not in GIVEN)})"
    try:
        ledger = _look(title, model, options, torch.device("meta"))
    except _Fails:  # code that reads numbers, a mask say, finds none on the meta device
        try:
            ledger = _look(title, model, options, torch.device("cpu"))
        except _Fails as error:
            raise UsageError(f"{title} {error}") from error
    if (ledger.counted_flops or 0) * SEQUENCES * options["context"] / 3 <= COMPUTED_FLOPS:
        _compute(title, model, options)
    return ledger


class _Fails(Exception):
    """The code of the model raised; the message says where and what."""


def _look(title: str, model: Callable[..., nn.Module], options: Mapping[str, Any], device: torch.device) -> Ledger:
    """One forward pass for the uses of the parameters, one forward and backward pass for what they cost."""
    vocab, context = options["vocab"], options["context"]
    module = _made(title, model, options, device)
    parameters = trained(module)
    if not parameters:
        raise UsageError(f"{title} has no parameter to train")
    odd = [key for key, held in parameters.items() if not held.is_floating_point()]
    if odd:
        raise UsageError(f"{title}: parameter {odd[0]} is {parameters[odd[0]].dtype}; only real numbers are trained")
    tokens = torch.zeros(SEQUENCES, context, dtype=torch.int64, device=device)
    versions = {key: held._version for key, held in module.named_buffers()}
    uses = _Uses(parameters, module, vocab)
    counter = FlopCounterMode(display=False)
    peak = _Peak()
    for held in parameters.values():
        held.grad = torch.zeros_like(held)  # there before, as in training
    try:
        with device, _open_kernels():
            with uses:
                logits = module(tokens)
            _check_shape(title, logits, (SEQUENCES, context, vocab))
            del logits
            with counter, peak:
                F.cross_entropy(module(tokens).float().flatten(0, 1), tokens.flatten()).backward()
    except UsageError:
        raise
    except Exception as error:
        raise _Fails(f"fails on tokens of shape {tuple(tokens.shape)}: {_said(error)}") from error
    moved = [key for key, held in module.named_buffers() if held._version != versions[key]]
    if moved:
        raise UsageError(
            f"{title} changes its buffer {moved[0]} while it trains, and a checkpoint holds parameters alone;"
            " replace running statistics by a layer norm or group norm"
        )
    if uses.random:
        raise UsageError(
            f"{title} draws random numbers in forward ({uses.random}); dropout would depend on the micro-batch, so set"
            " its rate to 0"
        )
    idle = [key for key, held in parameters.items() if held.grad is None or held.grad._version == 0]
    if idle:
        raise UsageError(f"{title}: the loss does not depend on parameter {idle[0]}; N would count what is not trained")
    return Ledger(
        tensors=tuple(uses.shape(key, held) for key, held in parameters.items()),
        attention_flops=0,
        saved_activations=round(peak.most / 4 / tokens.numel()),
        counted_flops=round(counter.get_total_flops() / tokens.numel()),
    )


@contextlib.contextmanager
def _open_kernels() -> Iterator[None]:
    """Without the fused kernels that hide their products from the counter."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # said by the next line itself
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _made(title: str, model: Callable[..., nn.Module], options: Mapping[str, Any], device: torch.device) -> nn.Module:
    try:
        with device:
            module = built(model, options, 0)
    except Exception as error:
        raise _Fails(f"cannot be built: {_said(error)}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{title} is a {type(module).__name__}, not a torch.nn.Module")
    return module.to(device)


def _check_shape(title: str, logits: Any, expected: tuple[int, ...]) -> None:
    if not isinstance(logits, Tensor):
        raise UsageError(f"{title}: forward returns a {type(logits).__name__}, not the logits alone")
    if tuple(logits.shape) != expected:
        found = tuple(logits.shape)
        raise UsageError(f"{title}: forward returns shape {found}, not (batch, context, vocab) = {expected}")


class _Uses(TorchDispatchMode):
    """Watches which parameters are looked up and which multiply activations, through views, casts and re-weightings.

    What is computed from parameters and constants alone belongs to the same parameters; everything else is data.
    """

    def __init__(self, parameters: Mapping[str, Tensor], module: nn.Module, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab
        self.held = [*module.parameters(), *module.buffers()]  # alive, so that no storage takes the place of another
        self.of: dict[int, frozenset[str]] = {_storage(held): frozenset() for held in self.held}
        self.of |= {_storage(held): frozenset([key]) for key, held in parameters.items()}
        self.looked_up: set[str] = set()
        self.multiplied: set[str] = set()
        self.head: frozenset[str] = frozenset()
        self.random = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = str(func)
        packet = func.overloadpacket
        given = [held for held in tree_leaves((args, kwargs)) if isinstance(held, Tensor)]
        made = [held for held in tree_leaves(found) if isinstance(held, Tensor)]
        self.held += made
        data = [held for held in given if _storage(held) not in self.of]
        looks_up = packet in LOOKUPS and (data or packet is torch.ops.aten.embedding)
        if looks_up:
            self.looked_up |= self.of.get(_storage(given[0]), frozenset())
        elif not data:
            joint = frozenset().union(*(self.of[_storage(held)] for held in given))
            for held in made:
                self.of[_storage(held)] = joint
            return found
        elif packet in flop_registry:
            operands = args[OPERANDS.get(packet, slice(None))]
            weights = [self.of.get(_storage(held), frozenset()) for held in operands if isinstance(held, Tensor)]
            joint = frozenset().union(*weights)
            self.multiplied |= joint
            if joint:  # the last of them is the output head, if it has the symbols' number of outputs
                self.head = joint if any(self.vocab in held.shape for held in made) else frozenset()
        for held in made:
            self.of.pop(_storage(held), None)
        return found

    def shape(self, key: str, held: Tensor) -> Shape:
        """A parameter in the tensor table. Matrices decay, as in GPT-2; vectors do not."""
        looked_up, multiplied = key in self.looked_up, key in self.multiplied
        return Shape(
            key,
            tuple(held.shape),
            "lookup" if looked_up else "matmul" if multiplied else "vector",
            decay=held.dim() > 1,
            embedding=looked_up or key in self.head,
            tied_head=looked_up and multiplied,
        )


aten = torch.ops.aten
LOOKUPS = (aten.embedding, aten.index, aten.index_select, aten.gather)
OPERANDS = {aten.addmm: slice(1, 3), aten.baddbmm: slice(1, 3), aten.convolution: slice(0, 2)}  # without the bias


def _storage(held: Tensor) -> int:
    return held.untyped_storage()._cdata


class _Peak(TorchDispatchMode):
    """Follows the bytes that are alive from operation to operation, and remembers the most.

    What a kernel takes for itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_storage(held) for held in tree_leaves((args, kwargs)) if isinstance(held, Tensor)}
        found = func(*args, **(kwargs or {}))
        for held in tree_leaves(found):
            if isinstance(held, Tensor) and _storage(held) not in before | self.known:
                storage = held.untyped_storage()
                self.known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.alive)
        return found

    def _gone(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.alive -= size


@torch.no_grad()
def _compute(title: str, model: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Build it twice and run it on two batches. Raises: UsageError if a seed does not settle it, or if it leaks."""
    vocab, context = options["vocab"], options["context"]
    try:
        module, again = built(model, options, 1), built(model, options, 1)
        other = dict(again.state_dict())
        unlike = [key for key, held in module.state_dict().items() if not torch.equal(held, other[key])]
        if unlike:
            raise UsageError(
                f"{title}: {unlike[0]} differs between two constructions under one seed; draw it with torch"
            )
        first = torch.randint(vocab, (SEQUENCES, context), generator=torch.Generator().manual_seed(2))
        at = context // 2
        second = first.clone()
        second[0, at:] = (second[0, at:] + 1) % vocab
        second[1] = (second[1] + 1) % vocab
        before, after = module(first).double(), module(second).double()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{title} fails on tokens of shape {(SEQUENCES, context)}: {_said(error)}") from error
    if not (before.isfinite().all() and after.isfinite().all()):
        raise UsageError(f"{title}: its logits at initialisation are not finite")
    change = (before - after).abs()
    if change[0, :at].numel() and change[0, :at].max() > LEAK * change[1].max():
        raise UsageError(
            f"{title}: logits before position {at} change with later tokens or with other sequences of the batch;"
            " a language model must be causal, and its sequences independent"
        )


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return escaped(f"{type(error).__name__}: {lines[0] if lines else ''}", 200)


def main(folders: Sequence[str]) -> None:
    """Answer questions until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a model prints must not be taken for an answer
    torch.set_num_threads(1)
    for line in iter(sys.stdin.readline, ""):
        question = json.loads(line)
        try:
            model = load(question["name"], folders)
            if question["do"] == "describe":
                answer: dict[str, Any] = {"found": {"arguments": arguments(question["name"], model)}}
            else:
                answer = {"found": asdict(measure(question["name"], model, question["options"]))}
        except UsageError as error:
            answer = {"what": error.what, "remedy": error.remedy}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
