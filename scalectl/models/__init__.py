"""The model families. To add one: a folder with spec.py and forward.py, and a line in the tuple below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scalectl.core.cost import Ledger
from scalectl.models.decoder import spec as decoder_spec


@dataclass(frozen=True)
class Model:
    """A family: its name, the version of its mathematics, and its functions of Options.

    problems: (key, sentence) for each bad combination of options; ledger: tensors and costs;
    forward: dotted path of the module with `forward(views, tokens, options, ...)`, imported by workers only (torch).
    """

    name: str
    version: int
    options: type[Any]
    problems: Callable[[Any], list[tuple[str, str]]]
    ledger: Callable[[Any], Ledger]
    forward: str


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "decoder",
            1,
            decoder_spec.Options,
            decoder_spec.problems,
            decoder_spec.ledger,
            "scalectl.models.decoder.forward",
        ),
    )
}
