"""Answers are kept whole, found again by what they follow from, and never twice computed."""

import math
import subprocess
import sys

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny import byte_tokenizer, tiny

from layerprune.evaluate import scorer as scoring
from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.evaluate.heldout_loss import heldout_losses
from layerprune.evaluate.request_groups import Context, ContextGroup, Option
from layerprune.evaluate.scorer import Scorer
from layerprune.model.stack import count_layer_runs, decoder_stack
from layerprune.runtime.atomic_files import read_checksummed, write_checksummed
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import layer_runs

PATHS = [tuple(at for at in range(8) if at not in dropped) for dropped in ([], [3], [3, 4])]
PAIRS = [(f"{'shared ' * 5}{word}", option) for word in ("a", "bc") for option in (" x", " yz")]
GROUP = ContextGroup((1, 2), (Context((3,), (Option(0, (4,)), Option(1, (5, 6)))),))


def requests(pairs=PAIRS):
    return [Instance("loglikelihood", {}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]


@pytest.fixture
def model():
    return tiny("llama", vocab_size=259)


@pytest.fixture
def ran(model):
    """Grows by one with each layer that runs."""
    runs = []
    for layer in decoder_stack(model).layers:
        layer.register_forward_hook(lambda *_: runs.append(1))
    return runs


def scorer(model, folder, paths=PATHS):
    return Scorer(model, byte_tokenizer(), paths=paths, answer_cache=AnswerCache(folder, "tiny"))


def test_what_is_known_is_not_asked_again(model, ran, tmp_path):
    first = scorer(model, tmp_path)
    answers = []
    for first.path in range(3):
        answers.append(first.loglikelihood(requests()))
    assert ran
    ran.clear()
    again = scorer(model, tmp_path, paths=list(reversed(PATHS)))
    for again.path in range(3):
        assert again.loglikelihood(requests()) == answers[2 - again.path]
    assert not ran


def test_only_what_is_new_runs(model, ran, tmp_path):
    scorer(model, tmp_path, PATHS[:2]).loglikelihood(requests())
    ran.clear()
    more = scorer(model, tmp_path, PATHS)
    more.loglikelihood(requests())
    together = len(ran)
    ran.clear()
    alone = scorer(model, tmp_path / "other", PATHS[2:])
    whole = scorer(model, tmp_path / "third", PATHS[:1]).loglikelihood(requests())
    for (value, greedy), (wanted, wanted_greedy) in zip(
        more.loglikelihood(requests()), whole, strict=True
    ):
        assert (value, greedy) == (pytest.approx(wanted, abs=1e-5), wanted_greedy)
    ran.clear()
    alone.loglikelihood(requests())
    assert together == len(ran)


def test_damaged_files_are_made_again(model, ran, tmp_path):
    expected = scorer(model, tmp_path).loglikelihood(requests())
    for path in tmp_path.glob("*/*.json"):
        path.write_text(path.read_text()[:50])
    ran.clear()
    assert scorer(model, tmp_path).loglikelihood(requests()) == expected
    assert ran
    for path in tmp_path.glob("*/*.json"):
        known = read_checksummed(path)
        fewer = {layers: found[:1] for layers, found in known["answers"].items()}
        write_checksummed(path, {**known, "answers": fewer})
    assert scorer(model, tmp_path).loglikelihood(requests()) == expected


def test_a_cut_model_that_gives_no_numbers_is_not_kept_and_harms_no_other(model, tmp_path):
    with torch.no_grad():
        decoder_stack(model).layers[3].mlp.down_proj.weight.fill_(float("nan"))
    first = scorer(model, tmp_path)
    values = []
    for first.path in range(3):
        values.append([value for value, _ in first.loglikelihood(requests())])
    assert all(map(math.isnan, values[0]))
    assert all(map(math.isfinite, values[1] + values[2]))
    known = [read_checksummed(path)["answers"] for path in tmp_path.glob("*/*.json")]
    assert known
    assert all(set(each) == {",".join(map(str, path)) for path in PATHS[1:]} for each in known)


def test_held_out_losses_are_computed_once_for_each_cut_model(model, tmp_path):
    ids = torch.randint(3, 96, (5, 21), generator=torch.Generator().manual_seed(1))
    memory_budget = MemoryBudget.of(model)
    fresh = heldout_losses(model, ids, PATHS, memory_budget)

    def cached(paths, ids=ids):
        with count_layer_runs(model) as runs:
            losses = heldout_losses(model, ids, paths, memory_budget, AnswerCache(tmp_path, "m"))
            return losses, runs()

    assert cached(PATHS[:2]) == (fresh[:2], layer_runs(PATHS[:2]) * len(ids))
    assert cached(PATHS) == (fresh, layer_runs(PATHS[2:]) * len(ids))
    assert cached(PATHS) == (fresh, 0)
    assert cached(PATHS[:1], ids + 1)[1] == len(PATHS[0]) * len(ids)


def test_other_questions_have_other_files(tmp_path):
    stored = AnswerCache(tmp_path, "tiny")
    with stored.locked(GROUP.key) as chunk:
        chunk.add([(0, 1)], [[(-1.5, True), (-2.5, False)]])
    with stored.locked(GROUP.key) as chunk:
        assert chunk.get((0, 1)) == [(-1.5, True), (-2.5, False)]
        assert chunk.get((0,)) is None
    for other in (
        ContextGroup((1, 3), GROUP.contexts),
        ContextGroup((1,), (Context((2, 3), GROUP.contexts[0].options),)),
        ContextGroup((1, 2), (Context((3,), (Option(0, (4, 5)), Option(1, (6,)))),)),
    ):
        with stored.locked(other.key) as chunk:
            assert chunk.get((0, 1)) is None


def test_a_lock_of_a_process_that_died_holds_nobody_up(tmp_path):
    program = f"""
import os, signal
from layerprune.evaluate import scorer as scoring
from layerprune.evaluate.answer_cache import AnswerCache
with AnswerCache(__import__("pathlib").Path({str(tmp_path)!r}), "tiny").locked({GROUP.key!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode < 0
    assert list(tmp_path.glob("*/*.lock"))
    with AnswerCache(tmp_path, "tiny").locked(GROUP.key) as chunk:
        chunk.add([(0,)], [[(-1.0, True)]])


def test_a_second_job_waits_for_the_first_ones_answers(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    inside, seen = Event(), []

    def second():
        inside.wait()
        with AnswerCache(tmp_path, "tiny").locked(GROUP.key) as chunk:
            seen.append(chunk.get((0,)))

    with ThreadPoolExecutor() as pool:
        with AnswerCache(tmp_path, "tiny").locked(GROUP.key) as chunk:
            waiting = pool.submit(second)
            inside.set()
            chunk.add([(0,)], [[(-1.0, True)]])
        waiting.result()
    assert seen == [[(-1.0, True)]]


def test_a_run_that_is_stopped_loses_one_chunk_at_most(model, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK_SIZE", 3)
    pairs = [(f"{at} {'!' * at}", option) for at in range(12) for option in (" x", " yz")]
    scorer(model, tmp_path / "whole").loglikelihood(requests(pairs))
    everything = len(ran)
    ran.clear()

    def stop(*_):
        if len(ran) >= everything * 3 // 4:
            raise KeyboardInterrupt

    hook = decoder_stack(model).layers[6].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        scorer(model, tmp_path / "stopped").loglikelihood(requests(pairs))
    hook.remove()
    kept = list(tmp_path.glob("stopped/*/*.json"))
    assert 0 < len(kept) < 4
    ran.clear()
    again = scorer(model, tmp_path / "stopped")
    found = again.loglikelihood(requests(pairs))
    # Finding out whether the decoder runs token trees is four runs of a layer more, in both.
    assert len(ran) - 4 == (everything - 4) * (4 - len(kept)) // 4
    wanted = scorer(model, tmp_path / "whole").loglikelihood(requests(pairs))
    for (value, greedy), (other, other_greedy) in zip(found, wanted, strict=True):
        assert (value, greedy) == (pytest.approx(other, abs=1e-4), other_greedy)
