"""Every choice composes; an error is one line that names the key."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from scripts import script

from layerprune.config.compose import compose, conf_dir
from layerprune.config.hydra_errors import explain
from layerprune.config.registry import REGISTRIES
from layerprune.config.schema import DEFAULT_FRACTIONS, Config
from layerprune.errors import UserError
from layerprune.prune.target import targets
from layerprune.record.identity import identity, recorded_config


def choices():
    """group=option for every YAML file but the ones that ask for a value."""
    needs = {"model=custom": "model.path=some/model", "data=files": "data.files=[a.txt]"}
    for path in sorted(conf_dir().glob("*/*.yaml")):
        if path.parent.name == "launcher":  # some want a plugin: below
            continue
        choice = f"{path.parent.name}={path.stem}"
        yield (choice, needs[choice]) if choice in needs else (choice,)


@pytest.mark.parametrize("overrides", list(choices()), ids=" ".join)
def test_every_choice_composes(overrides):
    assert isinstance(compose(*overrides), Config)


def test_no_yaml_names_code_to_run():
    assert not [path for path in conf_dir().rglob("*.yaml") if "_target_" in path.read_text()]


def test_groups_are_those_of_the_schema():
    groups = {path.parent.name for path in conf_dir().glob("*/*.yaml")} - {"experiment"}
    assert groups - {"launcher"} == set(Config.__dataclass_fields__) - {
        "study", "seed", "dry_run", "fit", "figure",
    }  # fmt: skip


def test_a_fraction_is_a_number_or_a_list():
    assert compose("prune.fraction=0.25").prune.fraction == [0.25]
    assert compose("prune.fraction=0").prune.fraction == [0]
    assert compose("prune.fraction=[0,0.5]").prune.fraction == [0, 0.5]
    assert compose().prune.fraction == DEFAULT_FRACTIONS
    assert compose("prune.layers=[3,4]").prune.fraction is None


def test_a_number_of_layers_is_a_point_like_its_fraction():
    by_number, by_fraction = (
        compose(f"prune.{given}") for given in ("layers_dropped=[0,8]", "fraction=[0,0.2667]")
    )
    numbers, fractions = (targets(job.prune, 30)[0] for job in (by_number, by_fraction))
    assert [target.count for target in numbers] == [target.count for target in fractions] == [0, 8]
    digests = ("model", "f", "t", "q")
    assert [identity(by_number, *digests, target) for target in numbers] == [
        identity(by_fraction, *digests, target) for target in fractions
    ]
    assert recorded_config(by_number)["prune"].keys() == {"strategy", "fraction", "layers"}
    with pytest.raises(
        UserError, match="layers_dropped=8 would remove all 8 layers: use at most 7"
    ):
        targets(compose("prune.layers_dropped=8").prune, 8)
    assert compose("experiment=recipes").prune.layers_dropped == [8]
    assert compose("experiment=recipes", "prune.fraction=0.5").prune.fraction == [0.5]


def test_precisions_have_their_short_names():
    for short, long in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        assert compose(f"model.dtype={short}") == compose(f"model.dtype={long}")


def test_alpha_is_the_rank_unless_it_is_given():
    """And a configuration without it is recorded as before there was one."""
    heal = recorded_config(compose("heal=lora"))["heal"]
    assert "alpha" not in heal
    assert recorded_config(compose("heal=lora", "heal.alpha=32"))["heal"] == heal | {"alpha": 32}


def test_a_preset_beats_the_defaults_and_the_command_line_beats_the_preset():
    assert compose("experiment=demo").study == "demo"
    assert len(compose("experiment=demo").prune.fraction) == 30
    assert compose("experiment=demo", "study=mine", "eval.limit=3").eval.limit == 3


def test_the_budget_of_a_preset_makes_way_for_another():
    assert compose("experiment=fit").fit.keep == 0.9
    assert compose("experiment=fit", "fit.memory=1GiB").fit.keep is None
    assert compose("experiment=fit", "fit.speedup=1.2", "fit.keep=0.8").fit.keep == 0.8


def test_the_jobs_of_a_preset_are_those_of_its_sweep():
    compose_sweep = script("notes").compose_sweep
    jobs = compose_sweep("fig5")
    found = [(job.prune.strategy, job.heal.recipe) for job in jobs]
    assert sorted(found) == [
        ("block", "lora"), ("block", "none"), ("deepest", "lora"), ("deepest", "none"),
    ]  # fmt: skip
    assert {job.study for job in jobs} == {"mini"}
    held = [job.model.quantization for job in compose_sweep("quantisation")]
    assert [each and each.value for each in held] == [None, "nf4", "int8"]
    assert [job.study for job in compose_sweep("fig4")] == ["fig4"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["metric=angluar"], ["metric=angluar", "angular"]),
        (["model=llama2"], ["model=llama2", "llama2_7b", "hub id", "folder"]),
        (["tracker=wandb"], ["tracker=wandb", "offline", "online"]),
        (["heal.lr=1"], ["heal.lr ", "Did you mean heal.learning_rate?"]),
        (["heal.lr=1"], ["It has no effect with heal=none: remove it, or use heal=", " lora,"]),
        (["heal.stepps=1"], ["Did you mean heal.steps?", "no effect with heal=none", " lora,"]),
        (["heal=linear", "heal.lr=1"], ["no effect with heal=linear", "or use heal=", " lora,"]),
        (["heal=lora", "heal.stepps=1"], ["Did you mean heal.steps?", "Known here: "]),
        (["heal=lora", "heal.lr=1"], ["heal.lr ", "Did you mean heal.learning_rate?"]),
        (["heal=lora", "heal.lora_alpha=1"], ["Did you mean heal.alpha?"]),
        (
            ["heal=full", "heal.alpha=1"],
            ["heal.alpha", "heal=full", "heal=distill, elastic, lora or qlora"],
        ),
        (["heal=lora", "heal.alpha=0"], ["heal.alpha=0", "greater than 0"]),
        (["output_dir=x"], ["output_dir", "Did you mean runtime.outputs?"]),
        (["eval.batch_size=8"], ["eval.batch_size", "Did you mean runtime.memory?"]),
        (["runtime.tf32=true"], ["Did you mean runtime.float32_matmul_precision?"]),
        (
            ["runtime.float32_matmul_precision=tf32"],
            ["runtime.float32_matmul_precision: ", "[highest, high, medium]"],
        ),
        (["export.path=x"], ["export.path=x", "export=hf"]),
        (["model.dtype=half"], ["model.dtype", "half", "bfloat16, bf16"]),
        (["prune.n=8"], ["prune.n ", "Did you mean prune.layers_dropped?"]),
        (["prune.layers_dropped=0.5"], ["prune.layers_dropped=0.5", "whole"]),
        (["prune.layers_dropped=-1"], ["prune.layers_dropped=-1", "whole"]),
        (["prune.layers_dropped=true"], ["prune.layers_dropped=True", "whole"]),
        (["prune.layers_dropped=[]"], ["prune.layers_dropped", "at least one"]),
        (["prune.layers_dropped=8", "prune.fraction=0.1"], ["fraction and prune.layers_dropped"]),
        (["prune.layers_dropped=8", "prune.layers=[1]"], ["layers_dropped and prune.layers "]),
        (["fit.keep=0.9", "prune.layers_dropped=3"], ["fit decides", "prune.layers_dropped"]),
        (["metric.name=angluar"], ["metric.name=angluar", "angular", "taylor"]),
        (["metric.tokens=first"], ["metric.tokens", "first", "last, all"]),
        (["metric.tokens=null"], ["metric.tokens", "no value"]),
        (["metric=perplexity", "metric.tokens=all"], ["metric.tokens", "metric=perplexity"]),
        (["metric=random", "metric.tokens=last"], ["metric.tokens", "metric=random"]),
        (["prune.fracton=0.1"], ["prune.fracton", "Did you mean prune.fraction?", "layers"]),
        (["tracker.mode=onlin"], ["tracker.mode", "onlin", "offline, online, disabled"]),
        (["eval.limit=many"], ["eval.limit", "many", "Integer"]),
        (["eval.limit=0"], ["eval.limit=0", "at least 1"]),
        (["eval.tasks=[]"], ["eval.tasks", "at least one"]),
        (["prune.fraction=1.2"], ["prune.fraction=1.2"]),
        (["prune.fraction=-0.1"], ["prune.fraction=-0.1"]),
        (["prune.fraction=1"], ["prune.fraction=1"]),
        (["prune.fraction=nan"], ["prune.fraction=nan"]),
        (["prune.fraction=true"], ["prune.fraction=True"]),
        (["prune.fraction=quarter"], ["prune.fraction=quarter"]),
        (["prune.fraction=[]"], ["prune.fraction", "at least one"]),
        (["prune.fraction=0.1", "prune.layers=[1]"], ["prune.fraction", "prune.layers"]),
        (["prune.layers=[1,1]"], ["prune.layers", "distinct"]),
        (["prune.layers=[-1]"], ["prune.layers", "0"]),
        (["model=custom"], ["model.path", "model.path=VALUE"]),
        (["model=custom", "model.path=''"], ["model.path", "empty"]),
        (["data=files"], ["data.files", "empty"]),
        (["data.sequence_length=1"], ["data.sequence_length=1"]),
        (["study=a/b"], ["study='a/b'"]),
        (["study=.."], ["study='..'"]),
        (["study=cache"], ["study='cache'"]),
        (["seed=-1"], ["seed=-1"]),
        (["runtime.threads=0"], ["runtime.threads=0"]),
        (["runtime.device_map=auto", "runtime.device=cpu"], ["runtime.device ", "device_map"]),
        (["runtime.device_map=auto", "heal=lora"], ["heal=lora", "runtime.device_map"]),
        (["runtime.device_map=auto", "metric=taylor"], ["metric=taylor", "runtime.device_map"]),
        (["runtime.stream=true", "eval=speed"], ["eval.speed.rounds", "runtime.stream"]),
        (["runtime.device_map=auto", "runtime.stream=true"], ["runtime.stream", "device_map"]),
        (["runtime.stream=true", "heal=lora"], ["heal=lora", "runtime.stream"]),
        (["runtime.stream=true", "metric=taylor"], ["metric=taylor", "runtime.stream"]),
        (["runtime.spill=true"], ["runtime.spill", "runtime.stream"]),
        (["runtime.shard=true", "heal=full"], ["runtime.shard", "heal=full", "heal=qlora"]),
        (["runtime.shard=true", "heal=lora", "runtime.stream=true"], ["heal=lora", "stream"]),
        (["runtime.device_map=balanced"], ["runtime.device_map", "balanced", "auto"]),
        (["model.quantization=nf5"], ["model.quantization", "nf5", "nf4, int8"]),
        (["model.quantization=int8", "heal=qlora"], ["heal=qlora", "int8", "nf4"]),
        (["model.quantization=nf4", "heal=seam"], ["heal=seam", "themselves", "heal=qlora"]),
        (["model.quantization=nf4", "heal=linear"], ["heal=linear", "model.quantization"]),
        (["model.quantization=nf4", "heal=full"], ["heal=full", "model.quantization"]),
        (["model.quantization=nf4", "heal=tail"], ["heal=tail", "model.quantization"]),
        (["model.quantization=int8", "heal=lora"], ["heal=lora", "heal=qlora"]),
        (["model.quantization=int8", "heal=distill"], ["heal=distill", "heal=qlora"]),
        (["model.quantization=int8", "metric=taylor"], ["metric=taylor", "model.quantization"]),
        (["++unheard=1"], ["unheard"]),
        (["++prune.unheard=1"], ["unheard"]),
        (["+prune.unheard=1"], ["unheard"]),
        (["heal.rank=3"], ["heal.rank", "heal=none"]),
        (["heal=full", "heal.rank=3"], ["heal.rank", "heal=full"]),
        (["heal=lora", "heal.learning_rate=0"], ["heal.learning_rate=0"]),
        (["heal=lora", "heal.steps=-1"], ["heal.steps=-1"]),
        (["heal=lora", "heal.steps=null"], ["heal.steps", "no value"]),
        (["heal.recipe=surgery"], ["heal.recipe=surgery", "qlora"]),
        (["fit.keep=1.2"], ["fit.keep=1.2", "use fit.keep=1 "]),
        (["fit.keep=0"], ["fit.keep=0 ", "fit.keep=0.5"]),
        (["fit.keep=nan"], ["fit.keep=nan"]),
        (["fit.memory=much"], ["fit.memory=much", "6GiB"]),
        (["fit.memory=0"], ["fit.memory=0"]),
        (["fit.speedup=1"], ["fit.speedup=1", "1.2"]),
        (["fit.speedup=nan"], ["fit.speedup=nan"]),
        (["fit.keep=0.9", "prune.fraction=0.3"], ["fit decides", "prune.fraction"]),
        (["fit.keep=0.9", "prune.layers=[3]"], ["fit decides", "prune.layers"]),
        (["fit.keep=0.9", "eval=speed"], ["fit.keep=0.9", "eval.tasks=[NAME]"]),
        (["export.dtype=bfloat16"], ["export.dtype", "export=hf"]),
        (["export.quantization=nf4"], ["export.quantization", "export=hf"]),
        (["no_equals_sign"], ["no_equals_sign"]),
        (["experiment=nothing"], ["experiment=nothing", "demo"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_wrong_is_said_in_one_line(overrides, words):
    with pytest.raises(UserError) as caught:
        compose(*overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_defaults_live_in_the_schema_alone():
    """A YAML file that repeats a default would hide a later change of it."""
    for path in conf_dir().glob("*/*.yaml"):
        if path.parent.name in {"experiment", "launcher"}:
            continue
        given = OmegaConf.to_container(OmegaConf.load(path)) or {}
        extended = given.pop("defaults", [None])[0]
        options = Config.__dataclass_fields__[path.parent.name].type
        for registry in REGISTRIES:
            if path.parent.name == registry.group:
                options = registry[given.pop(registry.key, extended)]
        fields = options.__dataclass_fields__
        repeated = {
            key for key, value in given.items()
            if fields[key].default == value and value not in (None, "???")
        }  # fmt: skip
        assert not repeated, (path, repeated)


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [
        ("here", "basic_launcher.BasicLauncher"),
        ("joblib", "joblib_launcher.JoblibLauncher"),
        ("submitit_local", "submitit_launcher.LocalLauncher"),
        ("submitit_slurm", "submitit_launcher.SlurmLauncher"),
        ("ray", "ray_launcher.RayLauncher"),
    ],
)
def test_launchers_compose_and_change_no_point(launcher, plugin):
    if launcher == "ray":
        pytest.importorskip(
            "hydra_plugins.hydra_ray_launcher", reason="layerprune[ray] is not here"
        )
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra_compose("config", [f"launcher={launcher}"], return_hydra_config=True)
    assert composed.hydra.launcher._target_.endswith(plugin)
    assert compose(f"launcher={launcher}") == compose()


def test_every_launcher_is_in_the_list_above():
    (mark,) = test_launchers_compose_and_change_no_point.pytestmark
    listed = {launcher for launcher, _ in mark.args[1]}
    assert listed == {path.stem for path in conf_dir().glob("launcher/*.yaml")}


def test_a_launcher_without_its_plugin_says_what_brings_it():
    error = MissingConfigException(
        message="", missing_cfg_file="hydra/launcher/submitit_slurm", options=["basic"]
    )
    assert explain(error) == (
        "launcher=submitit_slurm is not installed: pip install 'layerprune[submitit]'."
    )


@pytest.mark.parametrize("given", ["model.shape.num_hidden_layers=4", "model.shape={vocab_size:9}"])
def test_keys_within_one_that_is_null_are_refused_in_a_line(given):
    with pytest.raises(UserError, match=r"within one that is null, like model\.shape"):
        compose("model=phi3_mini", given)
