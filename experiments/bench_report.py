"""Times the report of 2,000 points with 57 subjects each, in one run on one machine.

    python experiments/bench_report.py [--rounds 3]

Prints the seconds of `python -m layerprune.report`, all of it, the ratio to what Python's own
`json` takes to read the same records, and the size of the page; writes them to
outputs/bench_report.json. The records are made up, the same ones each time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from layerprune.runtime.atomic_files import write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from studies import Maker  # noqa: E402 - of the tests

MODELS = ("llama-7b", "llama-13b", "qwen-7b", "mistral-7b", "phi-2")
STRATEGIES = ("block", "deepest", "scattered", "random")
RECIPES = ("none", "lora", "qlora", "full", "distill")
SUBJECTS = tuple(f"subject_{number:02d}" for number in range(57))
COUNTS, LAYERS, QUESTIONS, STEPS = range(20), 32, 50, 100


def main() -> None:
    """Make the records, draw their report some times, print the figures and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        num_points = _make(study)
        reading = statistics.median(_reading(study) for _ in range(rounds))
        drawing = statistics.median(_drawing(study) for _ in range(rounds))
        page = (study / "report.html").stat().st_size
    found = {
        "points": num_points,
        "report_s": drawing,
        "json_s": reading,
        "ratio": drawing / reading,
        "html_bytes": page,
    }
    print(
        f"report of {num_points:,} points: {drawing:.1f} s, {drawing / reading:.1f}x what json "
        f"takes to read them ({reading:.2f} s); report.html {page / 1e6:.2f} MB"
    )
    write_json(ROOT / "outputs" / "bench_report.json", found)


def _make(study: Path) -> int:
    maker = Maker(study)
    for model in MODELS:
        for strategy in STRATEGIES:
            for heal in RECIPES:
                maker.curve(
                    strategy, COUNTS, model=model, heal=heal, num_layers=LAYERS, tasks=("mmlu",),
                    subjects=SUBJECTS, questions=QUESTIONS, steps=STEPS,
                )  # fmt: skip
    maker.profile(num_layers=LAYERS)
    return len(maker.made)


def _reading(study: Path) -> float:
    started = time.perf_counter()
    for path in (study / "points").glob("*/record.json"):
        json.loads(path.read_text(encoding="utf-8"))
    return time.perf_counter() - started


def _drawing(study: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "layerprune.report", str(study)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
