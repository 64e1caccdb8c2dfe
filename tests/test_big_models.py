"""The commands of docs/big_models.md: they compose, and a plan says what the page says of them."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from layerprune import cli
from layerprune.config.compose import compose
from layerprune.heal.trainer import split_batch
from layerprune.runtime import processes

DOCS = (Path(__file__).parent.parent / "docs" / "big_models.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (.*main\.py .*)$", DOCS, re.MULTILINE)


def arguments(command):
    before, _, after = command.partition("main.py")
    return before, shlex.split(after)


def plan(overrides, outputs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["main.py", *overrides, "dry_run=true", f"runtime.outputs={outputs}"]
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    return capsys.readouterr().out


def test_the_page_has_commands():
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(command, tmp_path, monkeypatch, capsys):
    before, overrides = arguments(command)
    said = plan(overrides, tmp_path, monkeypatch, capsys)
    assert "A100 hours" in said
    assert ("passes over the model's files" in said) is ("runtime.stream=true" in command)
    number = re.search(r"--nproc-per-node (\d+)", before)
    config = compose(*overrides)
    if number and config.heal.recipe != "none":
        # The batch is shared out over the processes, each of which takes a sequence at a time.
        monkeypatch.setattr(processes, "num_processes", lambda: int(number[1]))
        micro, times = split_batch(config.heal)
        assert micro * times * int(number[1]) == config.heal.batch_size


@pytest.mark.parametrize(("mark", "gigabytes"), [("heal=qlora_paper", 40.4), ("heal=seam", 56.1)])
def test_memory_is_what_the_page_says(mark, gigabytes, tmp_path, monkeypatch, capsys):
    command = next(each for each in COMMANDS if mark in each)
    assert f"about {gigabytes:.0f} GB" in DOCS
    assert f"{gigabytes} GB" in plan(arguments(command)[1], tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(("memory", "passes"), [("8GB", 512), ("32GB", 128), ("200GB", 21)])
def test_the_estimate_for_all_depths_of_70_billion(memory, passes, tmp_path, monkeypatch, capsys):
    fractions = ",".join(f"{count / 80:g}" for count in range(80))
    said = plan(
        [
            "model=llama2_70b", "eval=mmlu", "data=c4", "runtime.stream=true",
            f"runtime.memory={memory}", f"prune.fraction=[{fractions}]",
        ],
        tmp_path, monkeypatch, capsys,
    )  # fmt: skip
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| {memory[:-2]} GB |"))
    _, operations, hours, in_docs, read, reading = (
        cell.strip() for cell in row.strip("|").split("|")
    )
    assert int(in_docs) == passes
    assert f"The tasks need {passes} passes over the model's files" in said
    total = float(read.split()[0]) * 1000
    (gigabytes,) = re.findall(r"distances ([\d,]+) GB are read", said.replace("\n", " "))
    assert float(gigabytes.replace(",", "")) == pytest.approx(total, abs=51)
    assert f"{reading} at 2 GB/s" in said.replace("\n", " ")
    assert f"{float(operations) / 1e15:,.0f}"[:3] in said
    assert hours.removesuffix(" h") in said
