"""Accuracy of the search for the smallest model on simulated curves, against plain bisection.

    python experiments/search_accuracy.py [--curves 1000]

Prints the table of docs/fit.md. Plain bisection takes a candidate's measured margin as the truth.
Takes half a minute on two cores.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes, one thread each

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from search_curves import KINDS, simulated_curve  # noqa: E402 - the tests' curves

from layerprune.search.bayesian_search import (  # noqa: E402
    max_healings,
    search,
    unhealed_answer,
)

FIRST_SEED = 10_000
"""Curves of smaller seeds were used to tune the search."""


def bayesian(curve):
    """Return the answer and the number of healings of the search of this package."""
    posterior, healed = search(curve.unhealed, curve.dense, curve.keep, curve.healed.__getitem__)
    return posterior.answer, len(healed)


def bisection(curve, recheck=None):
    """Return the same for bisection between the unhealed answer and all layers.

    With `recheck`, a candidate that decides by missing the budget by less than so many standard
    errors is doubted: the one beyond it is healed too, while healings are left.
    """
    low, high, healed = unhealed_answer(curve.unhealed), len(curve.unhealed), set()
    while high - low > 1:
        middle = (low + high) // 2
        healed.add(middle)
        low, high = (middle, high) if curve.healed[middle].value >= 0 else (low, middle)
    while recheck is not None and len(healed) < max_healings(len(curve.unhealed)):
        beyond = low + 2
        if low + 1 not in healed or beyond in healed or beyond >= len(curve.unhealed):
            break
        miss = curve.healed[low + 1]
        if miss.value < -recheck * miss.stderr:
            break
        healed.add(beyond)
        if curve.healed[beyond].value < 0:
            break
        low = beyond
    return low, len(healed)


def exhaustive(curve):
    """Return the largest n whose measured margin meets the budget; every n is healed."""
    met = [n for n, margin in enumerate(curve.healed) if n and margin.value >= 0]
    return max([unhealed_answer(curve.unhealed), *met]), len(curve.healed) - 1


METHODS = {
    "Bayesian search": bayesian,
    "plain bisection": bisection,
    "plain bisection, near misses checked": lambda curve: bisection(curve, recheck=2.0),
    "healing every n": exhaustive,
}


def measure(seed):
    """Return for each method: layers off, healings, budget met, kept share below the budget."""
    curve = simulated_curve(seed)
    rows = []
    for method in METHODS.values():
        answer, healings = method(curve)
        kept = curve.kept_N[answer]
        met = kept >= curve.keep - 1e-12
        rows.append((answer - curve.answer, healings, met, max(0.0, curve.keep - kept)))
    return rows


def main():
    """Measure all curves and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=1000)
    seeds = range(FIRST_SEED, FIRST_SEED + parser.parse_args().curves)
    with ProcessPoolExecutor() as pool:
        rows = np.array(list(pool.map(measure, seeds, chunksize=20)), dtype=float)
    print("| method | within one layer | mean error, layers | budget met | mean shortfall, points "
          "of the margin | healings |\n|:--|--:|--:|--:|--:|--:|")  # fmt: skip
    results = dict(zip(METHODS, rows.transpose(1, 2, 0), strict=True))
    for method, (off, healings, met, shortfall) in results.items():
        cells = [
            f"{np.mean(abs(off) <= 1):.1%}",
            f"{abs(off).mean():.2f}",
            f"{met.mean():.1%}",
            f"{100 * shortfall.mean():.2f}",
            f"{healings.mean():.1f}",
        ]
        print(f"| {method} | {' | '.join(cells)} |")
    near = abs(rows[:, 0, 0]) <= 1
    for number, kind in enumerate(KINDS):
        share = near[[seed % len(KINDS) == number for seed in seeds]].mean()
        print(f"Bayesian search within one layer, {kind}: {share:.1%}")


if __name__ == "__main__":
    main()
