"""What a point derives from its record."""

import pytest

from layerprune.record.point import _leaves, layer_ranges


@pytest.mark.parametrize(
    ("layers", "text"),
    [([], "–"), ([3], "3"), ([3, 4], "3-4"), ([13, 3, 11, 12], "3, 11-13"), ([0, 2, 4], "0, 2, 4")],  # noqa: RUF001
)
def test_layers_are_shown_as_ranges(layers, text):
    assert layer_ranges(layers) == text


def test_settings_are_flat_and_say_what_is_not_set():
    identity = {"eval": {"limit": None, "tasks": ["a", "b"]}, "seed": 0}
    assert dict(_leaves(identity)) == {
        "eval.limit": "not set", "eval.tasks": "a, b", "seed": "0"
    }  # fmt: skip
