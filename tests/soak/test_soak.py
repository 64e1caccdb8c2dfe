"""A long sweep: the process that makes a thousand points does not grow, and leaves nothing."""

import fcntl
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from loky.process_executor import ProcessPoolExecutor
from tiny import byte_tokenizer, tiny

from layerprune import cli
from layerprune.record.store import Store
from layerprune.report.figures import render_pool
from layerprune.runtime.atomic_files import UNFINISHED, write_json

MEASURED = Path(__file__).parents[2] / "outputs" / "soak.json"
"""What the README quotes."""

POINTS = 1000
FIRST = 100
GROWTH = 0.05

FRACTIONS = (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)

SOME = (
    "-m", "model=custom", "prune.fraction=" + ",".join(map(str, FRACTIONS)),
    "eval.tasks=[letters]", "eval.trust_task_code=true", "data.sequence_length=16",
    "data.calibration_sequences=4", "data.heldout_sequences=2", "tracker=disabled",
    "runtime.threads=1", "runtime.memory=64MB",
)  # fmt: skip


@pytest.fixture
def models(tmp_path):
    """So many that each gives as many points as there are fractions."""
    made = [tmp_path / "models" / str(number) for number in range(POINTS // len(FRACTIONS))]
    for number, folder in enumerate(made):
        rates = {"initializer_range": 0.1 + number / 1000}
        tiny("llama", vocab_size=259, max_position_embeddings=512, **rates).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    return made


def unheld(path):
    """Whether nobody holds a lock on a file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_thousand_points_in_one_process(tmp_path, models, tiny_tasks, monkeypatch):
    # Each report ends its own workers, as outside of tests.
    monkeypatch.setattr(render_pool, "ProcessPoolExecutor", ProcessPoolExecutor)
    process = psutil.Process()
    resident, handles, threads = [], [], []
    write = Store.write

    def watched(store, point):
        resident.append(process.memory_info().rss)
        handles.append(process.num_fds())
        threads.append(process.num_threads())
        return write(store, point)

    monkeypatch.setattr(Store, "write", watched)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv",
        ["main.py", *SOME, f"model.path={','.join(map(str, models))}",
         f"eval.include_path={tiny_tasks}"],
    )  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)  # as it is in a new process
    children = set(process.children(recursive=True))
    cli.main()

    assert len(resident) == POINTS
    assert len(list(tmp_path.glob("outputs/default/points/*/record.json"))) == POINTS
    early, late = (statistics.median(part) for part in (resident[FIRST:200], resident[-100:]))
    write_json(MEASURED, {"points": POINTS, "early_bytes": early, "late_bytes": late})
    print(f"{early / 2**20:.0f} MiB after {FIRST} points, {late / 2**20:.0f} MiB at the end")
    assert late < (1 + GROWTH) * early
    assert max(handles[FIRST:]) <= max(handles[:FIRST])
    assert max(threads[FIRST:]) <= max(threads[:FIRST])
    # Python and loky each keep one process that removes what a killed one left behind.
    left_over = set(process.children(recursive=True)) - children
    assert len(left_over) <= 2
    assert all("resource_tracker" in " ".join(each.cmdline()) for each in left_over)
    opened = [file.path for file in process.open_files()]
    assert not [path for path in opened if path.startswith(str(tmp_path)) and ".log" not in path]
    left = list(tmp_path.rglob("*"))
    assert not [path for path in left if UNFINISHED in path.name]
    assert all(unheld(path) for path in left if path.name.endswith(".lock"))
    assert not list(scratch.iterdir())
