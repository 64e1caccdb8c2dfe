"""Where a checkpoint lies, and what is known of one that is there."""

import json

import pytest
import yaml
from studies import Maker

from layerprune.config.schema import Dtype, ExportConfig
from layerprune.export.card import card
from layerprune.export.checkpoint import ABOUT, MODEL, checkpoint_folder, exported, form_facts
from layerprune.record.store import Store


def test_the_form_and_the_card_of_a_checkpoint_are_read_back(tmp_path):
    about = {"key": "a", "export": {"format": "hf", "dtype": None}, "said": "größer ≥ 1"}
    text = json.dumps(about, ensure_ascii=False)
    (tmp_path / ABOUT).write_text(text, encoding="utf-8")
    assert exported(tmp_path) == ("a", about["export"], about["said"])


@pytest.mark.parametrize("left", [None, "", '{"export": {"form'])
def test_without_its_file_whole_there_is_no_checkpoint(tmp_path, left):
    if left is not None:
        (tmp_path / ABOUT).write_text(left, encoding="utf-8")
    assert exported(tmp_path) == (None, None, None)
    assert exported(tmp_path / "nothing") == (None, None, None)


def test_a_checkpoint_lies_in_its_points_folder_or_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    form = ExportConfig(format="hf", dtype=Dtype.bfloat16)
    assert checkpoint_folder(tmp_path, form) == tmp_path / MODEL
    elsewhere = ExportConfig(format="hf", dtype=Dtype.bfloat16, path="~/small")
    assert str(checkpoint_folder(tmp_path, elsewhere)) == "/home/me/small"
    # The same form, so that a checkpoint of before is still the one.
    assert form_facts(elsewhere) == form_facts(form)
    assert form_facts(form) == {"format": "hf", "dtype": "bfloat16", "quantization": None}


def test_a_card_names_the_model_and_the_version_that_reads_it(tmp_path):
    maker = Maker(tmp_path / "study")
    maker.curve(counts=(0, 2))
    points = Store(tmp_path / "study").points()[0]
    (cut,) = (point for point in points if point.num_dropped == 2)
    cut.provenance.versions.update(layerprune="1", transformers="5.1.0")
    for version, words in (("4.57.3", "form of transformers 4.57.3"), ("5.1.0", "transformers>=5")):
        text = card(cut, points, ExportConfig(format="hf"), "", version)
        facts = yaml.safe_load(text.split("---")[1])
        assert facts["model_name"] == f"{cut.model.name} without 2 layers"  # llama.cpp reads it
        assert words in text
