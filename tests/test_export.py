"""An exported checkpoint is a model of its own: plain transformers loads it, and it is the one."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from tiny import byte_tokenizer, tiny

from layerprune.config.compose import compose
from layerprune.data.text import read
from layerprune.errors import UserError
from layerprune.export import export
from layerprune.heal.recipes import TRAINED, heal
from layerprune.model.source import locate
from layerprune.pipeline import run
from layerprune.plan.plan import Plan

PLAN = Plan("block", 8, (3, 4, 5), 0.1, "a test")
TRAINING = (
    "heal.steps=3", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.warmup_steps=1",
    "heal.learning_rate=1e-2",
)  # fmt: skip
LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(report.values()), report
assert "layerprune" not in sys.modules
ids = torch.arange(3, 43).view(2, 20)
torch.save(model.eval()(ids).logits, sys.argv[2])
"""


def settings(folder, tasks, tmp_path, recipe, *overrides):
    own = () if recipe == "none" else ("heal.sequence_length=32",)
    own += TRAINING if recipe in TRAINED else ()
    own += ("heal.rank=2",) if recipe in {"lora", "qlora", "distill"} else ()
    own += ("heal.sequences=20",) if recipe == "linear" else ()
    own += ("heal.text_share=0.5",) if recipe == "seam" else ()
    return compose(
        "model=custom", f"model.path={folder}", "eval.tasks=[letters]",
        f"eval.include_path={tasks}", f"runtime.outputs={tmp_path / 'outputs'}", "tracker=disabled",
        "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
        f"heal={recipe}", *own, "export=hf", *overrides,
    )  # fmt: skip


def loaded_elsewhere(folder, tmp_path):
    """The logits of a checkpoint in a process that knows nothing of this project."""
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", LOGITS, str(folder), str(out)], check=True, cwd=tmp_path)
    return torch.load(out)


@pytest.mark.parametrize("recipe", ["lora", "full", "tail", "linear", "distill", "seam"])
def test_a_healed_checkpoint_is_the_healed_model(tiny_folder, tiny_tasks, tmp_path, recipe):
    config = settings(tiny_folder, tiny_tasks, tmp_path, recipe, "prune.layers=[3,4,5]")
    (point,) = run(config)
    folder = tmp_path / "outputs" / "default" / "points" / point.key
    found = json.loads((folder / "model" / "layerprune.json").read_text())
    assert list(found["plan"]["kept"]) == [0, 1, 2, 6, 7]
    assert found["scores"] == point.scores
    words = (folder / "model" / "README.md").read_text()
    assert "without 3 of its 8 layers" in words
    assert f"healed with `heal={recipe}`" in words
    assert f"| letters | acc | {point.scores[0]['measures']['acc']['value']:.3f} ±" in words

    text = read(config.data)
    again = heal(
        locate(config.model, tmp_path), PLAN, text, config, tmp_path / "again",
        tmp_path / "checkpoints", lambda model: 0.0,
    )  # fmt: skip
    with torch.no_grad():
        expected = again.loaded.model(torch.arange(3, 43).view(2, 20)).logits
    torch.testing.assert_close(
        loaded_elsewhere(folder / "model", tmp_path), expected, atol=1e-5, rtol=1e-5
    )


def test_finished_points_are_exported_without_being_made_again(tiny_folder, tiny_tasks, tmp_path):
    before = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "export=none"))
    after = run(settings(tiny_folder, tiny_tasks, tmp_path, "none"))
    assert [(point.key, point.scores) for point in before] == [
        (point.key, point.scores) for point in after
    ]
    for point in after:
        folder = tmp_path / "outputs" / "default" / "points" / point.key
        assert (folder / "model" / "model.safetensors").is_file()
        assert (folder / "model" / "tokenizer.json").is_file()


def test_weights_that_were_not_kept_are_named(tiny_folder, tiny_tasks, tmp_path):
    layers = "prune.layers=[3,4,5]"
    run(settings(tiny_folder, tiny_tasks, tmp_path, "full", layers, "export=none"))
    with pytest.raises(UserError, match="full changed was not kept"):
        run(settings(tiny_folder, tiny_tasks, tmp_path, "full", layers))
    assert not list(tmp_path.glob("outputs/default/points/*/model"))


def test_the_precision_is_that_of_the_files(tiny_tasks, tmp_path):
    model = tmp_path / "half"
    tiny("llama", vocab_size=259).to(torch.bfloat16).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    (point,) = run(settings(model, tiny_tasks, tmp_path, "lora", "prune.fraction=0.25"))
    folder = tmp_path / "outputs" / "default" / "points" / point.key
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_an_export_that_is_killed_leaves_nothing(tiny_folder, tiny_tasks, tmp_path, monkeypatch):
    (point,) = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "prune.fraction=0.25"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerprune.export.write_json", stop)
    source = locate(compose("model=custom", f"model.path={tiny_folder}").model, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export(source, point, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "model").exists()


def test_a_card_shows_the_curve_that_its_point_is_of(tiny_folder, tiny_tasks, tmp_path):
    points = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "prune.fraction=[0,0.25,0.5]"))
    for point in points:
        folder = tmp_path / "outputs" / "default" / "points" / point.key
        words = (folder / "model" / "README.md").read_text()
        assert words.startswith("---\nlibrary_name: transformers\n")
        assert "nothing was trained after that" in words
        for each in points:
            assert f"| {each.num_dropped} | {each.plan['fraction']:.3f} |" in words
            assert f"| {each.loss['nats']:.3f} |" in words
        assert str(tmp_path) not in words
