"""Write measured figures into the pages that quote them.

    python tools/measured.py [--outputs outputs]

`make measured` does it. What `make bench`, `make test-soak`, `make mutants` and
`experiment=recipes` left under outputs goes into `experiments/measured.json`; what did not run
keeps the figures that it had. Everything else that these tables quote is read from the lab notes
and from docs/.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recipes_table

from layerprune.runtime.atomic_files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "experiments" / "measured.json"

FILES = ("bench", "bench_training", "bench_report", "soak", "mutants", "bench_command")
"""What runs leave: outputs/NAME.json."""

RECIPES = "recipes"
"""The study of `experiment=recipes`, and its part of the figures."""

NUM_DROPPED = 8
"""Layers removed in the table of recipes."""

MMLU, FACTS = "mmlu_5_shot", "facts_0_shot"
"""Questions of experiments/bench.py."""

END = "<!-- end -->"

Row = Sequence[str]


def collect(known: dict[str, Any], outputs: Path) -> dict[str, Any]:
    """The figures of what ran under `outputs`, and those that were known of the rest."""
    found = dict(known)
    for name in FILES:
        if (file := outputs / f"{name}.json").is_file():
            # Questions that were not asked this time keep what they had.
            found[name] = known.get(name, {}) | json.loads(file.read_text(encoding="utf-8"))
    if (outputs / RECIPES).is_dir():
        found[RECIPES] = recipes_table.figures(outputs / RECIPES)
    return found


def pages(measured: dict[str, Any]) -> dict[Path, str]:
    """Each page that quotes figures, with the current ones."""
    found: dict[Path, str] = {}
    for name, part, lines in (
        ("docs/heal.md", "recipes", _recipes(measured[RECIPES])),
        ("docs/benchmarks.md", "measured", _measured(measured)),
        ("experiments/shared_pass.md", "bench", _curves(measured["bench"])),
    ):
        path = ROOT / name
        text = found.get(path) or path.read_text(encoding="utf-8")
        begin = f"<!-- {part}: written by make measured -->\n"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not (begun and ended):
            raise SystemExit(f"{name} has no part between {begin.strip()} and {END}.")
        # A table in an item of a list stands as far in as the item.
        indent = " " * (len(before) - len(before.rstrip(" ")))
        table = "".join(f"{indent}{line}\n" for line in lines)
        found[path] = f"{before}{begin}\n{table}\n{indent}{END}{after}"
    return found


def _measured(measured: dict[str, Any]) -> list[str]:
    bench, training, report = (measured[name] for name in FILES[:3])
    soak, mutants, command = (measured[name] for name in FILES[3:])
    slow, fast = (
        {kind: f"{bench[asked][kind]['ratio']:.0f}" for kind in ("block", "deepest")}
        for asked in (MMLU, FACTS)
    )
    rows: list[Row] = [
        ("log-likelihoods of all 30 depths of the bundled model on two subjects of MMLU, 5-shot, "
         "against lm-eval's own backend one cut model at a time, extrapolated from four depths",
         f"{slow['block']} times as fast (`block`), {slow['deepest']} (`deepest`); "
         f"[0-shot](../experiments/shared_pass.md) {fast['block']} and {fast['deepest']}",
         "`python experiments/bench.py --mmlu FOLDER`, a copy of cais/mmlu"),
        (f"a whole command: {command['depths']} depths of `block`, {command['questions']} "
         "questions and held-out losses, against the same work one cut model at a time; CPU "
         "seconds of one thread",
         f"{command['ratio']:.1f} times as fast; held-out losses alone "
         f"{command['heldout']['ratio']:.2f} times, where operations allow "
         f"{command['heldout']['ratio_of_operations']:.2f}",
         "`python experiments/bench_command.py`"),
        ("distances of all blocks, against one forward pass without the head",
         f"{bench['profile']['ratio']:.2f} times its time", "`make bench`"),
        ("tokens per second of `lora`, against a plain script of `Trainer` and peft; of `seam`, "
         "against `lora`",
         f"{training['lora_against_plain']:.2f} times as many; "
         f"{training['seam_against_lora']:.2f} times", "`make bench`"),
        ("a random 8.4 GB model, 48 depths: distances, loss, 5-shot questions",
         f"within {_streamed(1)} GB, bit-identical, in "
         f"{int(_streamed(2)) / int(_streamed(3)):.1f} times the time it takes from memory",
         "`python experiments/stream.py --folder NEW`, as root, with 18 GB of memory"),
        ("rank correlation of angular distance and loss, among 22 to 28 blocks of one size",
         f"{_correlations('distance')}; {_correlations('middle')} of the nearness to the model's "
         f"middle. Over three sizes pooled, {_correlation()}",
         "`python main.py experiment=predictor`"),
        ("recipes of healing", "[table](heal.md)", "`python main.py experiment=recipes`"),
        ("generation against multiple choice", "[v2](../experiments/v2.md)",
         "`python main.py experiment=v2`"),
        ("a report of 2,000 points with 57 subjects each",
         f"{report['report_s']:.0f} s, {report['ratio']:.0f} times as long as `json` takes to read "
         f"them; a page of {report['html_bytes'] / 1e6:.1f} MB",
         "`python experiments/bench_report.py`"),
        ("a thousand points of 125 models in one process",
         f"{soak['early_bytes'] / 2**20:.0f} MiB after the first hundred, "
         f"{soak['late_bytes'] / 2**20:.0f} at the end", "`make test-soak`"),
        ("faults injected into real runs: signals, full disks, damaged files, no memory, no hub",
         f"{_faults()}, nothing lost", "`make test-faults`"),
        ("mutants of plans, distances, cuts and records that the tests notice",
         f"{mutants['noticed']} of {mutants['mutants']}", "`make mutants`"),
    ]  # fmt: skip
    return _table(("measured", "result", "command"), ":::", rows)


def _recipes(figures: Sequence[dict[str, Any]]) -> list[str]:
    """What each recipe recovers, for the first seed."""
    rows = [
        (
            each["recipe"],
            f"{each['seconds']:.0f}" if each["seconds"] is not None else "",
            _millions(each["trained"]) if each["trained"] else "",
            f"{each['nats']:.2f}",
            f"{100 * each['accuracy']:.1f}",
        )
        for each in figures
        if each["num_dropped"] == NUM_DROPPED and each["seed"] == 0
    ]
    columns = "recipe", "seconds", "trained", "held-out loss", "accuracy %"
    return _table(columns, ":----", rows)


def _curves(bench: dict[str, Any]) -> list[str]:
    rows = [
        (
            said,
            f"`{plans}`",
            f"{found['shared_s']:.1f} s",
            f"{found['hflm_sum_s']:,.0f} s",
            f"{found['ratio']:.1f}",
            f"{found['largest_difference']:.1e}".replace("e-0", "e-"),
            f"{found['layer_runs']} of 465",
            f"{found['peak_above_model_bytes'] / 2**20:.0f} MiB",
        )
        for asked, said in ((FACTS, "facts, 0-shot"), (MMLU, "MMLU, 5-shot"))
        for plans in ("block", "deepest")
        for found in (bench[asked][plans],)
    ]
    columns = (
        "questions", "plans", "one pass", "HFLM, summed", "times as fast", "largest difference",
        "layer runs", "memory above the model",
    )  # fmt: skip
    return _table(columns, "::------", rows)


def _table(columns: Row, sides: str, rows: Sequence[Row]) -> list[str]:
    """A table of Markdown: `:` for a column to the left, `-` for one to the right."""
    rule = [":--" if side == ":" else "--:" for side in sides]
    return [f"| {' | '.join(columns)} |", f"|{'|'.join(rule)}|",
            *(f"| {' | '.join(row)} |" for row in rows)]  # fmt: skip


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number < 1e8 else f"{number / 1e6:.0f}M"


def _streamed(group: int) -> str:
    """The limit of a streamed run in GB, its seconds, and the same run's from memory."""
    pattern = r"\| streamed: .*? \| ([\d.]+) GB .*? (\d+) \|\n.*? (\d+) \|$"
    return _read("docs/big_models.md", pattern, group)


def _correlation() -> str:
    return _read("experiments/predictor.md", r"\| all \| 75 \| loss \| ([\d.]+)")


def _correlations(of: str) -> str:
    """The least and greatest within one size, of the distance or of the place in the middle."""
    skipped = {"distance": 0, "middle": 2}[of]
    row = r"\| {} \| \d+ \| loss \|" + r"[^|]*\|" * skipped + r" ([\d.]+)"
    values = [float(_read("experiments/predictor.md", row.format(size))) for size in (3, 6, 9)]
    return f"{min(values)} to {max(values)}"


def _faults() -> str:
    return _read("docs/faults.md", r"^(\d+) faults\.")


def _read(name: str, pattern: str, group: int = 1) -> str:
    """What a page says."""
    found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{name} does not say what other pages quote of it: {pattern}")
    return found[group]


def main() -> None:
    """Collect the figures, and rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    known = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
    measured = collect(known, parser.parse_args().outputs)
    write_json(MEASURED, measured)
    for path, text in pages(measured).items():
        write_text(path, text)


if __name__ == "__main__":
    main()
