"""Compare the results of two versions of the code, study by study, down to the last digit.

    python tools/golden.py make FOLDER [--repo PATH] [--cache EARLIER | --points EARLIER]
    python tools/golden.py compare BEFORE AFTER [--skip GROUP,GROUP] [--most 40]

`make` runs a fixed set of small studies with the `main.py` of PATH, this repository if not given.
FOLDER is created; the tiny models and tasks lie in FOLDER/../models and are made once, so put the
FOLDERs to be compared side by side. `--cache` starts with a copy of the cache of an EARLIER FOLDER:
every lookup must be a hit. `--points` starts with a copy of all its studies: nothing may be
recomputed. `--only NAME,NAME` runs some of the studies.

`compare` prints each difference as file, JSON path, before and after. It exits with status 1 if
there is any, and with 0 and the number of compared values otherwise.

A run takes about five minutes on one core, and 700 MB.

It uses the command line and the files of a study only, and imports nothing of layerprune: the same
script works before and after any change of the package.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

IGNORED = (
    # file (a pattern), JSON path (a pattern; a number for a place in a list), why
    ("*/record.json", "costs.seconds.*", "wall time"),
    ("*/record.json", "costs.peak_memory_bytes", "memory reading of the process"),
    ("*/record.json", "healing.seconds", "wall time"),
    ("*/record.json", "healing.prepare_seconds", "wall time"),
    ("*/record.json", "healing.peak_memory_bytes", "memory reading"),
    ("*/record.json", "healing.steps.*.seconds", "wall time"),
    ("*/record.json", "healing.steps.*.peak_memory_bytes", "memory reading"),
    ("*/record.json", "speed.*.prefill.*", "measured speed"),
    ("*/record.json", "speed.*.decode.*", "measured speed"),
    ("*/record.json", "speed.*.first_token_s.*", "wall time"),
    ("*/record.json", "speed.*.peak_bytes", "memory reading"),
    ("*/record.json", "speed.prefill_ratio.*", "measured speed"),
    ("*/record.json", "speed.decode_ratio.*", "measured speed"),
    ("*/record.json", "provenance.time", "date"),
    ("*/record.json", "provenance.commit", "the two versions are two commits"),
    ("*/record.json", "sha256", "seal over all of the above; records without it are equal"),
    ("*/failed.json", "time", "date"),
    ("*/adapter/sums.json", "adapter_config.json", "peft writes a set, in any order: see below"),
    ("*/adapter/sums.json", "sha256", "seal over the line above"),
    ("*/figures/cost.csv", "*.value", "wall time and memory of a training step"),
    ("*/figures/speed.csv", "* measured.*", "measured speed and memory; low and high too"),
    ("*/report.html", "data.spec-cost.description", "the same numbers as text"),
    ("*/report.html", "data.spec-cost-data.*.value", "wall time and memory of a training step"),
    ("*/report.html", "data.spec-speed.description", "the same numbers as text"),
    ("*/report.html", "data.spec-speed-data.* measured.*", "measured speed and memory"),
    ("*/report.html", "words.cost.images.*", "the same numbers as text, and drawn"),
    ("*/report.html", "words.speed.images.*", "the same numbers as text, and drawn"),
    ("*/report.html", "words.healing.tables.*.rows.*.3", "tokens per second"),
    ("*/report.html", "words.healing.tables.*.rows.*.4", "wall time"),
    ("*/report.html", "words.healing.tables.*.rows.*.5", "memory reading"),
    ("*/report.html", "words.speed.tables.*.rows.*.3", "measured prefill speed"),
    ("*/report.html", "words.speed.tables.*.rows.*.5", "measured prefill speed"),
    ("*/report.html", "words.speed.tables.*.rows.*.6", "measured decoding speed"),
    ("*/report.html", "words.speed.tables.*.rows.*.8", "measured decoding speed"),
    ("*/report.html", "words.speed.tables.*.rows.*.10", "memory reading"),
    ("*/report.html", "words.making.facts.points", "total wall time"),
    ("*/report.html", "words.making.facts.when", "date"),
    ("*/report.html", "words.making.facts.commit", "the two versions are two commits"),
    ("*/wandb", "*.config.costs.seconds.*", "wall time"),
    ("*/wandb", "*.config.costs.peak_memory_bytes", "memory reading"),
    ("*/wandb", "*.config.provenance.time", "date"),
    ("*/wandb", "*.config.provenance.commit", "the two versions are two commits"),
    ("*/wandb", "*.history.*.seconds*", "wall time"),
    ("*/wandb", "*.history.*.healing_seconds", "wall time"),
    ("*/wandb", "*.history.*.peak_memory_bytes", "memory reading"),
    ("*/wandb", "*.history.*.heal/peak_memory_bytes", "memory reading"),
    ("*/wandb", "*.history.*.heal/tokens_per_second", "wall time"),
    ("*/wandb", "*.summary.rows", "hashes of the history, with its wall times"),
    ("*/wandb", "*.summary.seconds*", "wall time"),
    ("*/wandb", "*.summary.healing_seconds", "wall time"),
    ("*/wandb", "*.summary.peak_memory_bytes", "memory reading"),
    ("*/wandb", "*.summary.heal/peak_memory_bytes", "memory reading"),
    ("*/wandb", "*.summary.heal/tokens_per_second", "wall time"),
    ("*/wandb", "*.summary.curve/*", "hash and size of a table; its cells are compared"),
    ("*/wandb", "*.history.*.curve.*", "hash and size of a table; its cells are compared"),
    ("*/wandb", "*.config.curves", "hash of histories, with their wall times"),
    ("*/wandb", "*.history.*.cost.*", "hash and size of a picture, drawn from wall times"),
    ("*/wandb", "*.summary.cost/*", "hash and size of a picture, drawn from wall times"),
    ("*/wandb", "*.table.*.seconds*", "wall time"),
    ("*/wandb", "*.table.*.healing_seconds", "wall time"),
    ("*/wandb", "*.table.*.peak_memory_bytes", "memory reading"),
)
"""Every value that is not compared. It must be there in both, and null in both or in neither."""

NOT_COMPARED = (
    # files below FOLDER (a pattern), why
    ("outputs/*/jobs/*", "Hydra's own files and the log"),
    ("outputs/*/multirun.yaml", "Hydra's own file"),
    ("outputs/*/traceback.txt", "names of files and functions"),
    ("outputs/*/figures/cost.svg", "drawn from wall times"),
    ("outputs/*/figures/cost.png", "drawn from wall times"),
    ("outputs/*/figures/speed.svg", "drawn from wall times"),
    ("outputs/*/figures/speed.png", "drawn from wall times"),
    ("outputs/*/wandb/*", "read as runs, not as files: they are named by the second"),
    ("outputs/*/.*", "locks"),
    ("outputs/cache/*.lock", "locks"),
    ("outputs/cache/fingerprints.json", "keyed by absolute paths and by times of files"),
)

GROUPS = {
    "records": "outputs/*/points/*/record.json",
    "points": "outputs/*/points/*",
    "cache": "outputs/cache/*",
    "profiles": "outputs/*/profiles/*",
    "pictures": "outputs/*/figures/*.[sp][vn]g",
    "figures": "outputs/*/figures/*.csv",
    "page": "outputs/*/report.html",
    "runs": "outputs/*/wandb",
    "terminal": "terminal/*",
    "tables": "*",
}
"""What `--skip` takes; a file belongs to the first group that its path matches. Two more are parts
of a page: `words`, its texts and tables, beside `page`, the data and specifications of charts."""

TINY = (
    "eval.include_path=../models/tasks",
    "eval.trust_task_code=true",
    "data.sequence_length=32",
    "data.calibration_sequences=8",
    "data.heldout_sequences=4",
    "runtime.memory=1GiB",  # what is free decides how sums are rounded
    "runtime.device=cpu",
    "model=custom",
)

HEALING = tuple(
    f"model.healing.{name}={value}"
    for name, value in {
        "steps": 3,
        "batch_size": 4,
        "warmup_steps": 1,
        "sequence_length": 32,
        "learning_rate": 1e-2,
        "weights_learning_rate": 1e-3,
        "rank": 2,
    }.items()
)

ARCHITECTURES = "model.path=../models/llama,../models/gpt2,../models/qwen3"
LLAMA, GPT2 = "model.path=../models/llama", "model.path=../models/gpt2"
METRICS = "metric=angular,cosine,block_influence,magnitude,euclidean,cka,perplexity,taylor,random"

BUNDLED = ("study=bundled", "eval.limit=5", "data.calibration_sequences=8",
           "data.heldout_sequences=4", "runtime.memory=1GiB", "runtime.device=cpu",
           "tracker=disabled")  # fmt: skip

STUDIES: dict[str, tuple[str, ...]] = {
    "metrics": ("-m", *TINY, LLAMA, METRICS, "prune=block,greedy", "prune.fraction=[0.25,0.5]",
                "eval.tasks=[known]", "eval.limit=6", "tracker=disabled"),
    "strategies": ("-m", *TINY, ARCHITECTURES, "prune=block,deepest,greedy,random,scattered",
                   "prune.fraction=0,0.25,0.5", "eval.tasks=[known,continued]", "eval.limit=12",
                   "metric=block_influence", "tracker=disabled"),
    "named": (*TINY, LLAMA, "prune.layers=[1,6]", "eval.tasks=[known]", "export=hf",
              "export.dtype=bfloat16", "tracker=offline"),
    "list": (*TINY, GPT2, "prune.fraction=[0,0.125,0.25,0.26,0.5]", "eval.tasks=[known,continued]",
             "eval.num_fewshot=2", "data=files", "data.files=[../models/text.jsonl]",
             "data.calibration=questions", "runtime.stream=true", "runtime.spill=true",
             "runtime.deterministic=true", "tracker=offline"),
    "facts": ("-m", *TINY, LLAMA, "seed=0,1", "prune=random", "prune.fraction=[0,0.25,0.5]",
              "eval.tasks=[facts,facts_yesno,facts_written]", "eval.limit=2", "tracker=disabled"),
    "heal": ("-m", *TINY, *HEALING, LLAMA, "prune.fraction=[0,0.25,0.5]",
             "heal=none,linear,seam,tail,lora,qlora,full,distill", "eval.tasks=[known]",
             "prune=deepest",  # heal=seam needs a layer above the block
             "export=hf", "tracker=offline"),
    "failed": ("-m", *TINY, *HEALING, LLAMA, "prune.layers=[6],[7]", "heal=seam",
               "eval.tasks=[known]", "tracker=offline"),
    "heal_list": (*TINY, *HEALING, GPT2, "prune.fraction=[0.25,0.5]", "heal=lora",
                  "heal.eval_every=1", "heal.stop_when=plateau", "eval.tasks=[known]", "export=hf",
                  "tracker=disabled"),
    "quantised": ("-m", *TINY, LLAMA, "model.quantization=null,nf4,int8",
                  "prune.fraction=[0,0.25]", "eval.tasks=[known]", "tracker=disabled"),
    "speed": (*TINY, LLAMA, "eval=speed", "eval.speed.rounds=2", "eval.speed.prompt_tokens=16",
              "eval.speed.new_tokens=4", "prune.fraction=[0,0.25,0.5]", "tracker=disabled"),
    "fit": ("experiment=fit", *TINY, *HEALING, LLAMA, "eval.tasks=[known]", "fit.keep=0.6",
            "export=hf", "tracker=disabled"),
    "fit_speed": ("experiment=fit", *TINY, LLAMA, "heal=none", "eval.tasks=[known]",
                  "fit.speedup=1.2", "fit.memory=1MiB", "tracker=disabled"),
    "bundled": (*BUNDLED, "prune.fraction=[0,0.1,0.2667]"),
    "bundled_seam": (*BUNDLED, "heal=seam", "model.healing.steps=2", "prune.fraction=0.2667"),
}  # fmt: skip
"""The options of each run of `main.py`, in order. A run's study is its name if it names none."""

STATUS = {"failed": 1}
"""Exit statuses, where they are not 0: nothing stands above layer 7 that could be healed."""

REPORTS: dict[str, tuple[str, ...]] = {
    "report_again": ("outputs/metrics", "outputs/strategies"),
    "report_text": ("--text", "outputs/strategies"),
    "report_together": ("outputs/strategies", "outputs/facts", "--to", "outputs/together"),
    "report_compared": ("--compare", "outputs/heal", "outputs/quantised"),
}
"""The arguments of each run of `python -m layerprune.report`; what it prints is compared."""


def make(folder: Path, repo: Path, earlier: Path | None, what: str, only: list[str]) -> None:
    """Run the studies of `only`, all if empty, with the code of `repo`; results go to `folder`."""
    folder, repo = folder.resolve(), repo.resolve()
    if folder.exists():
        sys.exit(f"{folder} exists: name a new folder.")
    (folder / "terminal").mkdir(parents=True)
    (folder / "errors").mkdir()
    make_inputs(folder.parent / "models")
    if earlier is not None:
        source = earlier / "outputs" / ("cache" if what == "cache" else "")
        target = folder / "outputs" / ("cache" if what == "cache" else "")
        shutil.copytree(source, target, symlinks=True)
        copied = {"what": what, "files": watched_files(folder, what)}
        (folder / "copied.json").write_text(json.dumps(copied, indent=1))
    environment = {
        **os.environ,
        "PYTHONPATH": str(repo),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "COLUMNS": "100",
    }
    check_package(repo, environment)
    failed, started = [], time.monotonic()

    def run(name: str, command: list[str], keep: bool) -> None:
        at = time.monotonic()
        errors = folder / "errors" / f"{name}.txt"
        with errors.open("w") as stderr:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        # What main.py prints has wall times in it, and its report is compared as a page.
        (folder / ("terminal" if keep else "errors") / f"{name}.out.txt").write_text(done.stdout)
        seconds = time.monotonic() - at
        print(f"{name}: status {done.returncode}, {seconds:.0f} s", flush=True)
        if done.returncode != STATUS.get(name, 0):
            failed.append(name)
            print("".join(errors.read_text().splitlines(keepends=True)[-5:]), flush=True)

    for name, options in STUDIES.items():
        if not only or name in only:
            study = () if "study=bundled" in options else (f"study={name}",)
            run(name, [str(repo / "main.py"), *options, *study], keep=False)
    for name, arguments in REPORTS.items():
        if not only or name in only:
            run(name, ["-m", "layerprune.report", *arguments], keep=True)
    print(f"{folder}: {time.monotonic() - started:.0f} s")
    if failed:
        sys.exit(f"These failed, {folder / 'errors'} says why: {', '.join(failed)}.")


def check_package(repo: Path, environment: dict[str, str]) -> None:
    """Stop unless `import layerprune` takes the package of `repo`."""
    code = "import importlib.util; print(importlib.util.find_spec('layerprune').origin)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd="/"
    ).stdout.strip()
    if Path(found).resolve().parent != repo / "layerprune":
        sys.exit(f"import layerprune takes {found or 'nothing'}, not the package of {repo}.")
    print(f"package: {found}", flush=True)


def watched_files(folder: Path, what: str) -> dict[str, list[int]]:
    """Return size and time of each copied file that must not change, by its path."""
    pattern = "outputs/cache/**/*" if what == "cache" else "outputs/*/points/*/**/*"
    files = [path for path in folder.glob(pattern) if path.is_file()]
    if what == "points":
        files += [path for path in folder.glob("outputs/cache/**/*") if path.is_file()]
    files = [path for path in files if path.name != "failed.json"]  # tried again each time
    return {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(files)
        if not ignored_file(str(path.relative_to(folder)))
    }


# The inputs: tiny random models, tasks that one of them can answer, and a text.

SIZES = {
    "vocab_size": 259,
    "hidden_size": 64,  # bitsandbytes packs blocks of 64 weights
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "initializer_range": 0.2,  # large enough that every layer shows in the logits
}

QUESTIONS = 60

KNOWN = """task: known
custom_dataset: !function questions.load
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
num_fewshot: 0
metric_list:
  - metric: acc
  - metric: acc_norm
"""

CONTINUED = """task: continued
custom_dataset: !function questions.load
output_type: generate_until
test_split: test
fewshot_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{continued}}"
target_delimiter: ""
num_fewshot: 0
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 4
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

LOAD = """import json
from pathlib import Path

from datasets import Dataset


def load(**_):
    text = Path(__file__).with_name("questions.json").read_text()
    return {"test": Dataset.from_list(json.loads(text))}
"""


def make_inputs(folder: Path) -> None:
    """Make models, tasks and text in `folder`, unless they are there."""
    if folder.exists():
        return
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        LlamaConfig,
        PreTrainedTokenizerFast,
        Qwen3Config,
    )

    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    torch.set_num_threads(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    grouped = {**SIZES, "num_key_value_heads": 2}
    configs = {
        "llama": LlamaConfig(**grouped),
        "gpt2": GPT2Config(**SIZES),
        "qwen3": Qwen3Config(**grouped, head_dim=16),
    }
    made = {}
    for at, (name, config) in enumerate(configs.items()):
        torch.manual_seed(at)
        made[name] = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        made[name].save_pretrained(beside / name)
        tokenizer.save_pretrained(beside / name)
    tasks = beside / "tasks"
    tasks.mkdir()
    (tasks / "known.yaml").write_text(KNOWN)
    (tasks / "continued.yaml").write_text(CONTINUED)
    (tasks / "questions.py").write_text(LOAD)
    questions = list(make_questions(made["llama"], tokenizer))
    (tasks / "questions.json").write_text(json.dumps(questions, indent=1))
    with (beside / "text.jsonl").open("w") as text:
        for at in range(60):
            words = " ".join(f"{chr(97 + (at * step) % 26)}{step * at % 97}" for step in range(80))
            text.write(json.dumps({"text": f"Document {at}. {words}"}) + "\n")
    beside.rename(folder)


def make_questions(model: Any, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Yield questions of which `model` answers eleven of twelve: `fit` needs a margin to keep."""
    import torch

    for at in range(QUESTIONS):
        question = f"Item {at * 37 % 101}, then {chr(97 + at % 26)}:"
        choices = [f"{chr(97 + (at * 7 + step) % 26)}{step}" for step in (1, 2, 3)]
        start = tokenizer(question)["input_ids"]
        scores = []
        for choice in choices:
            end = tokenizer(f" {choice}")["input_ids"]
            with torch.no_grad():
                logits_TV = model(torch.tensor([start + end])).logits[0]
            logprobs_TV = logits_TV.log_softmax(-1)
            places = range(len(start) - 1, len(start) + len(end) - 1)
            scores.append(
                sum(
                    logprobs_TV[place, token].item()
                    for place, token in zip(places, end, strict=True)
                )
            )
        best = scores.index(max(scores))
        with torch.no_grad():
            ids_BT = torch.tensor([start])
            told = model.generate(
                ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=4, do_sample=False
            )[0, len(start) :]
        yield {
            "question": question,
            "choices": choices,
            "answer": (best + 1) % 3 if at % 12 == 5 else best,
            "continued": tokenizer.decode(told, skip_special_tokens=True).partition("\n")[0],
        }


# Reading: every file as a JSON-like value.


def read(folder: Path) -> dict[str, Any]:
    """Return the content of all files of `folder` that are compared, by their path in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("outputs/**/*")) + sorted(folder.glob("terminal/*")):
        name = str(path.relative_to(folder))
        if not path.is_file():
            continue
        if not ignored_file(name):
            cached = name.startswith("outputs/cache/")
            found[name] = read_cached(path) if cached else read_file(path)
    for path in sorted(folder.glob("outputs/*/wandb")):
        found[str(path.relative_to(folder))] = read_runs(path)
    return found


def ignored_file(name: str) -> bool:
    """Return whether `NOT_COMPARED` names the file."""
    return any(fnmatchcase(name, pattern) for pattern, _ in NOT_COMPARED)


def read_file(path: Path) -> Any:
    """Return a file as a value: JSON, rows, lines, or its SHA-256."""
    if path.name == "report.html":
        return read_page(path.read_text(encoding="utf-8"))
    if path.name == "record.json":
        return read_record(path.read_text(encoding="utf-8"))
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "adapter_config.json":  # a set of peft's, whose order is by chance
            content["target_modules"] = sorted(content["target_modules"])
        return content
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return rows_by_name(list(csv.DictReader(file)))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        return {"schema": str(table.schema), "rows": table.to_pylist()}
    if path.suffix in (".md", ".tex", ".txt", ".jinja"):
        return path.read_text(encoding="utf-8").splitlines()
    return sha256(path)


def read_record(text: str) -> Any:
    """Return a record, with whether its bytes are the usual ones and its seal is right."""
    content = json.loads(text)
    usual = json.dumps(content, indent=1) + "\n"
    *lines, seal, _ = text.splitlines()
    if "sha256" in content:
        lines[-1] = lines[-1].removesuffix(",")
        sealed = "\n".join([*lines, "}\n"])
        seal = hashlib.sha256(sealed.encode()).hexdigest()
        return {**content, "(layout)": text == usual, "(seal)": seal == content["sha256"]}
    return {**content, "(layout)": text == usual}


def read_cached(path: Path) -> Any:
    """Return the SHA-256 of a file of the cache; the size of a converted model, which is large."""
    if path.suffix == ".safetensors":
        return {"bytes": path.stat().st_size}
    return sha256(path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows by their number, with what a row is about if it says so: `3 measured`."""
    return {f"{at} {row['what']}" if "what" in row else f"{at}": row for at, row in enumerate(rows)}


class _Page(HTMLParser):
    """Takes a report apart: the JSON in its scripts, and the texts of each section."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: dict[str, Any] = {}
        self.code: list[str] = []
        self.sections: dict[str, dict[str, Any]] = {}
        self._section = self._begin("top")
        self._text: list[str] = []
        self._script: tuple[str, str] | None = None
        self._term = ""
        self._part = "rows"

    def _begin(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = {"texts": [], "tables": [], "images": [], "facts": {}}
        return self.sections.setdefault(name, content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self._section = self._begin(given.get("id") or "")
        elif tag in ("script", "style"):
            self._script = (given.get("type") or tag, given.get("id") or "")
        elif tag == "table":
            self._section["tables"].append({"caption": "", "head": [], "rows": []})
        elif tag in ("thead", "tbody"):
            self._part = "head" if tag == "thead" else "rows"
        elif tag == "tr":
            self._section["tables"][-1][self._part].append([])
        elif tag == "img":
            drawn = hashlib.sha256((given.get("src") or "").encode()).hexdigest()
            self._section["images"].append([given.get("alt"), drawn])
        elif tag == "div" and given.get("class") == "card":
            self._section["texts"].append(f"card {sorted(given.items())}")
        if tag not in ("br", "code", "a", "span", "img"):
            self._text = []
        elif tag == "br":
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text).split())
        table = self._section["tables"][-1] if self._section["tables"] else None
        if tag in ("script", "style"):
            self._take_script("".join(self._text))
        elif tag in ("td", "th") and table is not None:
            table[self._part][-1].append(text)
        elif tag == "caption" and table is not None:
            table["caption"] = text
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self._section["facts"][self._term] = text
        elif tag in ("h1", "h2", "p", "title", "figcaption", "nav", "legend") and text:
            self._section["texts"].append(text)
        if tag == "section":
            self._section = self.sections["top"]
        if tag not in ("code", "a", "span"):
            self._text = []

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def _take_script(self, text: str) -> None:
        assert self._script is not None
        kind, name = self._script
        if kind == "application/json":
            self.scripts[name] = json.loads(text)
        else:
            self.code.append(f"{kind} {hashlib.sha256(text.encode()).hexdigest()}")


def read_page(text: str) -> dict[str, Any]:
    """Return a report's data (scripts with JSON, columns as rows again) and its words."""
    page = _Page()
    page.feed(text)
    page.close()
    data = {
        name: rows_by_name(unpacked(content)) if name.endswith("-data") else content
        for name, content in page.scripts.items()
    }
    return {"data": data, "words": {**page.sections, "code": page.code}}


def unpacked(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a chart's data, which a page holds by columns.

    Where a column has `at`, each entry is the place of a row's value in `values`, -1 for none.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(content["length"])]
    for name, column in content["columns"].items():
        values = column["values"]
        for row, place in zip(rows, column.get("at", range(len(rows))), strict=True):
            if place >= 0:
                row[name] = values[place]
    return rows


BLOCK = 32 * 1024
"""Bytes of a block of an offline run: a LevelDB log, each of whose records has a header of 7 bytes
(checksum, length, kind: 1 complete, 2 first, 3 middle, 4 last)."""


def read_runs(folder: Path) -> dict[str, Any]:
    """Return the offline W&B runs of a study by id: name, config, history, summary, tables."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs = {}
    for path in sorted(folder.glob("*run-*/run-*.wandb")):
        run: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "metrics": []}
        run_id = path.stem.removeprefix("run-")
        for content in log_records(path.read_bytes()):
            record = Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {
                    "name": record.run.display_name,
                    "group": record.run.run_group,
                    "kind": record.run.job_type,
                    "project": record.run.project,
                    "tags": list(record.run.tags),
                }
                for item in record.run.config.update:
                    if item.key != "_wandb":  # W&B's own: its version and start
                        run["config"][item.key] = json.loads(item.value_json)
            elif kind == "summary":
                for item in record.summary.update:
                    key = item.key or "/".join(item.nested_key)
                    if not key.startswith("_"):  # W&B's own: times
                        run["summary"][key] = json.loads(item.value_json)
            elif kind == "metric":
                name = record.metric.name or record.metric.glob_name
                run["metrics"].append([name, record.metric.step_metric])
            elif kind == "history":
                row = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                own = ("_timestamp", "_runtime")
                run["history"].append({key: row[key] for key in sorted(row) if key not in own})
            elif kind == "exit":
                run["exit_code"] = record.exit.exit_code
        for table in sorted(path.parent.glob("files/media/table/*.json")):
            cells = json.loads(table.read_text())
            run["table"] = [dict(zip(cells["columns"], row, strict=True)) for row in cells["data"]]
        run["summary"] = dict(sorted(run["summary"].items()))  # W&B has no order
        runs[run_id] = run
    return dict(sorted(runs.items()))


def log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log, parts of one put together."""
    at, parts = 7, []
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


# Comparing.


@dataclass
class Comparison:
    """What differs between two folders, and how much was compared."""

    skip: set[str] = field(default_factory=set)
    differences: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    """Group, file, JSON path, before, after."""
    files: Counter[str] = field(default_factory=Counter)
    """Number of compared files by group."""
    values: Counter[str] = field(default_factory=Counter)
    """Number of compared values by group."""
    masked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each entry of `IGNORED` was met."""

    def differ(self, file: str, path: tuple[str, ...], before: object, after: object) -> None:
        """Add a difference."""
        group = group_of(file, path)
        if group not in self.skip:
            at = ".".join(path)
            self.differences.append((group, file, at, shown(before), shown(after)))

    def compare(self, file: str, path: tuple[str, ...], before: Any, after: Any) -> None:
        """Compare two values, part by part; dictionaries in the order of their keys."""
        entry = ignored_path(file, ".".join(path)) if path else None
        if entry is not None:
            self.masked[entry] += 1
            if (before is None) != (after is None):
                self.differ(file, path, before, after)
        elif isinstance(before, dict) and isinstance(after, dict):
            for key in sorted(before.keys() | after.keys()):
                if key not in after:
                    self.differ(file, (*path, key), before[key], MISSING)
                elif key not in before:
                    self.differ(file, (*path, key), MISSING, after[key])
            shared = [[key for key in one if key in other] for one, other in
                      ((before, after), (after, before))]  # fmt: skip
            if shared[0] != shared[1]:
                self.differ(file, (*path, "(order of keys)"), shared[0], shared[1])
            for key in shared[0]:
                self.compare(file, (*path, key), before[key], after[key])
        elif isinstance(before, list) and isinstance(after, list):
            if len(before) != len(after):
                self.differ(file, (*path, "(length)"), len(before), len(after))
            for at, (one, other) in enumerate(zip(before, after, strict=False)):
                self.compare(file, (*path, str(at)), one, other)
        else:
            self.values[group_of(file, path)] += 1
            # repr: 1 and 1.0 are written differently, and so are 0.0 and -0.0
            if type(before) is not type(after) or repr(before) != repr(after):
                self.differ(file, path, before, after)


MISSING = "(missing)"


@cache
def group_of(file: str, path: tuple[str, ...] = ()) -> str:
    """Return the group of a file, or of a part of a page."""
    if file.endswith("report.html") and path[:1] == ("words",):
        return "words"
    return next(group for group, pattern in GROUPS.items() if fnmatchcase(file, pattern))


_RULES = [(file, re.compile("".join(
    r"[^.]*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", path)
)), path) for file, path, _ in IGNORED]  # fmt: skip


@cache
def _rules_of(file: str) -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    return tuple((of, path, rule) for of, rule, path in _RULES if fnmatchcase(file, of))


def ignored_path(file: str, path: str) -> tuple[str, str] | None:
    """Return the entry of `IGNORED` that a value matches, if any."""
    for of, name, rule in _rules_of(file):
        if rule.fullmatch(path):
            return of, name
    return None


def shown(value: object) -> str:
    """Return a value in one line."""
    text = value if value is MISSING else repr(value)
    return text if len(text) <= 160 else f"{text[:75]} ... {text[-75:]}"


def compare(before: Path, after: Path, skip: set[str], most: int) -> int:
    """Print what differs between two folders; 1 if anything does."""
    found = Comparison(skip=skip)
    one, other = read(before), read(after)
    for file in sorted(one.keys() | other.keys()):
        group = group_of(file)
        if group in skip and not (group == "page" and "words" not in skip):
            continue
        if file not in other:
            found.differ(file, (), "(file)", MISSING)
        elif file not in one:
            found.differ(file, (), MISSING, "(file)")
        else:
            found.files[group] += 1
            found.compare(file, (), one[file], other[file])
    changed = [line for folder in (before, after) for line in changed_copies(folder)]
    of_group = Counter(group for group, *_ in found.differences)
    printed: Counter[str] = Counter()
    for group, file, path, was, now in found.differences:
        printed[group] += 1
        if printed[group] <= most:
            print(f"{file}: {path or '(the file)'}\n  before: {was}\n  after:  {now}")
        elif printed[group] == most + 1:
            print(f"... {of_group[group] - most} more differences of {group} (--most)")
    for line in changed:
        print(line)
    for group in (*GROUPS, "words"):
        print(
            f"{group}: {found.files[group]} files, {found.values[group]} values, "
            f"{of_group[group]} differences{' (skipped)' if group in skip else ''}"
        )
    print(f"ignored: {sum(found.masked.values())} values by {len(found.masked)} rules")
    unused = [f"{file} {path}" for file, path, _ in IGNORED if (file, path) not in found.masked]
    if unused:
        print(f"rules that ignored nothing: {'; '.join(unused)}")
    print("different" if found.differences or changed else "equal")
    return 1 if found.differences or changed else 0


def changed_copies(folder: Path) -> Iterator[str]:
    """Yield a line for each file that a run with `--cache` or `--points` added or rewrote."""
    try:
        copied = json.loads((folder / "copied.json").read_text())
    except FileNotFoundError:
        return
    what = copied["what"]
    before = {name: of for name, of in copied["files"].items() if not ignored_file(name)}
    after = watched_files(folder, what)
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"{folder}: {name} was added, though {what} was copied: a lookup missed"
        elif name not in after:
            yield f"{folder}: {name} was removed"
        elif before[name] != after[name]:
            yield f"{folder}: {name} was rewritten, though {what} was copied"
    print(f"{folder}: {len(before)} copied files of {what} watched")


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="run the studies")
    making.add_argument("folder", type=Path, metavar="FOLDER")
    making.add_argument("--repo", type=Path, default=Path(__file__).resolve().parent.parent)
    copies = making.add_mutually_exclusive_group()
    copies.add_argument("--cache", type=Path, metavar="EARLIER")
    copies.add_argument("--points", type=Path, metavar="EARLIER")
    making.add_argument("--only", default="", metavar="NAME,NAME")
    comparing = commands.add_parser("compare", help="print what differs")
    comparing.add_argument("before", type=Path, metavar="BEFORE")
    comparing.add_argument("after", type=Path, metavar="AFTER")
    comparing.add_argument("--skip", default="", metavar="GROUP,GROUP", help=", ".join(GROUPS))
    comparing.add_argument("--most", type=int, default=40, help="printed differences of a group")
    given = parser.parse_args()
    if given.command == "compare":
        skip = set(filter(None, given.skip.split(",")))
        return compare(given.before.resolve(), given.after.resolve(), skip, given.most)
    what = "points" if given.points else "cache"
    only = [name for name in given.only.split(",") if name]
    make(given.folder, given.repo, given.cache or given.points, what, only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
