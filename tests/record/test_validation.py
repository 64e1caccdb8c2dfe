"""Damaged records are refused by name, with the first field that is wrong."""

import json
import math

import pytest
from studies import Maker

from layerprune.record.point import Point
from layerprune.record.validation import ForeignRecord

pytestmark = pytest.mark.quick

GONE = object()

STEP = {"step": 2, "loss": None, "learning_rate": None, "heldout": None, "seconds": None}


@pytest.fixture
def content(tmp_path):
    point = Maker(tmp_path).point([3, 4], heal="lora", speed=True, write=False)
    return json.loads(json.dumps(point.to_json()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("healing.heldout_after", "three", "healing.heldout_after: Input should be a valid number"),
        ("healing.steps.1.loss", math.nan, "healing.steps.1.loss: Input should be a finite number"),
        ("healing.tokens", GONE, "healing.tokens: Field required"),
        ("healing.trainable_parameters", -1, "healing.trainable_parameters: "),
        ("healing.steps", 5, "healing.steps: "),
        ("healing.steps.5", STEP, "healing: the steps of healing do not rise"),
        ("healing.details", [0.1], "healing.details: "),
        ("healing.details", {"ridge": "0.01"}, "healing.details.ridge: "),
        ("healing.recipe", "full", "healing: healed by full, not by lora"),
        ("healing", "lora", "healing: "),
        ("loss.nats", math.inf, "loss.nats: "),
        ("loss.num_sequences", 1.0, "loss.num_sequences: "),
        ("model.weight_bytes", GONE, "model.weight_bytes: Field required"),
        ("model.num_layers", True, "model.num_layers: "),
        ("model.num_layers", 9, "plan: 8 of 9 layers"),
        ("plan.dropped", [3, 3], "plan: dropped: layers [3, 3] of 8"),
        ("plan.dropped", [4, 3], "plan: dropped: layers [4, 3] of 8"),
        ("plan.dropped", [3, 8], "plan: dropped: layers [3, 8] of 8"),
        ("plan.dropped", [-1], "plan.dropped.0: "),
        ("plan.fraction", None, "plan.fraction: "),
        ("scores.1.correct", "01", "scores.1: correct: 2 answers, not 20 times 0 or 1"),
        ("scores.1.correct", "2" * 20, "scores.1: correct: 20 answers, not 20 times 0 or 1"),
        ("scores.1.accuracy", "f1", "scores.1: accuracy: 'f1' is none of its measures"),
        ("scores.1.measures.acc.value", "0.5", "scores.1.measures.acc.value: "),
        ("scores.1.num_samples", -1, "scores.1.num_samples: "),
        ("costs.seconds.questions", None, "costs.seconds.questions: "),
        ("provenance.arguments", "a=b", "provenance.arguments: "),
        ("provenance.deterministic", 0, "provenance.deterministic: "),
        ("speed.dense.decode.low", 0, "speed.dense.decode.low: "),
        ("speed.pruned.flops_per_new_token", GONE, "speed.pruned.flops_per_new_token: Field"),
        ("identity.heal", GONE, "identity: KeyError('heal')"),
        ("identity.model", GONE, "identity: KeyError('model')"),
        ("identity.eval", 5, "identity: "),
        ("identity.seed", -1, "identity: "),
        ("identity.data.text", math.nan, "identity: "),
        ("schema", 2, "its schema is 2"),
        ("schema", GONE, "it is not a record of layerprune"),
    ],
)
def test_what_is_wrong_is_named(content, path, value, message):
    *parents, name = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner = content
    for part in parents:
        inner = inner[part]
    if value is GONE:
        del inner[name]
    else:
        inner[name] = value
    with pytest.raises(ForeignRecord) as error:
        Point.from_json(content)
    assert str(error.value).startswith(message)


def test_unknown_keys_are_ignored_and_integers_are_numbers(content):
    point = Point.from_json(content)
    content["later"] = {"a": 1}
    content["model"]["later"] = 2
    assert Point.from_json(content) == point
    content["loss"]["stderr"] = 0
    assert Point.from_json(content).loss.stderr == 0.0


def test_a_record_without_healing_and_speed_is_read(content):
    del content["healing"], content["speed"]
    point = Point.from_json(content)
    assert (point.healing, point.speed) == (None, None)
