"""Two processes of one run share the questions, and say what one process says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from tiny import byte_tokenizer, tiny

from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.evaluate.scorer import Scorer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
            "--local-addr", "127.0.0.1"]  # fmt: skip
BEGINNINGS = [letter * 100 for letter in "abcdef"]


def requests(tokenizer, beginnings=BEGINNINGS):
    return [
        (("", ""), tokenizer(start + question)["input_ids"], tokenizer(" x")["input_ids"])
        for start in beginnings
        for question in ("one", "two", "three", "four")
    ]


def test_who_helps_leaves_alone_what_another_process_is_at(tmp_path, monkeypatch):
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    asked, paths = requests(tokenizer), [tuple(range(8)), (0, 1, 6, 7)]

    def scorer(**given):
        return Scorer(
            model, tokenizer, paths=paths, answer_cache=AnswerCache(tmp_path, "m"), **given
        )

    alone = Scorer(model, tokenizer, paths=paths)._loglikelihood_tokens(asked)
    scorer()._loglikelihood_tokens(asked)
    files = sorted(tmp_path.glob("*/*.json"))
    kept = [file.read_text() for file in files]
    assert len(files) == len(BEGINNINGS), "a group of questions each"
    for file in files:
        file.unlink()
    with FileLock(files[2].with_name(f".{files[2].name}.lock"), is_singleton=False):
        scorer(helping=True)._loglikelihood_tokens(asked)
        assert sorted(tmp_path.glob("*/*.json")) == [*files[:2], *files[3:]]
    seen = []
    monkeypatch.setattr(Scorer, "_answer_new", record(Scorer._answer_new, seen))
    found = scorer()._loglikelihood_tokens(asked)
    assert seen == [1], "one group was left"
    assert [file.read_text() for file in files] == kept
    for (value, greedy), (wanted, wanted_greedy) in zip(found, alone, strict=True):
        assert (value, greedy) == (pytest.approx(wanted, abs=1e-5), wanted_greedy)


def record(real, seen):
    def noted(self, chunks, *rest):
        seen.append(len(chunks))
        return real(self, chunks, *rest)

    return noted


def test_who_helps_writes_nothing_of_its_own(tmp_path):
    model, tokenizer = tiny("llama", vocab_size=259), byte_tokenizer()
    helper = Scorer(model, tokenizer, answer_cache=AnswerCache(tmp_path, "m"), helping=True)
    assert helper.generate_until(["a", "b"]) == ["", ""]


def launch(launcher, tmp_path, tiny_folder, tasks, study, *overrides):
    done = subprocess.run(
        [
            *launcher, str(ROOT / "main.py"), "model=custom", f"model.path={tiny_folder}",
            "eval.tasks=[letters]", f"eval.include_path={tasks}",
            "eval.trust_task_code=true", "data.sequence_length=32",
            "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
            "prune.fraction=[0,0.25,0.5]", f"runtime.outputs={study}", "runtime.device=cpu",
            *overrides,
        ],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    points = (tmp_path / study / "default" / "points").glob("*/record.json")
    found = [json.loads(path.read_text()) for path in points]
    return sorted(found, key=lambda point: point["plan"]["fraction"])


@pytest.mark.parametrize("stream", ["false", "true"])
def test_two_processes_answer_as_one(stream, tmp_path, tiny_folder, tiny_tasks):
    one = launch([sys.executable], tmp_path, tiny_folder, tiny_tasks, "one")
    two = launch(TORCHRUN, tmp_path, tiny_folder, tiny_tasks, "two", f"runtime.stream={stream}")
    assert len(one) == len(two) == 3
    for single, double in zip(one, two, strict=True):
        assert single["key"] == double["key"]
        assert single["plan"] == double["plan"]
        assert single["scores"] == double["scores"]
        assert double["loss"]["nats"] == pytest.approx(single["loss"]["nats"], abs=1e-5)
