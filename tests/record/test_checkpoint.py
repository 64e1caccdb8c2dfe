"""Where a checkpoint lies, and what is known of one that is there."""

import json

import pytest

from layerprune.record.checkpoint import ABOUT, MODEL, written


def test_the_form_and_the_card_of_a_checkpoint_are_read_back(tmp_path):
    (tmp_path / MODEL).mkdir()
    about = {"export": {"format": "hf", "dtype": None}, "said": "größer ≥ 1"}
    text = json.dumps(about, ensure_ascii=False)
    (tmp_path / MODEL / ABOUT).write_text(text, encoding="utf-8")
    assert written(tmp_path) == (about["export"], about["said"])


@pytest.mark.parametrize("left", [None, "", '{"export": {"form'])
def test_without_its_file_whole_there_is_no_checkpoint(tmp_path, left):
    if left is not None:
        (tmp_path / MODEL).mkdir()
        (tmp_path / MODEL / ABOUT).write_text(left, encoding="utf-8")
    assert written(tmp_path) is None
