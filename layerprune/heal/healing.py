"""Healing of one point: load the model, prune it, heal it by a recipe, save what changed."""

import hashlib
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from layerprune.config.schema import (
    Config,
    DeviceMap,
    LoraOptions,
    TextOptions,
    TrainingOptions,
)
from layerprune.data.sequences import cached_sequences, pack_documents
from layerprune.data.text import TextSplits
from layerprune.errors import UserError
from layerprune.heal.artifacts import ADAPTER, save_adapter, save_weights, scale_adapters
from layerprune.heal.fsdp import shard_frozen_weights, wait_until_freed
from layerprune.heal.setup import HealContext, TrainingSetup
from layerprune.heal.trainer import train, training_arguments
from layerprune.model.load import LoadedModel, load, torch_device
from layerprune.model.offload import input_device
from layerprune.model.source import Source
from layerprune.prune.plan import Plan
from layerprune.record.healing import Healing
from layerprune.runtime import processes
from layerprune.runtime.progress import progress_bar


@dataclass(frozen=True)
class Healed:
    """A pruned model after its healing."""

    loaded: LoadedModel
    healing: Healing
    adapted: PeftModel | None = None
    """The model with its LoRA adapters, if there are any."""


@dataclass(frozen=True)
class PointHealing:
    """The healing of one point: its inputs, and the folders that it writes to."""

    source: Source
    plan: Plan
    text: TextSplits
    config: Config
    folder: Path
    """For the weights or adapters that healing changed."""
    checkpoints: Path
    heldout: Callable[[PreTrainedModel], float]
    """Measures the loss on held-out text."""
    keep_all: bool = False
    """Save the weights even if all of them were trained (`heal=full`)."""
    cuts: tuple[Plan, ...] = ()
    """The plans that one training heals together, for recipes that do; `plan` is dense then."""

    @property
    def strength(self) -> float:
        """Factor on the output of LoRA adapters after training."""
        options = self.config.heal
        given = options.strength if isinstance(options, LoraOptions) else None
        return 1.0 if given is None else given

    def run(self) -> Healed | None:
        """Load the model, prune it, heal it, and save what changed.

        Training resumes from the last checkpoint in `checkpoints`. With `runtime.shard`, no process
        holds the entire model during training; afterwards, the first process returns it and the
        others return None.
        """
        shard = self.config.runtime.shard
        if shard:
            if processes.num_processes() == 1:
                raise UserError(
                    "runtime.shard=true: there is one process, start several by torchrun."
                )
            self._train(self._load("cpu"), shard=True)
            wait_until_freed()
            if not processes.is_main():
                return None
        loaded = self._load(self.config.runtime.device)
        setup = None
        if isinstance(self.config.heal, TrainingOptions):
            # With sharding, this only restores the last checkpoint.
            setup, healing = self._train(loaded, alone=shard)
        else:
            healing = self._solve(loaded)
        if processes.is_main():
            if setup is not None and setup.adapted is not None:
                save_adapter(setup.adapted, self.plan, self.folder)
            elif setup is None or not setup.trains_all_weights or self.keep_all:
                save_weights(loaded.model, self.plan, self.folder)
        return Healed(loaded, healing, None if setup is None else setup.adapted)

    def restore(self, healing: Healing) -> Healed:
        """Return the healed model of a finished run of a recipe that trains LoRA adapters."""
        loaded = self._load(self.config.runtime.device)
        adapted = PeftModel.from_pretrained(loaded.model, str(self.folder / ADAPTER))
        return Healed(loaded, healing, adapted)

    def _load(self, device: str) -> LoadedModel:
        """Load the dense model in the form that the recipe changes it in."""
        config, runtime = self.config, self.config.runtime
        quantization = config.healed_quantization
        spread = runtime.shard and device != "cpu" and torch.cuda.device_count() > 1
        device_map = DeviceMap.auto if spread else None
        return load(
            self.source, config.model.dtype, device, quantization, device_map, runtime.stream
        )

    def _train(
        self, loaded: LoadedModel, shard: bool = False, alone: bool = False
    ) -> tuple[TrainingSetup, Healing]:
        """Prune and train a model together with the other processes, or `alone`.

        With `shard`, its frozen weights are sharded over all processes.
        """
        model, config, options = loaded.model, self.config, self.config.heal
        assert isinstance(options, TrainingOptions)
        device = torch_device(config.runtime.device) if shard else input_device(model)
        training_args = training_arguments(
            options, self.checkpoints, config.seed, config.model.dtype, device
        )
        main_process_first = nullcontext if alone else training_args.main_process_first
        with main_process_first():
            ids_ST = self._sequences(loaded, options)
        context = HealContext(
            model,
            self.plan,
            ids_ST,
            self.checkpoints,
            self.cuts,
            config.seed,
            recompute_activations=shard or (options.recipe == "qlora" and device.type != "cpu"),
            main_process_first=main_process_first,
        )
        set_seed(config.seed)  # LoRA's initial weights are random
        started = time.monotonic()
        with _dtypes_restored(model):
            setup: TrainingSetup = options.prepare(context)
            if shard:
                shard_frozen_weights(setup, model, device)
            prepare_seconds = round(time.monotonic() - started, 3)
            healing = train(setup, options, training_args, lambda: self.heldout(model))
        # Adapters for several cuts are kept as they were trained, and scaled when they are used.
        if setup.adapted is not None and self.strength != 1 and not self.cuts:
            scale_adapters(setup.adapted, self.strength)
            healing = replace(healing, heldout_after=self.heldout(model))
        return setup, replace(healing, prepare_seconds=prepare_seconds)

    def _solve(self, loaded: LoadedModel) -> Healing:
        """Prune a model and change its weights without training."""
        options = self.config.heal
        assert isinstance(options, TextOptions)
        ids_ST = self._sequences(loaded, options)
        context = HealContext(loaded.model, self.plan, ids_ST, self.checkpoints)
        healing: Healing = options.solve(context, lambda: self.heldout(loaded.model))
        return healing

    def _sequences(self, loaded: LoadedModel, options: TextOptions) -> Tensor:
        """Return packed healing text [S, T]; a stream is slow, so its text is cached."""
        text, length, count = self.text, options.sequence_length, options.max_sequences

        def make() -> Tensor:
            with progress_bar("healing text", total=count) as advance:
                return pack_documents(text.healing, loaded.tokenizer, length, count, advance)

        if isinstance(text.healing, tuple):
            return make()
        content = f"{text.digest} {self.source.fingerprint} {length} {count}"
        key = hashlib.sha256(content.encode()).hexdigest()[:12]
        cache = Path(self.config.runtime.outputs) / "cache" / "tokens"
        return cached_sequences(cache / f"{key}.npy", make)


@contextmanager
def _dtypes_restored(model: PreTrainedModel) -> Iterator[None]:
    """Give the weights that a model has now their precision back after the block.

    Training computes some in float32. Evaluated like this, a healed model would be compared in
    other arithmetic than one that is not healed. Weights that the block drops are freed.
    """
    before = [(weakref.ref(part), part.dtype) for part in model.parameters()]
    yield
    for reference, dtype in before:
        part = reference()
        if part is not None and part.dtype != dtype:
            part.data = part.data.to(dtype)
