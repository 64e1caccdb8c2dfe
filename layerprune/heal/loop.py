"""One training loop for every recipe that trains: transformers' Trainer on packed sequences.

Letters: S sequences, T tokens in each.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from layerprune import processes
from layerprune.config.schema import HealConfig
from layerprune.errors import UserError
from layerprune.progress import Advance, bar

_T = TypeVar("_T")

Measure = Callable[[], float]
"""The held-out loss of the model as it is now, in nats per token."""


@dataclass(frozen=True)
class Step:
    """What was seen at one optimiser step."""

    step: int
    loss: float | None
    """Mean over the step's tokens, in nats; None where only the held-out loss was taken."""
    learning_rate: float | None
    heldout: float | None
    """Held-out loss after this step, where it was measured; step 0 is before training."""


@dataclass(frozen=True)
class Training:
    """What a training run did and what it cost."""

    steps: list[Step]
    tokens: int
    seconds: float
    """Of training alone, without the held-out measurements."""
    trainable_parameters: int


class Sequences(Dataset[dict[str, Tensor]]):
    """Packed sequences [S, T]: every token after the first is predicted."""

    def __init__(self, ids_ST: Tensor) -> None:
        self._ids_ST = ids_ST

    def __len__(self) -> int:
        return len(self._ids_ST)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids_ST[index], "labels": self._ids_ST[index]}


def train(
    model: Any, ids_ST: Tensor, config: HealConfig, folder: Path, seed: int, heldout: Measure
) -> Training:
    """Train what is trainable in `model`, in place, on packed sequences [S, T].

    Sequences come in an order that `seed` fixes, again and again until `heal.steps` steps are done.
    A checkpoint is written to `folder` every `heal.save_every` steps; where there is one already,
    training goes on from it, and ends with the same weights as if it had never stopped.

    Raises `UserError`, naming step and rate, as soon as a loss is not finite; the last checkpoint
    stays.
    """
    micro, accumulation = _split(config, len(ids_ST))
    trainable = [part for part in model.parameters() if part.requires_grad]
    watch = _Watch(config, heldout)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=_known(config.steps),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            learning_rate=_known(config.learning_rate),
            lr_scheduler_type="cosine",
            warmup_steps=_known(config.warmup_steps),
            optim=_known(config.optimizer),
            weight_decay=_known(config.weight_decay),
            max_grad_norm=_known(config.max_grad_norm),
            bf16=next(model.parameters()).dtype is torch.bfloat16 and torch.cuda.is_available(),
            use_cpu=model.device.type == "cpu",
            seed=seed,
            data_seed=seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=_known(config.save_every),
            save_total_limit=2,
            report_to=[],
            disable_tqdm=True,
            log_level="error",
            ddp_timeout=7 * 24 * 3600,  # the first process asks its questions while others wait
            dataloader_pin_memory=model.device.type == "cuda",
        ),
        train_dataset=Sequences(ids_ST),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    with bar(f"heal {config.recipe}", total=_known(config.steps)) as advance:
        watch.advance = advance
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    model.eval()
    history = trainer.state.log_history
    return Training(
        steps=[
            Step(*(entry.get(key) for key in ("step", "loss", "learning_rate", "heldout")))  # type: ignore[arg-type]
            for entry in history
            if "loss" in entry or "heldout" in entry
        ],
        tokens=_known(config.steps) * _known(config.batch_size) * ids_ST.shape[1],
        seconds=round(math.fsum(entry.get("seconds", 0.0) for entry in history), 3),
        trainable_parameters=sum(part.numel() for part in trainable),
    )


def _split(config: HealConfig, num_sequences: int) -> tuple[int, int]:
    """Sequences at a time on a device, and how many times they are gathered for one step."""
    batch, micro = _known(config.batch_size), _known(config.micro_batch_size)
    devices = processes.count()
    if devices == 1 and torch.cuda.is_available():
        devices = torch.cuda.device_count()  # one process drives all GPUs that it sees
    micro = min(micro, batch)
    if batch % (micro * devices):
        raise UserError(
            f"heal.batch_size={batch} is no multiple of heal.micro_batch_size={micro} on each of "
            f"{devices} device(s)."
        )
    if num_sequences < micro:
        raise UserError(
            f"The healing text gives {num_sequences} sequences, fewer than "
            f"heal.micro_batch_size={micro}: give more text, or a smaller heal.sequence_length."
        )
    return micro, batch // (micro * devices)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: the trainer's state is what is written last."""
    steps = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            steps[json.loads(path.read_text())["global_step"]] = str(path.parent)
        except (ValueError, KeyError):
            continue  # the process ended while it was written
    return steps[max(steps)] if steps else None


class _Watch(TrainerCallback):
    """Adds to the trainer's own log what a user wants to see, and stops what leads nowhere.

    The trainer's log is part of its checkpoints, so nothing is lost when a run is stopped.
    """

    def __init__(self, config: HealConfig, heldout: Measure) -> None:
        self._config = config
        self._heldout = heldout
        self._started = 0.0
        self.advance: Advance = lambda steps: None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            state.log_history.append({"step": 0, "heldout": self._measure(kwargs["model"])})
        self.advance(state.global_step)
        self._started = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        step, loss, rate = state.global_step, logs["loss"], logs["learning_rate"]
        if not math.isfinite(loss) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise UserError(
                f"heal={self._config.recipe}: the loss is not a number at step {step}, learning "
                f"rate {rate:.2e}. Try a smaller heal.learning_rate."
            )
        entry = state.log_history[-1]
        entry["seconds"] = time.monotonic() - self._started
        if step % _known(self._config.eval_every) == 0 or step == state.max_steps:
            entry["heldout"] = self._measure(kwargs["model"])
        self._started = time.monotonic()
        self.advance(1)

    def _measure(self, model: PreTrainedModel) -> float:
        model.eval()
        try:
            return self._heldout()
        finally:
            model.train()


def _known(value: _T | None) -> _T:
    """A setting that the configuration has checked to be there."""
    assert value is not None
    return value
