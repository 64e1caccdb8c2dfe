"""What tests share. No test needs a network, a GPU or an account."""

import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TQDM_DISABLE"] = "1"
# transformers copies the code that comes with a model, and runs the copy.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="layerprune-tests-")

import pytest
import torch
from loky.process_executor import ProcessPoolExecutor
from tiny import byte_tokenizer, tiny

from layerprune.report.figures import render_pool
from layerprune.runtime.progress import say_once

TESTS = Path(__file__).parent

LONGEST_FILES = [
    TESTS / name
    for name in (
        "sweep/test_same_records.py",
        "docs/test_quickstart.py",
        "model/test_architectures.py",
        "model/test_offload.py",
        "run/test_pipeline.py",
        "run/test_same_numbers.py",
        "experiments/test_check_gpu.py",
        "heal/test_processes.py",
        "docs/test_extending.py",
        "export/test_export.py",
        "export/test_same_model.py",
        "test_wheel.py",
    )
]
"""Files that take longest."""


def pytest_collection_modifyitems(items):
    """Start the longest files, then those with most tests: short ones fill up the workers' ends."""
    assert all(path.is_file() for path in LONGEST_FILES), "a file has another name now"
    tests_in = Counter(item.path for item in items)

    def order(item):
        if item.path in LONGEST_FILES:
            return LONGEST_FILES.index(item.path), 0
        return len(LONGEST_FILES), -tests_in[item.path]

    items.sort(key=order)


def pytest_collection_finish():
    """Each run looks for garbage; the million objects of libraries, which stay, need no look."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models gain nothing from more, and on a busy machine threads wait for each other."""
    torch.set_num_threads(1)


class KeptWorkers(ProcessPoolExecutor):
    """Worker processes that draw the figures of all reports, since they take seconds to start."""

    bundle = None

    def submit(self, function, *arguments):
        if function is not render_pool.javascript_bundle:
            return super().submit(function, *arguments)
        if self.bundle is None:
            self.bundle = super().submit(function, *arguments)
        return self.bundle

    def shutdown(self, wait=True, kill_workers=False):
        """Leave the workers running at the end of a report."""

    def end(self):
        super().shutdown(kill_workers=True)


@pytest.fixture(scope="session", autouse=True)
def kept_workers():
    """Draw reports in the same worker processes; a process of its own has its own workers."""
    executors = []

    def executor(*arguments, **options):
        if not executors or executors[-1]._flags.broken:
            executors.append(KeptWorkers(*arguments, **options))
        return executors[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render_pool, "ProcessPoolExecutor", executor)
        yield
    for each in executors:
        each.end()


@pytest.fixture(autouse=True)
def nothing_said_before():
    """Lines that a process prints once are printed in each test, whatever ran before it."""
    say_once.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def copies_of_code():
    """Gone when all tests are done."""
    yield
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture
def tiny_llama():
    return tiny("llama")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny Llama with a byte tokenizer, saved as any model is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny("llama", vocab_size=259, max_position_embeddings=512).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder_64(tmp_path_factory):
    """bitsandbytes packs blocks of 64 weights: narrower models it cannot run on a CPU."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny("llama", vocab_size=259, hidden_size=64, intermediate_size=128)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory):
    """A folder with one lm-eval task, `letters`: twelve questions with three options each."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "letters.yaml").write_text(
        "task: letters\n"
        "custom_dataset: !function letters.load\n"
        "output_type: multiple_choice\n"
        "test_split: test\n"
        'doc_to_text: "{{question}}"\n'
        'doc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\n"
        "metric_list:\n"
        "  - metric: acc\n"
        "  - metric: acc_norm\n"
    )
    (folder / "letters.py").write_text(
        "from datasets import Dataset\n"
        "def load(**_):\n"
        "    rows = [\n"
        "        {'question': f'After {chr(97 + at)} comes',\n"
        "         'choices': [chr(98 + at), 'the end', 'x' * (at % 3 + 1)], 'answer': at % 3}\n"
        "        for at in range(12)\n"
        "    ]\n"
        "    return {'test': Dataset.from_list(rows)}\n"
    )
    return folder
