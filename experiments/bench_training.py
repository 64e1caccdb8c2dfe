"""Times healing against a plain script of transformers and peft, in one run on one machine.

    make bench        or        python experiments/bench_training.py [--rounds 5] [--steps 4]

Prints ratios, and writes them to outputs/bench_training.json. What is timed is how much longer a
run takes with `steps` more steps, so that what it costs once does not count. Each round runs the
rivals one after another, each on a fresh model with the same layers dropped and the same text.
The ratio is the median over rounds, so a drift of the machine's speed does not decide.

- plain: `Trainer(get_peft_model(...))` as its documentation has it, with the same rank, targets,
  rate, batch and data: what this project's loop has to be as fast as.
- lora, seam: this project's recipes. The states that `seam` computes once are in its time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from layerprune.config.compose import compose
from layerprune.config.schema import Config
from layerprune.data.sequences import pack_documents
from layerprune.data.text import read_text
from layerprune.heal.setup import HealContext
from layerprune.heal.trainer import train, training_arguments
from layerprune.model.load import load
from layerprune.model.source import Source, locate
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan
from layerprune.runtime.atomic_files import write_json

BLOCK = tuple(range(10, 19))
"""What `prune=block` drops of the bundled model at 30 %: mid-stack."""


def main() -> None:
    """Run every rival in turn, print the ratios and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps a round")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    rivals: dict[str, Callable[[int], float]] = {
        "plain": plain(options.outputs),
        "lora": ours("lora", options.outputs),
        "seam": ours("seam", options.outputs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for run in rivals.values():
        run(1)  # the first pass of a process is slow
    for _ in range(options.rounds):
        for name, run in rivals.items():
            # What a run costs once, its first and its last checkpoint among it, is in both.
            seconds[name].append(run(1 + options.steps) - run(1))
    tokens = 8 * 128 * options.steps
    result = {
        "threads": torch.get_num_threads(),
        "layers_dropped": BLOCK,
        "tokens_a_round": tokens,
        "seconds": seconds,
        "lora_against_plain": _ratio(seconds["plain"], seconds["lora"]),
        "seam_against_lora": _ratio(seconds["lora"], seconds["seam"]),
    }
    for name, taken in seconds.items():
        print(f"{name}: {tokens / statistics.median(taken):,.0f} tokens/s")
    print(f"lora: {result['lora_against_plain']:.2f} x the speed of plain Trainer and peft")
    print(f"seam: {result['seam_against_lora']:.2f} x the speed of lora")
    write_json(options.outputs / "bench_training.json", result)
    print(f"written: {options.outputs / 'bench_training.json'}")


def ours(recipe: str, outputs: Path) -> Callable[[int], float]:
    """A function that heals for so many steps, and says how many seconds that took."""

    def run(steps: int) -> float:
        config, source, ids_ST = _setting(recipe, outputs, steps)
        model = load(source, config.model.dtype, "cpu").model
        with tempfile.TemporaryDirectory() as folder:
            training_args = training_arguments(
                config.heal, Path(folder), 0, config.model.dtype, torch.device("cpu")
            )
            started = time.perf_counter()
            setup = config.heal.prepare(HealContext(model, _plan(), ids_ST, Path(folder)))
            train(setup, config.heal, training_args, lambda: 0.0)
            return time.perf_counter() - started

    return run


def plain(outputs: Path) -> Callable[[int], float]:
    """The same for a script of transformers and peft alone."""

    def run(steps: int) -> float:
        config, source, ids_ST = _setting("lora", outputs, steps)
        heal = config.heal
        model = drop_layers(load(source, config.model.dtype, "cpu").model, BLOCK)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            adapted = get_peft_model(
                model,
                LoraConfig(
                    task_type="CAUSAL_LM", r=heal.rank, lora_alpha=heal.rank,
                    lora_dropout=heal.dropout,
                    target_modules=["gate_proj", "up_proj", "down_proj"],
                ),
            )  # fmt: skip
            Trainer(
                model=adapted,
                args=TrainingArguments(
                    output_dir=folder, max_steps=steps,
                    per_device_train_batch_size=heal.micro_batch_size,
                    gradient_accumulation_steps=heal.batch_size // heal.micro_batch_size,
                    learning_rate=heal.learning_rate, lr_scheduler_type="cosine",
                    use_cpu=True, report_to=[], disable_tqdm=True,
                ),
                train_dataset=_Labelled(ids_ST),
            ).train()  # fmt: skip
            return time.perf_counter() - started

    return run


class _Labelled(Dataset):
    """Sequences as the documentation's examples have them: ids, and labels that equal them."""

    def __init__(self, ids_ST: torch.Tensor) -> None:
        self._ids_ST = ids_ST.long()

    def __len__(self) -> int:
        return len(self._ids_ST)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids_ST[index], "labels": self._ids_ST[index]}


def _setting(recipe: str, outputs: Path, steps: int) -> tuple[Config, Source, torch.Tensor]:
    config = compose(
        f"heal={recipe}", f"heal.steps={steps}", "heal.warmup_steps=0", "heal.eval_every=1000",
        "heal.save_every=1000",
    )  # fmt: skip
    source = locate(config.model, outputs / "cache")
    tokenizer = load(source, config.model.dtype, "cpu").tokenizer
    ids_ST = pack_documents(read_text(config.data).healing, tokenizer, 128, 8 * steps)
    return config, source, ids_ST


def _plan() -> Plan:
    return Plan("block", 30, BLOCK, 0.0, "what block drops at 30 %")


def _ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


if __name__ == "__main__":
    main()
