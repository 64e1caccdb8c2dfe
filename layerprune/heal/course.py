"""What a recipe gets, and what it makes of it for the training loop.

Letters: S sequences, T tokens in each.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from layerprune.config.schema import HealConfig
from layerprune.plan.plan import Plan


@dataclass(frozen=True)
class Subject:
    """A model before its cut, and all that a recipe may look at."""

    model: PreTrainedModel
    plan: Plan
    ids_ST: Tensor
    """Packed healing text."""
    config: HealConfig
    folder: Path
    """For what has to be there after a stop; it is gone once the point is done."""
    recompute: bool = False
    """Activations are not kept but computed again: memory is what is short."""
    ahead: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Of several processes on a machine, the first alone runs what stands in it; the others wait,
    and then run it too."""


class Examples(Dataset[dict[str, Tensor]]):
    """Packed sequences [S, T] of token ids, and what else belongs to each of them."""

    def __init__(self, ids_ST: Tensor, **others: Tensor) -> None:
        self._ids_ST = ids_ST
        self._others = others

    def __len__(self) -> int:
        return len(self._ids_ST)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        others = {name: part[index] for name, part in self._others.items()}
        return {"input_ids": self._ids_ST[index].long(), **others}


@dataclass(frozen=True)
class Course:
    """What the loop trains: the subject's model is cut by now, and the right weights trainable."""

    objective: nn.Module
    """From a batch of examples to `{"loss": ...}`; its weights are the model's own."""
    examples: Examples
    """Their keys are the names of the objective's arguments."""
    adapted: PeftModel | None = None
    """The model as peft sees it, where low-rank updates are what is trained."""
    whole: bool = False
    """Every weight is trained: they are kept where an export is asked for, and nowhere else."""


def known(value: Any) -> Any:
    """A setting that the configuration has checked to be there."""
    assert value is not None
    return value
