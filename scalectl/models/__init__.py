"""The model families. To add one: a folder with spec.py and forward.py, and a line in the tuple below.

Beside them stands whatever torch module a user names in their place (`foreign`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scalectl.core.cost import Ledger
from scalectl.core.errors import UsageError
from scalectl.core.run import Foreign, Member
from scalectl.models.decoder import spec as decoder_spec
from scalectl.models.encoder_decoder import spec as encoder_decoder_spec
from scalectl.models.foreign import spec as foreign_spec
from scalectl.models.mlp import spec as mlp_spec
from scalectl.models.vit import spec as vit_spec


@dataclass(frozen=True)
class Model:
    """A family: its name, the version of its mathematics, and its functions of Options.

    problems: (key, sentence) for each bad combination of options; ledger: tensors and costs;
    forward: dotted path of the module with `token_losses(views, tokens, options)`, imported by workers only (torch);
    for tasks with answers it has `judge(views, tokens, options)` besides, losses and whether each answer is the most
    likely symbol, and for answers that begin with a scratchpad `generate(views, prompts, answers, options)`;
    fingerprint: of the source of a foreign model, empty for the families of scalectl;
    reads: kinds of data that it can be trained on (`tasks.windows.Kind`); given: options that are the data's to give;
    mup_base_width: what `lr = "mup:..."` sets the option of that name to if the file does not; 0: muP is not defined;
    taped: whether its forward does nothing to an activation but by layers of `models.primitives`, so that a CPU's
    backward pass needs no graph (`models.tape`).
    """

    name: str
    version: int
    options: type[Any]
    problems: Callable[[Any], list[tuple[str, str]]]
    ledger: Callable[[Any], Ledger]
    forward: str
    fingerprint: str = ""
    reads: tuple[str, ...] = ("text",)
    given: tuple[str, ...] = ("vocab",)
    mup_base_width: int = 0
    taped: bool = False

    def member(self, options: Any) -> Member:
        """The model of a run, with these options."""
        if self.fingerprint:
            return Foreign(self.name, self.version, options, self.fingerprint, self.ledger(options))
        return Member(self.name, self.version, options)


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
            reads=("text", "problems"),
            given=("vocab", "answers"),
            mup_base_width=decoder_spec.MUP_BASE_WIDTH,
            taped=True,
        ),
        Model(
            "mlp",
            1,
            mlp_spec.Options,
            mlp_spec.problems,
            mlp_spec.ledger,
            "scalectl.models.mlp.forward",
            reads=("problems",),
            given=("vocab", "answers", "context"),
            taped=True,
        ),
        Model(
            "encoder-decoder",
            1,
            encoder_decoder_spec.Options,
            encoder_decoder_spec.problems,
            encoder_decoder_spec.ledger,
            "scalectl.models.encoder_decoder.forward",
            reads=("problems",),
            given=("vocab", "answers", "context"),
            taped=True,
        ),
        Model(
            "vit",
            1,
            vit_spec.Options,
            vit_spec.problems,
            vit_spec.ledger,
            "scalectl.models.vit.forward",
            reads=("images",),
            given=("image", "channels", "levels", "classes"),
            taped=True,
        ),
    )
}


def given_by_data() -> frozenset[str]:
    """Options of any family that are the data's to give."""
    return frozenset(name for model in MODELS.values() for name in model.given)


def foreign_model(name: str, examiner: foreign_spec.Examiner) -> Model:
    """A user's own torch module as a family of one member.

    Args: name: package.module:NAME; examiner: answers for it.
    Raises: UsageError if there is no such model, or if it is none.
    """
    options, fingerprint = examiner.describe(name)
    measured: dict[Any, Ledger | UsageError] = {}

    def measure(o: Any) -> Ledger | UsageError:
        if o not in measured:
            try:
                measured[o] = examiner.measure(name, o)
            except UsageError as error:
                measured[o] = error
        return measured[o]

    def problems(o: Any) -> list[tuple[str, str]]:
        if o.context < 1:
            return [("context", f"{o.context} is not a positive number")]
        found = measure(o)
        return [("family", found.what)] if isinstance(found, UsageError) else []

    def ledger(o: Any) -> Ledger:
        found = measure(o)
        if isinstance(found, UsageError):
            raise found
        return found

    return Model(name, foreign_spec.VERSION, options, problems, ledger, foreign_spec.FORWARD, fingerprint)


def ledger_of(model: Member) -> Ledger:
    """What the model of a run holds and costs."""
    return model.ledger if isinstance(model, Foreign) else MODELS[model.name].ledger(model.options)
