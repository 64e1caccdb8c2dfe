"""How much runs at once, where, in which order, and how often it stopped, changes no number.

With `runtime.deterministic` not even a bit; without it, less than 1e-5.
"""

import hashlib
import os
from dataclasses import asdict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.run import pipeline
from layerprune.runtime import memory
from layerprune.runtime.atomic_files import read_checksummed

pytestmark = pytest.mark.slow

EXAMPLES = max(1, int(os.environ.get("LAYERPRUNE_GENERATED", "500")) // 100)

FAMILIES = ("llama", "gpt2", "gemma3_text", "mixtral")

FRACTIONS = (0, 0.25, 0.5, 0.75)

CLOSE = 1e-5

TRAINED = (
    "heal.steps=4", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1",
)  # fmt: skip

HEALED = {
    "un-healed": (),
    "lora": ("heal=lora", "heal.rank=2", *TRAINED),
    "full": ("heal=full", *TRAINED),
    "seam": ("heal=seam", "heal.sequences=8", "heal.text_share=0.5", *TRAINED),
    "linear": ("heal=linear", "heal.sequences=16", "heal.sequence_length=32"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp("models") / family
        tiny(family, vocab_size=259, max_position_embeddings=512).save_pretrained(made[family])
        byte_tokenizer().save_pretrained(made[family])
    return made


@pytest.fixture(scope="module")
def points(folders, tiny_tasks):
    """Runs fractions of a tiny model in a folder for outputs."""

    def run(family, outputs, fractions, *overrides):
        config = compose(
            "model=custom", f"model.path={folders[family]}", f"eval.include_path={tiny_tasks}",
            "eval.trust_task_code=true", "eval.tasks=[letters]", "data.sequence_length=32",
            "data.calibration_sequences=8", "data.heldout_sequences=4", "tracker=disabled",
            f"prune.fraction=[{','.join(map(str, fractions))}]", f"runtime.outputs={outputs}",
            *overrides,
        )  # fmt: skip
        return pipeline.run(config)

    return run


def numbers(point):
    """A record without its times, versions and speeds."""
    content = asdict(point)
    steps = [
        {name: value for name, value in step.items() if name in ("step", "loss", "learning_rate")}
        for step in (content["healing"] or {}).get("steps", [])
    ]
    return {name: content[name] for name in ("plan", "scores", "loss")} | {"steps": steps}


def answers(outputs):
    return {
        path.name: read_checksummed(path)["answers"]
        for path in outputs.glob("cache/answers/*/*.json")
    }


def weights(outputs):
    """A hash of each file with what healing changed."""
    return sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in outputs.glob("default/points/*/**/*.safetensors")
    )


@pytest.mark.parametrize("heal", HEALED)
def test_the_same_point_twice_is_equal_to_the_bit_and_says_so(tmp_path, points, heal, monkeypatch):
    free = iter(range(10**6, 10**9, 10**6))
    monkeypatch.setattr(memory, "free", lambda device: next(free))  # never the same

    def made(name):
        (point,) = points(
            "llama", tmp_path / name, [0.25], "runtime.deterministic=true", *HEALED[heal]
        )
        assert point.provenance.deterministic is True
        return numbers(point), answers(tmp_path / name), weights(tmp_path / name)

    assert made("one") == made("other")
    assert not torch.are_deterministic_algorithms_enabled()


def seen_while_running(monkeypatch, read):
    """A list that grows by what `read` returns whenever points are made."""
    seen, run_points = [], pipeline._run_points
    monkeypatch.setattr(
        pipeline, "_run_points", lambda *given: (seen.append(read()), run_points(*given))
    )
    return seen


def test_deterministic_algorithms_are_chosen_where_that_is_asked_and_only_there(
    tmp_path, points, monkeypatch
):
    seen = seen_while_running(monkeypatch, torch.are_deterministic_algorithms_enabled)
    (point,) = points("llama", tmp_path / "free", [0.25])
    points("llama", tmp_path / "same", [0.25], "runtime.deterministic=true")
    assert seen == [False, True]
    assert point.provenance.deterministic is False


def test_float32_products_have_the_precision_of_the_job_and_answers_of_their_own(
    tmp_path, points, monkeypatch
):
    seen = seen_while_running(monkeypatch, torch.get_float32_matmul_precision)
    (usual,) = points("llama", tmp_path, [0.25])
    (coarser,) = points("llama", tmp_path, [0.25], "runtime.float32_matmul_precision=high")
    assert seen == ["highest", "high"]
    assert usual.key != coarser.key
    assert coarser.provenance.float32_matmul_precision == "high"
    folders = {path.name for path in tmp_path.glob("cache/answers/*")}
    (of_coarser,) = (name for name in folders if "-high-" in name)
    assert folders == {of_coarser, of_coarser.replace("-high-", "-")}


@pytest.fixture(scope="module")
def reference(points, tmp_path_factory):
    """The numbers of each fraction, made one by one, with room for all."""
    known = {}

    def of(family):
        if family not in known:
            at = tmp_path_factory.mktemp("reference")
            known[family] = {
                fraction: numbers(
                    points(family, at / str(fraction), [fraction], "runtime.memory=1GiB")[0]
                )
                for fraction in FRACTIONS
            }
        return known[family]

    return of


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    family=st.sampled_from(FAMILIES),
    jobs=st.permutations(FRACTIONS).flatmap(
        lambda order: st.integers(1, len(order)).map(lambda cut: (order[:cut], order[cut:]))
    ),
    kilobytes=st.sampled_from([60, 200, 1_000, 20_000]),
    threads=st.integers(1, 2),
    where=st.sampled_from(["memory", "stream", "spill"]),
)
def test_settings_of_the_run_change_no_number(
    points, reference, tmp_path_factory, family, jobs, kilobytes, threads, where
):
    settings = [f"runtime.memory={kilobytes}kB", f"runtime.threads={threads}"]
    settings += {
        "memory": [],
        "stream": ["runtime.stream=true"],
        "spill": ["runtime.stream=true", "runtime.spill=true"],
    }[where]
    outputs = tmp_path_factory.mktemp("varied")
    for fractions in filter(None, jobs):  # the second one goes on with what the first one knows
        for point in points(family, outputs, fractions, *settings):
            expected = reference(family)[point.plan.fraction]
            assert numbers(point)["plan"] == expected["plan"]
            assert point.loss.nats == pytest.approx(expected["loss"]["nats"], abs=CLOSE)
            scores = [{**score, "measures": None} for score in numbers(point)["scores"]]
            assert scores == [{**score, "measures": None} for score in expected["scores"]]
