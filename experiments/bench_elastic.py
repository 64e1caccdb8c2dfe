"""Times the evaluation of points that `heal=elastic` healed: in shared passes, and one by one.

    python experiments/bench_elastic.py [--depths 16] [--outputs outputs]

The bundled model, all questions of `facts`, nothing cached. One by one means as for every other
recipe: each point loads its model first. Adapters get random weights, since training does not
change the time. Scores must be equal.
"""

import argparse
import time
from pathlib import Path

import torch

from layerprune.config.compose import compose
from layerprune.errors import RunErrors
from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.evaluate.evaluate import Evaluation, evaluate_paths
from layerprune.heal.recipes.lora import add_adapters
from layerprune.model.load import LoadedModel, load
from layerprune.run.claims import pending_points
from layerprune.run.dense import DenseModel, plan_points
from layerprune.run.job import JobBuilder
from layerprune.runtime.atomic_files import write_json
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath, layer_runs


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, default=16)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    counts = ",".join(map(str, range(options.depths)))
    config = compose(
        "heal=elastic", f"prune.layers_dropped=[{counts}]", f"runtime.outputs={options.outputs}"
    )
    job = JobBuilder().build(config)
    job.eval_tasks.load()
    dense = DenseModel(job, None)
    points = plan_points(dense, pending_points([job], RunErrors()))
    heldout_ST = dense.heldout
    bands = [
        [point.plan.kept for point in points if point.target.count in band]
        for band in job.trainings
    ]
    dense.unload()

    def healed_model() -> LoadedModel:
        loaded = load(job.source, config.model.dtype, "cpu")
        torch.manual_seed(0)
        adapted = add_adapters(loaded.model, config.heal)  # type: ignore[arg-type]
        for name, part in adapted.named_parameters():
            if ".lora_B." in name:
                part.data.normal_(std=1e-3)
        return loaded

    def evaluate(loaded: LoadedModel, paths: list[LayerPath]) -> list[Evaluation]:
        budget = MemoryBudget.of(loaded.model)
        shared = evaluate_paths(
            loaded, job.eval_tasks, heldout_ST, budget, AnswerCache(), job.token_cache, paths
        )
        return list(shared)

    evaluate(healed_model(), bands[0][:1])  # prompts and tokens, which all points share
    started = time.monotonic()
    together = [result for paths in bands for result in evaluate(healed_model(), paths)]
    shared_s = time.monotonic() - started
    started = time.monotonic()
    alone = [
        result for paths in bands for path in paths for result in evaluate(healed_model(), [path])
    ]
    alone_s = time.monotonic() - started
    for one, other in zip(together, alone, strict=True):
        assert [score.measures for score in one.scores] == [s.measures for s in other.scores]
    result = {
        "depths": options.depths,
        "seconds": {"shared": shared_s, "alone": alone_s},
        "ratio": alone_s / shared_s,
        "layer_runs": {
            "shared": sum(map(layer_runs, bands)),
            "alone": sum(len(path) for paths in bands for path in paths),
        },
        "threads": torch.get_num_threads(),
    }
    print(result)
    write_json(options.outputs / "bench_elastic.json", result)


if __name__ == "__main__":
    main()
