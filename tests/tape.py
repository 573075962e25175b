"""A recorder like a CUDA graph, on the CPU: what is replayed is operations on fixed buffers, and no line of Python.

A number that Python worked out while recording stays what it was, an operation that asks for a number cannot be
recorded, and recording does not do the work.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

FORBIDDEN = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "unique", "equal", "is_nonzero", "set_")


class _Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []
        self.before = {}  # storages that were written to, as they were

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in FORBIDDEN:
            raise RuntimeError(f"{name} cannot be recorded")
        for place, argument in zip(
            func._schema.arguments, [*args, *[None] * len(func._schema.arguments)], strict=False
        ):
            held = kwargs.get(place.name, argument)
            if place.alias_info is not None and place.alias_info.is_write and isinstance(held, torch.Tensor):
                self.before.setdefault(held.untyped_storage().data_ptr(), (held, held.untyped_storage().clone()))
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out


class DeviceOnly(TorchDispatchMode):
    """Refuses what a captured step may not do: ask for a number, or meet a tensor of the host that is no scalar."""

    def __init__(self, device):
        super().__init__()
        self.device = torch.device(device)
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in FORBIDDEN:
            raise RuntimeError(f"{name} cannot be recorded")
        out = func(*args, **kwargs)
        for held in tree_flatten((args, kwargs, out))[0]:
            if isinstance(held, torch.Tensor) and held.dim() and held.device.type != self.device.type:
                raise RuntimeError(f"{name} meets a tensor of shape {tuple(held.shape)} on {held.device}")
        self.calls += 1
        return out


class Tape:
    """A recorder that counts what it did."""

    def __init__(self):
        self.recorded = self.replayed = self.warmed = 0

    def warm(self, work):
        self.warmed += 1
        work()

    def record(self, work):
        mode = _Recording()
        with mode:
            work()
        for held, was in mode.before.values():
            held.untyped_storage().copy_(was)
        self.recorded += 1

        def replay():
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, out in mode.calls:
                    again = func(*args, **kwargs)
                    for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                            old.copy_(new)

        return replay
