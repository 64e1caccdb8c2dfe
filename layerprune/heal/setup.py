"""The input of a recipe and what it hands to the training loop.

Letters: S sequences, T tokens in each.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprune.errors import UserError
from layerprune.prune.plan import Plan

if TYPE_CHECKING:  # recipes import this file, and `--help` imports recipes
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HealContext:
    """The dense model and everything else that a recipe may use."""

    model: "PreTrainedModel"
    plan: Plan
    ids_ST: "Tensor"
    """Packed healing text."""
    folder: Path
    """For files that must survive an interruption; it is deleted once the point is finished."""
    cuts: tuple[Plan, ...] = ()
    """The plans that one training heals together, if the recipe does; `plan` is dense then."""
    seed: int = 0
    recompute_activations: bool = False
    """Recompute activations in the backward pass to save memory."""
    main_process_first: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A context that the first process of a machine leaves before the others enter it."""

    def prune(self) -> "PreTrainedModel":
        """Return the model without the plan's layers; it is changed in place."""
        from layerprune.model.surgery import drop_layers

        return drop_layers(self.model, self.plan.dropped)

    def train_on_text(self, **changes: Any) -> "TrainingSetup":
        """Return a setup that trains the trainable weights on the next token."""
        from layerprune.heal.losses import NextToken

        return TrainingSetup(NextToken(self.model), Examples(self.ids_ST), **changes)


class Examples:
    """A data set of packed sequences of token ids [S, T], with further tensors [S, ...]."""

    def __init__(self, ids_ST: "Tensor", **extras: "Tensor") -> None:
        self._ids_ST = ids_ST
        self._extras = extras

    def __len__(self) -> int:
        return len(self._ids_ST)

    def __getitem__(self, index: int) -> "dict[str, Tensor]":
        extras = {name: tensor[index] for name, tensor in self._extras.items()}
        return {"input_ids": self._ids_ST[index].long(), **extras}


@dataclass(frozen=True)
class TrainingSetup:
    """A pruned model whose trainable weights are chosen, and what they are trained on."""

    objective: "nn.Module"
    """Maps a batch of examples to `{"loss": ...}`; its weights are the model's own."""
    examples: Examples
    """Their keys are the names of the objective's arguments."""
    adapted: "PeftModel | None" = None
    """The model with its LoRA adapters, for recipes that train those."""
    trains_all_weights: bool = False
    """Every weight is trained. The weights are then saved only for an export."""
    before_step: Callable[[int], None] | None = None
    """Called before each optimiser step with the number of steps that are done."""


def dropped_block(plan: Plan, recipe: str) -> range:
    """Return the layers of a plan's only block; `range(0)` if no layer is dropped.

    Raises `UserError` if there are several blocks.
    """
    if not plan.dropped:
        return range(0)
    block = range(plan.dropped[0], plan.dropped[-1] + 1)
    if len(block) != len(plan.dropped):
        raise UserError(
            f"heal={recipe} needs one block of layers; this plan drops {list(plan.dropped)}."
        )
    return block
