"""Somebody's own model in training: its parameters are views of a pack of one, its code is its own.

Legend: K = 1 model, B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from scalectl.core.run import Foreign
from scalectl.models import primitives as p
from scalectl.models.foreign.examine import built, load, trained
from scalectl.models.foreign.spec import fingerprint


class Opened:
    """A model with its constants on a device.

    Args: model: of the run; seed: of the run, which settles its initial parameters and what it draws besides;
    folders: searched for its module.
    Raises: ValueError if its source is not the one that was planned.
    """

    def __init__(self, model: Foreign, seed: int, folders: Sequence[str]) -> None:
        now = fingerprint(model.name, folders)
        if now != model.fingerprint:
            raise ValueError(f"the source of {model.name} changed since the plan")
        self.module = built(load(model.name, folders), vars(model.options), seed)

    def initial_values(self) -> dict[str, Tensor]:
        """Parameters at step 0 by name, each of its own shape."""
        return {name: held.detach() for name, held in trained(self.module).items()}

    def placed(self, device: torch.device, kind: torch.dtype) -> Opened:
        """Itself, on a device and in the compute type, without parameters of its own: the views take their place."""
        self.module.to(device, kind)
        for held in trained(self.module).values():
            held.data = held.data.new_empty(0)
        return self

    def token_losses(self, views: Mapping[str, Tensor], tokens_KBT1: Tensor, *_: Any) -> Tensor:
        """Cross-entropy of every target [nats], shape (1, B T); tokens hold T inputs and the target of the last.

        Its blocks are its own: whatever runs those of other models means nothing here.
        """
        if self.module.training != torch.is_grad_enabled():
            self.module.train(torch.is_grad_enabled())
        own = {name: view.squeeze(0) for name, view in views.items()}
        logits_BTV = functional_call(self.module, own, (tokens_KBT1[0, :, :-1],))
        return p.token_losses(logits_BTV.flatten(0, 1).unsqueeze(0), tokens_KBT1[..., 1:].reshape(1, -1))
