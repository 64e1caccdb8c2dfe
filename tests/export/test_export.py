"""An exported checkpoint is complete: plain transformers loads it, and it is the measured model."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny import byte_tokenizer, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from layerprune.config.compose import compose
from layerprune.data.text import read_text
from layerprune.errors import UserError
from layerprune.export.checkpoint import export
from layerprune.heal.healing import PointHealing
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan
from layerprune.run.pipeline import run

pytestmark = pytest.mark.slow

PLAN = Plan("block", 8, (3, 4, 5), 0.1, "a test")
LAYERS = "prune.layers=[3,4,5]"
TRAINING = (
    "heal.steps=3", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.warmup_steps=1",
    "heal.learning_rate=1e-2",
)  # fmt: skip
IDS_BT = torch.arange(3, 43).view(2, 20)
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
    own += TRAINING if recipe not in ("none", "linear") else ()
    own += ("heal.rank=2",) if recipe in {"lora", "qlora", "distill"} else ()
    own += ("heal.sequences=20",) if recipe == "linear" else ()
    own += ("heal.text_share=0.5",) if recipe == "seam" else ()
    return compose(
        "model=custom", f"model.path={folder}", "eval.tasks=[letters]",
        f"eval.include_path={tasks}",
        "eval.trust_task_code=true", f"runtime.outputs={tmp_path / 'outputs'}", "tracker=disabled",
        "data.sequence_length=32", "data.calibration_sequences=8", "data.heldout_sequences=4",
        f"heal={recipe}", *own, "export=hf", *overrides,
    )  # fmt: skip


def exported(config):
    """The one point of a run, and its folder."""
    (point,) = run(config)
    return point, Path(config.runtime.outputs) / config.study / "points" / point.key


def test_the_checkpoint_goes_where_one_says(tiny_folder, tiny_tasks, tmp_path):
    place = tmp_path / "mine" / "small"
    asked = tiny_folder, tiny_tasks, tmp_path, "none"
    config = settings(*asked, LAYERS, f"export.path={place}")
    _, folder = exported(config)
    assert not (folder / "model").exists()
    assert AutoModelForCausalLM.from_pretrained(place).config.num_hidden_layers == 5
    written = (place / "layerprune.json").stat().st_mtime_ns
    exported(config)
    assert (place / "layerprune.json").stat().st_mtime_ns == written
    # Another point's, and a folder with anything else in it, stay as they are.
    other = settings(*asked, "prune.layers=[1]", f"export.path={place}")
    with pytest.raises(UserError, match=r"export\.path=.* holds something else"):
        run(other)
    assert (place / "layerprune.json").stat().st_mtime_ns == written
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").touch()
    with pytest.raises(UserError, match=r"export\.path"):
        run(settings(*asked, LAYERS, f"export.path={tmp_path / 'thesis'}"))
    assert (tmp_path / "thesis" / "text").exists()
    with pytest.raises(UserError, match="holds one checkpoint"):
        run(settings(*asked, "prune.fraction=[0,0.5]", f"export.path={place}"))


def saved(folder, name="llama", **changes):
    """A folder with a tiny model that texts can be asked of."""
    model = tiny(name, vocab_size=259, **changes)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS_BT).logits


def healed_again(config, tmp_path):
    """The logits of the healed model in memory, which a second healing with one seed ends with."""
    healing = PointHealing(
        locate(config.model, tmp_path), PLAN, read_text(config.data), config, tmp_path / "again",
        tmp_path / "checkpoints", lambda model: 0.0,
    )  # fmt: skip
    return logits(healing.run().loaded.model)


def loaded(folder):
    """A checkpoint, as plain transformers loads it: with no weight missing or left over."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def loaded_elsewhere(folder, tmp_path):
    """The logits of a checkpoint in a process that knows nothing of this project."""
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", LOGITS, str(folder), str(out)], check=True, cwd=tmp_path)
    return torch.load(out)


def tensors(folder):
    """Every tensor in a folder's files, by its name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("recipe", ["lora", "full", "tail", "linear", "distill", "seam"])
def test_a_healed_checkpoint_is_the_healed_model(tiny_folder, tiny_tasks, tmp_path, recipe):
    config = settings(tiny_folder, tiny_tasks, tmp_path, recipe, LAYERS)
    point, folder = exported(config)
    found = json.loads((folder / "model" / "layerprune.json").read_text())
    assert list(found["plan"]["kept"]) == [0, 1, 2, 6, 7]
    assert found["scores"] == [asdict(score) for score in point.scores]
    assert found["versions"]["transformers"]
    words = (folder / "model" / "README.md").read_text()
    assert "without 3 of its 8 layers" in words
    assert f"healed with `heal={recipe}`" in words
    assert f"| letters | acc | {point.scores[0].measures['acc'].value:.3f} ±" in words
    found = logits(loaded(folder / "model"))
    torch.testing.assert_close(found, healed_again(config, tmp_path), atol=1e-5, rtol=1e-5)


def test_a_process_without_this_project_loads_it(tiny_folder, tiny_tasks, tmp_path):
    _, folder = exported(settings(tiny_folder, tiny_tasks, tmp_path, "lora", LAYERS))
    found = loaded_elsewhere(folder / "model", tmp_path)
    assert torch.equal(found, logits(loaded(folder / "model")))


def test_an_update_learned_over_four_bits_goes_onto_the_weights_before_them(tiny_tasks, tmp_path):
    model = tmp_path / "model"
    saved(model, hidden_size=64, intermediate_size=128)  # bitsandbytes packs blocks of 64
    config = settings(model, tiny_tasks, tmp_path, "qlora", LAYERS)
    _, folder = exported(config)
    original = load(locate(config.model, tmp_path), None, "cpu").model
    cut = drop_layers(original, PLAN.dropped)
    without = logits(cut)
    expected = logits(PeftModel.from_pretrained(cut, folder / "adapter"))
    found = logits(loaded(folder / "model"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, without, atol=1e-2), "something was learned"
    assert {part.dtype for part in tensors(folder / "model").values()} == {torch.float32}
    assert "quantization_config" not in json.loads((folder / "model/config.json").read_text())


@pytest.mark.parametrize("recipe", ["lora", "full", "tail", "linear"])
def test_what_is_tied_stays_tied(tiny_tasks, tmp_path, recipe):
    saved(tmp_path / "model", "gpt2")
    config = settings(tmp_path / "model", tiny_tasks, tmp_path, recipe, LAYERS)
    _, folder = exported(config)
    assert tensors(folder / "model").keys() & {"lm_head.weight", "transformer.wte.weight"} == {
        "transformer.wte.weight"
    }
    again = loaded(folder / "model")
    assert again.lm_head.weight is again.transformer.wte.weight
    torch.testing.assert_close(logits(again), healed_again(config, tmp_path), atol=1e-5, rtol=1e-5)


def test_finished_points_are_exported_without_being_made_again(tiny_folder, tiny_tasks, tmp_path):
    before = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "export=none"))
    after = run(settings(tiny_folder, tiny_tasks, tmp_path, "none"))
    assert [(point.key, point.scores) for point in before] == [
        (point.key, point.scores) for point in after
    ]
    for point in after:
        folder = tmp_path / "outputs" / "default" / "points" / point.key
        assert {path.name for path in (folder / "model").iterdir()} == {
            "config.json", "generation_config.json", "layerprune.json", "model.safetensors",
            "README.md", "tokenizer.json", "tokenizer_config.json",
        }  # fmt: skip


def test_a_checkpoint_in_another_form_takes_the_place_of_one(tiny_folder, tiny_tasks, tmp_path):
    asked = tiny_folder, tiny_tasks, tmp_path, "lora", LAYERS
    for form, dtype in ((), torch.float32), (["export.dtype=bfloat16"], torch.bfloat16), ((), None):
        _, folder = exported(settings(*asked, *form))
        found = {value.dtype for value in tensors(folder / "model").values()}
        assert found == {dtype or torch.float32}
        written = (folder / "model" / "layerprune.json").stat().st_mtime_ns
        exported(settings(*asked, *form))
        assert (folder / "model" / "layerprune.json").stat().st_mtime_ns == written
    assert len(list(folder.parent.iterdir())) == 1, "it was healed once"


def test_one_export_that_is_refused_stops_no_other(tiny_folder, tiny_tasks, tmp_path, monkeypatch):
    real, refused = export, []

    def refuse(source, point, *rest, **options):
        if point.num_dropped == 2:
            refused.append(point.key)
            raise UserError("it cannot be saved")
        return real(source, point, *rest, **options)

    monkeypatch.setattr("layerprune.run.pipeline.export", refuse)
    config = settings(tiny_folder, tiny_tasks, tmp_path, "none", "prune.fraction=[0,0.25,0.5]")
    with pytest.raises(UserError, match="it cannot be saved"):
        run(config)
    there = {path.parent.name for path in tmp_path.glob("outputs/default/points/*/model")}
    points = {path.name for path in tmp_path.glob("outputs/default/points/*")}
    assert there == points - set(refused)
    assert len(there) == 2


def test_weights_that_were_not_kept_are_named(tiny_folder, tiny_tasks, tmp_path):
    run(settings(tiny_folder, tiny_tasks, tmp_path, "full", LAYERS, "export=none"))
    with pytest.raises(UserError, match="has no weights healed by full"):
        run(settings(tiny_folder, tiny_tasks, tmp_path, "full", LAYERS))
    assert not list(tmp_path.glob("outputs/default/points/*/model"))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [("lora", "bfloat16"), ("linear", "bfloat16"), ("none", "float32"), ("none", None)],
)
def test_the_precision_is_that_of_the_files(tiny_tasks, tmp_path, recipe, said):
    folder = tmp_path / "half"
    tiny("llama", vocab_size=259).to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    # Configurations are copied and edited by hand: many say what their files are not, or nothing.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": said}))
    _, point = exported(settings(folder, tiny_tasks, tmp_path, recipe, LAYERS))
    assert {part.dtype for part in tensors(point / "model").values()} == {torch.bfloat16}
    assert json.loads((point / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_finer_weights_than_the_configuration_says_are_not_rounded(tiny_tasks, tmp_path):
    whole = saved(tmp_path / "model").state_dict()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    _, folder = exported(settings(tmp_path / "model", tiny_tasks, tmp_path, "none", LAYERS))
    name = "model.layers.{}.mlp.up_proj.weight"
    made = tensors(folder / "model")
    assert torch.equal(made[name.format(3)], whole[name.format(6)])


def test_large_weights_lie_in_several_files_with_an_index(
    tiny_folder, tiny_tasks, tmp_path, monkeypatch
):
    config = settings(tiny_folder, tiny_tasks, tmp_path, "none", LAYERS)
    _, single = exported(config)
    monkeypatch.setattr("layerprune.export.checkpoint.SHARD", 50_000)
    _, folder = exported(settings(tiny_folder, tiny_tasks, tmp_path, "none", LAYERS, "study=two"))
    shards = sorted(path.name for path in (folder / "model").glob("*.safetensors"))
    index = json.loads((folder / "model" / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert sorted(set(index["weight_map"].values())) == shards
    assert tensors(folder / "model").keys() == index["weight_map"].keys()
    assert torch.equal(logits(loaded(folder / "model")), logits(loaded(single / "model")))


def test_how_it_generates_and_how_it_is_talked_to_are_kept(tiny_tasks, tmp_path):
    saved(tmp_path / "model")
    # As published: a temperature without sampling is no mistake of whoever exports.
    generation = {"temperature": 0.6, "do_sample": False, "eos_token_id": [2, 7], "top_k": 5}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(generation))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    _, folder = exported(settings(tmp_path / "model", tiny_tasks, tmp_path, "none", LAYERS))
    kept = GenerationConfig.from_pretrained(folder / "model").to_dict()
    assert {name: kept[name] for name in generation} == generation
    before, after = (
        AutoTokenizer.from_pretrained(each) for each in (tmp_path / "model", folder / "model")
    )
    assert after.chat_template == before.chat_template == template
    assert after.get_vocab() == before.get_vocab()
    assert after.special_tokens_map == before.special_tokens_map
    assert after("Some text, åß 7")["input_ids"] == before("Some text, åß 7")["input_ids"]


def test_no_file_tells_where_it_was_made(tiny_folder, tiny_tasks, tmp_path):
    _, folder = exported(settings(tiny_folder, tiny_tasks, tmp_path, "lora", LAYERS))
    for path in (folder / "model").iterdir():
        for place in (tmp_path, tiny_folder.parent):
            assert str(place).encode() not in path.read_bytes(), path.name


def test_an_export_that_fails_leaves_nothing(tiny_folder, tiny_tasks, tmp_path, monkeypatch):
    (point,) = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "prune.fraction=0.25"))

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerprune.export.checkpoint.write_json", stop)
    source = locate(compose("model=custom", f"model.path={tiny_folder}").model, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export(source, point, tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_card_shows_the_curve_that_its_point_is_of(tiny_folder, tiny_tasks, tmp_path):
    points = run(settings(tiny_folder, tiny_tasks, tmp_path, "none", "prune.fraction=[0,0.25,0.5]"))
    for point in points:
        folder = tmp_path / "outputs" / "default" / "points" / point.key
        words = (folder / "model" / "README.md").read_text()
        assert words.startswith("---\nlibrary_name: transformers\n")
        assert "without healing" in words
        for each in points:
            assert f"| {each.num_dropped} | {each.plan.fraction:.3f} |" in words
            assert f"| {each.loss.nats:.3f} |" in words
        assert str(tmp_path) not in words


def test_a_checkpoint_is_written_in_the_precision_that_was_asked_for(
    tiny_folder, tiny_tasks, tmp_path
):
    config = settings(
        tiny_folder, tiny_tasks, tmp_path, "lora", LAYERS,
        "export.dtype=bfloat16", "export.quantization=nf4",
    )  # fmt: skip
    _, folder = exported(config)
    found = tensors(folder / "model")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    model = drop_layers(load(locate(config.model, tmp_path), None, "cpu").model, [3, 4, 5])
    merged = PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload()
    for name, weight in merged.state_dict().items():  # merged first, rounded once
        if name in found:
            assert torch.equal(found[name], weight.to(torch.bfloat16)), name
    words = (folder / "model" / "README.md").read_text()
    assert "the weights here are in bfloat16" in words
    assert 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"' in words
    assert "quantization_config" not in (folder / "model" / "config.json").read_text()
