"""The training loop of every recipe: transformers' Trainer on packed sequences."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from layerprune.config.schema import Dtype, StopWhen, TrainingOptions
from layerprune.errors import PointFailed, UserError
from layerprune.heal.fsdp import is_sharded
from layerprune.heal.setup import TrainingSetup
from layerprune.record.healing import Healing, TrainingStep
from layerprune.runtime import memory, processes
from layerprune.runtime.atomic_files import CorruptFile, verify_checksums, write_checksums
from layerprune.runtime.progress import Advance, progress_bar

WEIGHTS = "trained.safetensors"
"""The file of a checkpoint with the trainable weights, and no others."""

PLATEAU_AFTER = 3
"""`heal.stop_when=plateau` stops after so many measurements in a row without an improvement."""

PLATEAU_GAIN = 1e-3
"""An improvement: a held-out loss below the best so far by more than this share of it."""

LogEntry = dict[str, Any]
"""An entry of the Trainer's log: a training loss, a held-out loss or both."""


def training_arguments(
    options: TrainingOptions, folder: Path, seed: int, dtype: Dtype, device: torch.device
) -> TrainingArguments:
    """Return the arguments of transformers' Trainer; among several processes, this connects them.

    A process trains on one device: alone on `device`, among others on the GPU of its number.
    Raises `UserError` for a batch that cannot be split evenly, and under `accelerate --use_fsdp`.
    """
    if processes.uses_fsdp():
        raise UserError(
            "accelerate launch --use_fsdp shards weights differently: start this with torchrun, "
            "or without --use_fsdp, and give runtime.shard=true."
        )
    micro_batch_size, accumulation = split_batch(options)
    on_cpu = device.type == "cpu"
    # Without a GPU there is nothing to page for.
    paged_on_cpu = on_cpu and options.optimizer == "paged_adamw_32bit"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup_steps,
        optim="adamw_torch" if paged_on_cpu else options.optimizer,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        bf16=dtype is Dtype.bfloat16,
        fp16=dtype is Dtype.float16 and not on_cpu,
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,  # the examples have exactly the objective's arguments
        ddp_find_unused_parameters=False,
        ddp_timeout=7 * 24 * 3600,  # the others wait while the first process evaluates
        dataloader_pin_memory=not on_cpu,
    )
    if processes.num_processes() == 1 and not on_cpu:
        _use_only(device, arguments)
    return arguments


def _use_only(device: torch.device, arguments: TrainingArguments) -> None:
    """Train on one device: the Trainer would take cuda:0, and split batches over all GPUs."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    assert arguments.distributed_state is not None
    arguments.distributed_state.device = device  # where accelerate moves batches
    arguments.__dict__["_setup_devices"] = device  # behind `arguments.device`
    arguments._n_gpu = 1


def split_batch(options: TrainingOptions) -> tuple[int, int]:
    """Return the sequences per device at a time, and the accumulation steps of an optimiser step.

    Raises `UserError` if `heal.batch_size` is not a multiple of their product over all devices.
    """
    devices = processes.num_processes()
    micro_batch_size = min(options.micro_batch_size, options.batch_size)
    if options.batch_size % (micro_batch_size * devices):
        raise UserError(
            f"heal.batch_size={options.batch_size} is no multiple of "
            f"heal.micro_batch_size={micro_batch_size} on each of {devices} device(s)."
        )
    return micro_batch_size, options.batch_size // (micro_batch_size * devices)


def train(
    setup: TrainingSetup,
    options: TrainingOptions,
    training_args: TrainingArguments,
    heldout: Callable[[], float],
) -> Healing:
    """Train the trainable weights of `setup` in place.

    Examples come in an order that the seed fixes, repeated until `heal.steps` steps are done or
    `heal.stop_when` ends training. A checkpoint is written every `heal.save_every` steps. Training
    resumes from the last one, and ends with the same weights as without the interruption.
    `heldout` returns the held-out loss of the current model in nats per token.

    Raises `PointFailed`, naming step and learning rate, as soon as a loss is not finite; the last
    checkpoint stays.
    """
    folder = Path(str(training_args.output_dir))
    micro_batch_size = training_args.per_device_train_batch_size
    if len(setup.examples) < micro_batch_size:
        raise UserError(
            f"The healing text gives {len(setup.examples)} sequences, fewer than "
            f"heal.micro_batch_size={micro_batch_size}: give more text, or a smaller "
            "heal.sequence_length."
        )
    trained = [parameter for _, parameter in _trainable(setup.objective)]
    if not trained:
        raise UserError(f"heal={options.recipe} trains no weight of this model: choose another.")
    for parameter in trained:
        # In 16 bits, an update of a thousandth of a weight would be lost.
        parameter.data = parameter.data.float()
    autocast = torch.autocast(
        training_args.device.type,
        torch.bfloat16 if training_args.bf16 else torch.float16,
        enabled=training_args.bf16 or training_args.fp16,
    )
    checkpoint, state = _last_checkpoint(folder)
    with progress_bar(f"heal {options.recipe}", total=options.steps) as advance:
        trainer = _Trainer(
            model=setup.objective,
            args=training_args,
            train_dataset=setup.examples,
            callbacks=[_HealingCallback(options, heldout, autocast, advance, setup.before_step)],
        )
        trainer.remove_callback(PrinterCallback)
        memory.reset_peak(training_args.device)
        finished = state.global_step >= options.steps or _at_plateau(options, state.log_history)
        if checkpoint is not None and finished:
            # Interrupted before its record was written: resuming would take one more step.
            trainer._load_from_checkpoint(checkpoint)
            trainer.state = state
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    setup.objective.eval()
    names = TrainingStep.__dataclass_fields__
    history: list[LogEntry] = trainer.state.log_history
    steps = tuple(
        TrainingStep(**{name: value for name, value in entry.items() if name in names})
        for entry in history
        if "loss" in entry or "heldout" in entry
    )
    losses = [step.heldout for step in steps if step.heldout is not None]
    return Healing(
        recipe=options.recipe,
        steps=steps,
        tokens=steps[-1].step * options.batch_size * options.sequence_length,
        seconds=round(math.fsum(step.seconds or 0.0 for step in steps), 3),
        trainable_parameters=sum(parameter.numel() for parameter in trained),
        heldout_before=losses[0],
        heldout_after=losses[-1],
        peak_memory_bytes=steps[-1].peak_memory_bytes,
        stopped="plateau" if steps[-1].step < options.steps else None,
    )


class _Trainer(Trainer):
    """Transformers' Trainer with checkpoints that hold only the trainable weights."""

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: Any = None
    ) -> nn.Module:
        """Return a model whose gradients are averaged over the processes.

        On GPUs, accelerate refuses to do that for a model with sharded weights, although those are
        frozen.
        """
        if not (training and is_sharded(model)) or isinstance(model, DistributedDataParallel):
            return super()._wrap_model(model, training, dataloader)
        prepared = self.accelerator.prepare_model(
            model, device_placement=False, evaluation_mode=True
        )  # for autocast alone
        return DistributedDataParallel(prepared, find_unused_parameters=False)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """Leave the model where it was loaded: weights offloaded to disk could not be moved."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            assert self.model is not None
            weights = {name: p.detach().contiguous() for name, p in _trainable(self.model)}
            save_file(weights, folder / WEIGHTS)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        model = model or self.model
        assert model is not None
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        for name, parameter in _trainable(model):
            parameter.data.copy_(weights[name])


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, part) for name, part in model.named_parameters() if part.requires_grad]


def _last_checkpoint(folder: Path) -> tuple[str | None, TrainerState]:
    """Return the newest checkpoint that was written completely, and its state."""
    checkpoint, last = None, TrainerState()
    for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}"):
        try:
            verify_checksums(path.parent)
        except CorruptFile:
            continue  # or the process ended while writing it
        state = TrainerState.load_from_json(str(path))
        if state.global_step > last.global_step:
            checkpoint, last = str(path.parent), state
    return checkpoint, last


def _at_plateau(options: TrainingOptions, history: Sequence[LogEntry]) -> bool:
    """Return True if training should stop because the held-out loss no longer falls."""
    losses = [entry["heldout"] for entry in history if "heldout" in entry]
    if options.stop_when is not StopWhen.plateau or len(losses) <= PLATEAU_AFTER:
        return False
    best = min(losses[:-PLATEAU_AFTER])
    return bool(min(losses[-PLATEAU_AFTER:]) > best * (1 - PLATEAU_GAIN))


@dataclass(eq=False)
class _HealingCallback(TrainerCallback):
    """Adds held-out loss, seconds and memory to the Trainer's log, and stops training early.

    The log is part of the Trainer's checkpoints, so an interruption loses nothing of it.
    """

    options: TrainingOptions
    heldout: Callable[[], float]
    autocast: torch.autocast
    advance: Advance
    before_step: Callable[[int], None] | None = None
    started: float = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            state.log_history.append({"step": 0, "heldout": self._measure(kwargs["model"])})
        self.advance(state.global_step)
        self.started = time.monotonic()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        options, step = self.options, state.global_step
        loss, learning_rate = logs["loss"], logs["learning_rate"]
        if not math.isfinite(loss) or not math.isfinite(logs.get("grad_norm", 0.0)):
            raise PointFailed(
                f"heal={options.recipe}: the loss is not a number at step {step}, learning "
                f"rate {learning_rate:.2e}. Try a smaller heal.learning_rate."
            )
        entry = state.log_history[-1]
        entry["seconds"] = round(time.monotonic() - self.started, 4)
        entry["peak_memory_bytes"] = memory.peak(args.device)
        if step % options.eval_every == 0 or step == state.max_steps:
            entry["heldout"] = self._measure(kwargs["model"])
            if _at_plateau(options, state.log_history):
                control.should_training_stop = control.should_save = True
        tokens = options.batch_size * options.sequence_length
        self.advance(
            1,
            f"loss {loss:.3f}, rate {learning_rate:.1e}, {tokens / entry['seconds']:,.0f} tokens/s,"
            f" {entry['peak_memory_bytes'] / 2**30:.1f} GiB",
        )

    def on_save(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Write the checksums of the shared files: not of each process's own random state."""
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_checksums(folder, [WEIGHTS, TRAINER_STATE_NAME, OPTIMIZER_NAME, SCHEDULER_NAME])

    def on_step_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()
        if self.before_step is not None:
            self.before_step(state.global_step)

    def _measure(self, model: nn.Module) -> float:
        model.eval()
        try:
            with self.autocast:
                return self.heldout()
        finally:
            model.train()
