"""What a key is made of, to the letter: another one would lose every record of earlier versions."""

import math
from dataclasses import asdict, replace

import pytest
from configs import config, make_metric

from layerprune.config.compose import compose
from layerprune.config.schema import (
    Calibration,
    DataConfig,
    Dtype,
    EvalConfig,
    MatmulPrecision,
    ModelConfig,
    Quantization,
    SpeedConfig,
    Tokens,
)
from layerprune.heal.recipes.none import NoHealing
from layerprune.prune.strategies.block import Block
from layerprune.prune.target import Target
from layerprune.record.identity import (
    identity,
    order_identity,
    plain,
    point_key,
    profile_identity,
)
from layerprune.record.point import content_hash

pytestmark = pytest.mark.quick

PLAIN = {
    "schema": 1,
    "seed": 0,
    "model": {"name": "tiny", "fingerprint": "abc", "dtype": "float32"},
    "metric": "angular",
    "metric_tokens": "last",
    "prune": {"strategy": "block", "count": 3, "layers": None},
    "heal": {"recipe": "none"},
    "eval": {
        "tasks": ["facts"], "num_fewshot": None, "limit": None, "chat_template": False,
        "files": "asked",
    },
    "data": {
        "text": "text", "sequence_length": 128, "calibration_sequences": 64,
        "heldout_sequences": 16,
    },
}  # fmt: skip

FULL = {
    "schema": 1,
    "seed": 7,
    "model": {
        "name": "tiny", "fingerprint": "abc", "dtype": "bfloat16", "quantization": "nf4",
    },
    "metric": "perplexity",
    "prune": {"strategy": "given", "count": 2, "layers": [1, 4]},
    "heal": {"recipe": "none"},
    "eval": {
        "tasks": ["boolq", "facts"], "num_fewshot": 2, "limit": 9, "chat_template": False,
        "files": "asked", "num_fewshot_of": {"boolq": 1, "facts": 3}, "fewshot_seed": 5,
    },
    "data": {
        "text": "text", "sequence_length": 64, "calibration_sequences": 4, "heldout_sequences": 2,
        "calibration": "questions",
    },
}  # fmt: skip


def full(**changes):
    return config(
        **{
            "seed": 7,
            "model": ModelConfig(path="m", dtype=Dtype.bfloat16, quantization=Quantization.nf4),
            "metric": make_metric("perplexity"),
            "prune": Block(),
            "heal": NoHealing(),
            "eval": EvalConfig(
                tasks=["facts", "boolq"], num_fewshot=2, limit=9,
                num_fewshot_of={"facts": 3, "boolq": 1}, fewshot_seed=5,
            ),
            "data": DataConfig(
                sequence_length=64, calibration_sequences=4, heldout_sequences=2,
                calibration=Calibration.questions,
            ),
        }
        | changes
    )  # fmt: skip


def of(made, target=Target(0.1, 3)):  # noqa: B008
    return identity(made, "tiny", "abc", "text", "asked", target)


def test_a_plain_point():
    assert of(config()) == PLAIN
    assert point_key(PLAIN) == KEYS[0]


def test_a_point_with_everything_said():
    found = of(full(), Target(0.25, 2, (1, 4)))
    assert found == FULL
    assert list(found["eval"]["num_fewshot_of"]) == ["boolq", "facts"]
    assert point_key(found) == KEYS[1]


def test_a_chat_is_part_of_it():
    made = of(config(eval=EvalConfig(tasks=["facts"], chat_template=True)))
    assert made == {**PLAIN, "eval": {**PLAIN["eval"], "chat_template": True}}


def test_speed_is_part_of_it_where_it_is_measured():
    made = of(config(eval=EvalConfig(tasks=["facts"], speed=SpeedConfig(rounds=3))))
    assert made["eval"]["speed"] == {
        "rounds": 3, "batch_size": 1, "prompt_tokens": 256, "new_tokens": 33,
    }  # fmt: skip
    assert {**made, "eval": {k: v for k, v in made["eval"].items() if k != "speed"}} == PLAIN


@pytest.mark.parametrize(
    ("recipe", "left_out"),
    [("full", {"save_every", "micro_batch_size"}), ("seam", {"save_every"})],
)
def test_what_changes_rounding_alone_is_left_out(recipe, left_out):
    composed = compose("model=custom", "model.path=m", f"heal={recipe}").heal
    given = {name for name, value in asdict(composed).items() if value is not None}
    assert given > {"save_every", "micro_batch_size"}
    assert of(config(heal=composed))["heal"] == {
        name: value for name, value in asdict(composed).items() if name in given - left_out
    }


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_coarser_products_are_part_of_it(precision):
    coarser = replace(config().runtime, float32_matmul_precision=MatmulPrecision[precision])
    setting = {"float32_matmul_precision": precision}
    assert of(config(runtime=coarser)) == {**PLAIN, "runtime": setting}
    found = profile_identity(config(runtime=coarser), "abc", "text", "asked")
    assert found == profile_identity(config(), "abc", "text", "asked") | setting


def test_distances_and_orders():
    on_text = profile_identity(config(), "abc", "text", "asked")
    assert on_text == {
        "schema": 1, "model": {"fingerprint": "abc", "dtype": "float32"}, "metric": "angular",
        "metric_tokens": "last", "text": "text", "sequence_length": 128, "sequences": 64,
    }  # fmt: skip
    again = replace(config().runtime, deterministic=True)
    assert profile_identity(config(runtime=again), "abc", "text", "asked") == {
        **on_text, "deterministic": True,
    }  # fmt: skip
    assert profile_identity(full(), "abc", "text", "asked") == {
        "schema": 1, "model": {"fingerprint": "abc", "dtype": "bfloat16", "quantization": "nf4"},
        "metric": "perplexity", "sequence_length": 64, "sequences": 4,
        "questions": {"tasks": ["boolq", "facts"], "files": "asked"},
    }  # fmt: skip
    drawn = config(seed=3, metric=make_metric("random"))
    assert profile_identity(drawn, "abc", "text", "asked")["seed"] == 3
    assert order_identity(config(), "abc", "text", "asked") == {"strategy": "block", **on_text}


def test_names_of_folders_are_readable_and_no_paths():
    def named(label):
        return point_key({**PLAIN, "model": {**PLAIN["model"], "name": label}}).rpartition("-")[0]

    assert named("Llama 3.1/8B") == "Llama-3.1-8B-block-03"
    assert named("../..") == "model-block-03"
    assert named(".-x_Y-.") == "x_Y-block-03"
    assert named("a" * 50) == "a" * 40 + "-block-03"


def test_a_hash_is_of_the_content_and_not_of_its_order():
    assert content_hash({"b": [1, 2], "a": None}) == content_hash({"a": None, "b": [1, 2]})
    assert content_hash({"b": [1, 2], "a": None}) == HASH
    with pytest.raises(ValueError, match="JSON"):
        content_hash({"a": math.nan})


def test_enumerations_become_their_values():
    assert plain({"a": {"b": Tokens.last}, "c": [1], "d": "x"}) == {
        "a": {"b": "last"}, "c": [1], "d": "x",
    }  # fmt: skip


KEYS = ("tiny-block-03-d0e447c8e8e7", "tiny-given-02-c5315d6b9e6c")
HASH = "ee743f2fa257"
