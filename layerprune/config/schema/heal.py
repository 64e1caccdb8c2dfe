"""How the seam is repaired."""

from dataclasses import dataclass, fields

from omegaconf import MISSING

from layerprune.config.schema.model import Quantization
from layerprune.errors import UserError

TRAINING = (
    "steps", "batch_size", "micro_batch_size", "sequence_length", "learning_rate", "warmup_steps",
    "optimizer", "weight_decay", "max_grad_norm", "eval_every", "save_every", "stop_when",
)  # fmt: skip
LORA = ("rank", "dropout", "targets")

HEAL_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "lora": (*TRAINING, *LORA),
    "qlora": (*TRAINING, *LORA),
    "full": TRAINING,
    "tail": (*TRAINING, "last_layers"),
    "linear": ("sequences", "sequence_length"),
    "distill": (*TRAINING, *LORA, "text_weight", "logits_weight", "seam_weight"),
    "seam": (*TRAINING, "seam_layers", "sequences", "text_weight", "text_share", "seam_weight"),
}
"""The keys that each recipe reads."""

OPTIONAL = ("targets", "stop_when")
"""Of these, the keys that may be null."""

MAY_BE_ZERO = (
    "warmup_steps", "weight_decay", "dropout", "text_weight", "logits_weight", "seam_weight",
)  # fmt: skip

STOP_WHEN = ("plateau",)


def held_after(recipe: str, quantization: Quantization | None) -> Quantization | None:
    """How weights are held from a recipe on: in nf4 by `qlora`, else as they were before it."""
    return Quantization.nf4 if recipe == "qlora" else quantization


@dataclass(kw_only=True, slots=True)
class HealConfig:
    """How the seam is repaired after the cut. Each recipe has keys of its own, and no others."""

    recipe: str = MISSING
    """One of the recipes; `heal=NAME` sets it."""
    steps: int | None = None
    """Optimiser steps."""
    batch_size: int | None = None
    """Sequences in each optimiser step, over all devices."""
    micro_batch_size: int | None = None
    """Sequences on a device at a time; gradients add up to `batch_size`."""
    sequence_length: int | None = None
    """Tokens in each training sequence."""
    learning_rate: float | None = None
    """The peak, after a linear warm-up; it falls to 0 as a cosine."""
    warmup_steps: int | None = None
    """The first steps, over which the learning rate rises."""
    optimizer: str | None = None
    """As transformers' `optim` names it."""
    weight_decay: float | None = None
    """Share of each weight that is taken off in a step, times the learning rate."""
    max_grad_norm: float | None = None
    """Length to which longer gradients are clipped."""
    eval_every: int | None = None
    """Steps between measurements of the held-out loss."""
    save_every: int | None = None
    """Steps between checkpoints, from which a stopped run goes on."""
    stop_when: str | None = None
    """`plateau`: stop before `steps` once three measurements of the held-out loss in a row brought
    less than a thousandth."""
    rank: int | None = None
    """Of the LoRA update; its alpha is the same."""
    dropout: float | None = None
    """Of the input of the LoRA update."""
    targets: list[str] | None = None
    """Ends of the names of the modules that LoRA adapts; those of `model.healing` if null, and all
    feed-forward projections if these are null too."""
    last_layers: int | None = None
    """Layers that are trained together with the head."""
    sequences: int | None = None
    """`linear`: sequences that the map is fitted to. `seam`: different sequences at most, whose
    states are kept on disk."""
    text_weight: float | None = None
    """Weight of the next token's cross-entropy in the loss."""
    text_share: float | None = None
    """Share of the sequences of each micro-batch on which that cross-entropy is taken."""
    logits_weight: float | None = None
    """Weight of the divergence from the whole model's distribution of the next token."""
    seam_weight: float | None = None
    """Weight of the relative squared distance from the whole model's states at the seam."""
    seam_layers: int | None = None
    """Layers just above the cut that are trained, in full."""

    def __post_init__(self) -> None:
        keys = HEAL_KEYS.get(self.recipe)
        if keys is None:
            raise UserError(
                f"heal.recipe={self.recipe} is not known: choose one of {', '.join(HEAL_KEYS)}."
            )
        for each in fields(self):
            key, value = each.name, getattr(self, each.name)
            if key == "recipe":
                continue
            if value is not None and key not in keys:
                raise UserError(f"heal.{key} means nothing to heal={self.recipe}: leave it out.")
            if value is None and key in keys and key not in OPTIONAL:
                raise UserError(f"heal.{key} has no value: add heal.{key}=VALUE to the command.")
            if isinstance(value, int | float) and not (
                value > 0 or (value == 0 and key in MAY_BE_ZERO)
            ):
                raise UserError(f"heal.{key}={value}: it must be greater than 0.")
        if self.sequence_length == 1:
            raise UserError("heal.sequence_length=1: nothing is predicted after one token alone.")
        if self.text_share is not None:
            micro = min(self.micro_batch_size or 1, self.batch_size or 1)
            some = self.text_share * micro
            if self.text_share > 1 or some < 1 or abs(some - round(some)) > 1e-6:
                raise UserError(
                    f"heal.text_share={self.text_share}: it must make 1 or more whole sequences of "
                    f"heal.micro_batch_size={micro}, and be 1 at most."
                )
        if self.stop_when not in (None, *STOP_WHEN):
            raise UserError(
                f"heal.stop_when={self.stop_when}: it is null or one of {', '.join(STOP_WHEN)}."
            )
        weights = (self.text_weight, self.logits_weight, self.seam_weight)
        if any(weight is not None for weight in weights) and not any(weights):
            raise UserError(
                f"heal={self.recipe}: all weights of the loss are 0; nothing would be learned."
            )
