"""Times the prompts and tokens of a task for many cut models, against making them for each.

    python experiments/bench_prompts.py [--tasks mmlu --datasets-dir FOLDER] [--models 13]

No model runs: every answer is a placeholder. lm-eval makes prompts for one model, with its own
template environment, and tokenizes them one by one; that is measured once and counted for each
model. Here, both are made for the first model and reused. Prompts and tokens must be equal.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from lm_eval import utils
from lm_eval.models.huggingface import HFLM

from layerprune.config.compose import compose
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import load
from layerprune.model.source import locate


class Unanswered(Scorer):
    """A scorer whose model does not run."""

    def _compute(self, requests: Any) -> list[list[Any]]:
        self.requests = [(list(context), list(rest)) for _, context, rest in requests]
        return [[(0.0, False)] * len(self.paths) for _ in requests]


class Plain(HFLM):
    """lm-eval's own backend, whose model does not run."""

    def _loglikelihood_tokens(self, requests: Any, *_: Any, **__: Any) -> list[Any]:
        self.requests = [(list(context), list(rest)) for _, context, rest in requests]
        return [(0.0, False)] * len(requests)


def main() -> None:
    """Print the seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["facts"])
    parser.add_argument("--datasets-dir", default=None)
    parser.add_argument("--models", type=int, default=13)
    parser.add_argument("--fewshot", type=int, default=5)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    config = compose(f"eval.tasks={options.tasks}", f"eval.num_fewshot={options.fewshot}")
    config.eval.datasets_dir, config.eval.limit = options.datasets_dir, options.limit
    loaded = load(locate(config.model, Path("outputs/cache")), None, "cpu")

    environment = utils.env
    theirs, plain_s = EvalTasks(config.eval), 0.0
    theirs.load()
    sandboxed, utils.env = utils.env, environment
    plain = Plain(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal")
    started = time.perf_counter()
    theirs.score(plain)
    plain_s = time.perf_counter() - started
    utils.env = sandboxed

    ours = EvalTasks(config.eval)
    ours.load()
    paths = [tuple(range(30 - count)) for count in range(options.models)]
    scorer = Unanswered(loaded.model, loaded.tokenizer, paths=paths)
    started = time.perf_counter()
    for scorer.path in range(len(paths)):
        ours.score(scorer)
        if scorer.path == 0:
            first_s = time.perf_counter() - started
    ours_s = time.perf_counter() - started
    made_s = ours.prompt_seconds + scorer.token_seconds
    assert set(map(str, scorer.requests)) == set(map(str, plain.requests))
    count = len(plain.requests)
    print(
        f"{', '.join(options.tasks)}, {options.fewshot}-shot, {count:,} requests\n"
        f"lm-eval, one model: {plain_s:.1f} s, of which {theirs.prompt_seconds:.1f} s prompts; "
        f"{options.models} models: "
        f"{plain_s * options.models:.0f} s\n"
        f"here, {options.models} models: {ours_s:.1f} s ({first_s:.1f} s for the first), of which "
        f"{ours.prompt_seconds:.1f} s prompts, {scorer.token_seconds:.1f} s tokens, the rest "
        f"scoring\n{plain_s * options.models / ours_s:.1f} times as fast; {made_s:.1f} s"
    )


if __name__ == "__main__":
    main()
