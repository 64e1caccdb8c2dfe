"""One training loop for every recipe that trains: transformers' Trainer on packed sequences.

Letters: S sequences, T tokens in each.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from layerprune import memory, processes
from layerprune.config.schema import Dtype, HealConfig
from layerprune.errors import PointFailed, UserError
from layerprune.files import Damaged, check_sums, write_sums
from layerprune.heal.course import Course, known
from layerprune.progress import Advance, bar

Measure = Callable[[], float]
"""The held-out loss of the model as it is now, in nats per token."""

WEIGHTS = "trained.safetensors"
"""In a checkpoint: the weights that are trained, and no others."""

PLATEAU_AFTER = 3
"""`heal.stop_when=plateau` stops when so many measurements in a row brought nothing."""

PLATEAU_GAIN = 1e-3
"""What counts as a gain: a held-out loss smaller than the best so far by this share of it."""


@dataclass(frozen=True)
class Step:
    """What was seen at one optimiser step."""

    step: int
    loss: float | None = None
    """Mean over the step's tokens; None where only the held-out loss was taken."""
    learning_rate: float | None = None
    heldout: float | None = None
    """Held-out loss after this step in nats, where measured; step 0 is before training."""
    seconds: float | None = None
    """Of this step, without measurements and checkpoints."""
    peak_memory_bytes: int | None = None
    """The most that training has taken so far: of the GPU if there is one, or of the process."""


@dataclass(frozen=True)
class Training:
    """What a training run did and what it cost."""

    steps: list[Step]
    tokens: int
    """Of healing text, as often as they were gone over."""
    seconds: float
    """Of training alone, without the held-out measurements."""
    trainable_parameters: int
    prepare_seconds: float = 0.0
    """Before the first step: what a recipe computes once."""
    peak_memory_bytes: int | None = None
    stopped: str | None = None
    """Why training ended before `heal.steps`, if it did."""
    details: dict[str, Any] = field(default_factory=dict)
    """What a recipe says of itself."""


def arguments(
    config: HealConfig, folder: Path, seed: int, dtype: Dtype, on_cpu: bool
) -> TrainingArguments:
    """What transformers' Trainer is told; in a run of several processes, this joins them.

    Raises `UserError` for a batch that cannot be shared out, and where accelerate would shard.
    """
    if processes.sharded():
        raise UserError(
            "accelerate launch --use_fsdp shards weights in a way of its own: start this with "
            "torchrun, or without --use_fsdp, and give runtime.shard=true."
        )
    micro, accumulation = _split(config, on_cpu)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=known(config.steps),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=known(config.learning_rate),
        lr_scheduler_type="cosine",
        warmup_steps=known(config.warmup_steps),
        optim=_optimizer(known(config.optimizer), on_cpu),
        weight_decay=known(config.weight_decay),
        max_grad_norm=known(config.max_grad_norm),
        bf16=dtype is Dtype.bfloat16,
        fp16=dtype is Dtype.float16 and not on_cpu,
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=known(config.save_every),
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,  # the examples hold what the objective takes, no more
        ddp_find_unused_parameters=False,
        ddp_timeout=7 * 24 * 3600,  # the first process asks its questions while others wait
        dataloader_pin_memory=not on_cpu,
    )


def train(
    course: Course, config: HealConfig, said: TrainingArguments, heldout: Measure, dtype: Dtype
) -> Training:
    """Train a course's weights, in place.

    Examples come in an order that the seed fixes, again and again until `heal.steps` steps are
    done, or the held-out loss no longer falls, if `heal.stop_when` says so. A checkpoint is
    written every `heal.save_every` steps; where there is one already, training goes on from it,
    and ends with the same weights as if it had never stopped.

    Raises `PointFailed`, naming step and rate, as soon as a loss is not finite; the last checkpoint
    stays.
    """
    folder = Path(str(said.output_dir))
    micro, num_sequences = said.per_device_train_batch_size, len(course.examples)
    if num_sequences < micro:
        raise UserError(
            f"The healing text gives {num_sequences} sequences, fewer than "
            f"heal.micro_batch_size={micro}: give more text, or a smaller heal.sequence_length."
        )
    trained = [part for part in course.objective.parameters() if part.requires_grad]
    if not trained:
        raise UserError(f"heal={config.recipe} trains no weight of this model: choose another.")
    kinds = [part.dtype for part in trained]
    for part in trained:
        # An update that is a thousandth of a weight is lost in 16 bits.
        part.data = part.data.float()
    checkpoint = _last_checkpoint(folder)
    before = _history(checkpoint)
    mixed = said.device.type, getattr(torch, dtype.value), said.bf16 or said.fp16
    watch = _Watch(config, heldout, mixed)
    trainer = _Trainer(
        model=course.objective, args=said, train_dataset=course.examples, callbacks=[watch]
    )
    trainer.remove_callback(PrinterCallback)
    memory.reset_peak(said.device)
    with bar(f"heal {config.recipe}", total=known(config.steps)) as advance:
        watch.advance = advance
        if checkpoint is not None and _ended(config, before):
            trainer.take_up(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    for part, kind in zip(trained, kinds, strict=True):
        part.data = part.data.to(kind)
    course.objective.eval()
    steps = [Step(**_only(entry)) for entry in trainer.state.log_history if _seen(entry)]
    tokens = known(config.batch_size) * known(config.sequence_length)
    done = steps[-1].step
    return Training(
        steps=steps,
        tokens=done * tokens,
        seconds=round(math.fsum(step.seconds or 0.0 for step in steps), 3),
        trainable_parameters=sum(part.numel() for part in trained),
        peak_memory_bytes=steps[-1].peak_memory_bytes,
        stopped="plateau" if done < known(config.steps) else None,
    )


class _Trainer(Trainer):
    """Transformers' own, but for checkpoints: they hold the weights that are trained, no others."""

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """It is where it was loaded to; what waits on disk could not be moved."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: part.detach().contiguous() for name, part in _trained(self.model)},
                folder / WEIGHTS,
            )

    def take_up(self, checkpoint: str) -> None:
        """Be what training ended with: it was stopped after that, and before its record.

        Asked to go on from its last step, transformers' own loop would take one more.
        """
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        for name, part in _trained(model or self.model):
            part.data.copy_(weights[name])


def _trained(model: nn.Module | None) -> list[tuple[str, nn.Parameter]]:
    assert model is not None
    return [(name, part) for name, part in model.named_parameters() if part.requires_grad]


def _split(config: HealConfig, on_cpu: bool) -> tuple[int, int]:
    """Sequences at a time on a device, and how many times they are gathered for one step."""
    batch, micro = known(config.batch_size), known(config.micro_batch_size)
    devices = processes.count()
    if devices == 1 and not on_cpu and torch.cuda.is_available():
        devices = torch.cuda.device_count()  # one process drives all GPUs that it sees
    micro = min(micro, batch)
    if batch % (micro * devices):
        raise UserError(
            f"heal.batch_size={batch} is no multiple of heal.micro_batch_size={micro} on each of "
            f"{devices} device(s)."
        )
    return micro, batch // (micro * devices)


def _optimizer(name: str, on_cpu: bool) -> str:
    """`name`, or the same without paging where there is no GPU to page for."""
    return "adamw_torch" if on_cpu and name == "paged_adamw_32bit" else name


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole."""
    steps = {}
    for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}"):
        try:
            check_sums(path.parent)
        except Damaged:
            continue  # or the process ended while it was written
        steps[json.loads(path.read_text())["global_step"]] = str(path.parent)
    return steps[max(steps)] if steps else None


def _history(checkpoint: str | None) -> list[dict[str, Any]]:
    if checkpoint is None:
        return []
    history: list[dict[str, Any]] = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text())[
        "log_history"
    ]
    return history


def _ended(config: HealConfig, history: Sequence[dict[str, Any]]) -> bool:
    """Whether nothing is left to train."""
    return history[-1]["step"] >= known(config.steps) or _plateau(config, history)


def _seen(entry: dict[str, Any]) -> bool:
    return "loss" in entry or "heldout" in entry


def _only(entry: dict[str, Any]) -> dict[str, Any]:
    """What `Step` holds of an entry of the trainer's log."""
    return {name: entry[name] for name in Step.__dataclass_fields__ if name in entry}


def _plateau(config: HealConfig, history: Sequence[dict[str, Any]]) -> bool:
    """Whether training is to stop since the held-out loss no longer falls."""
    if config.stop_when != "plateau":
        return False
    losses = [entry["heldout"] for entry in history if "heldout" in entry]
    if len(losses) <= PLATEAU_AFTER:
        return False
    best = min(losses[:-PLATEAU_AFTER])
    return bool(min(losses[-PLATEAU_AFTER:]) > best * (1 - PLATEAU_GAIN))


class _Watch(TrainerCallback):
    """Adds to the trainer's own log what a user wants to see, and stops what leads nowhere.

    The trainer's log is part of its checkpoints, so nothing is lost when a run is stopped.
    """

    def __init__(
        self, config: HealConfig, heldout: Measure, mixed: tuple[str, torch.dtype, bool]
    ) -> None:
        self._config = config
        self._heldout = heldout
        self._mixed = mixed
        self._started = 0.0
        self.advance: Advance = lambda steps, said="": None

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
            raise PointFailed(
                f"heal={self._config.recipe}: the loss is not a number at step {step}, learning "
                f"rate {rate:.2e}. Try a smaller heal.learning_rate."
            )
        entry = state.log_history[-1]
        entry["seconds"] = round(time.monotonic() - self._started, 4)
        entry["peak_memory_bytes"] = memory.peak(args.device)
        if step % known(self._config.eval_every) == 0 or step == state.max_steps:
            entry["heldout"] = self._measure(kwargs["model"])
            if _plateau(self._config, state.log_history):
                control.should_training_stop = control.should_save = True
        tokens = known(self._config.batch_size) * known(self._config.sequence_length)
        self.advance(
            1,
            f"loss {loss:.3f}, rate {rate:.1e}, {tokens / entry['seconds']:,.0f} tokens/s, "
            f"{entry['peak_memory_bytes'] / 2**30:.1f} GiB",
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What each process adds for itself, the state of its random numbers, is not looked at."""
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_sums(folder, [WEIGHTS, TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME])

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def _measure(self, model: nn.Module) -> float:
        device, kind, mixed = self._mixed
        model.eval()
        try:
            with torch.autocast(device, kind, enabled=mixed):
                return self._heldout()
        finally:
            model.train()
