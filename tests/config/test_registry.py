"""Choices that are classes: found by importing a folder, checked while a job is composed."""

import subprocess
import sys

import pytest
from omegaconf import MISSING

from layerprune.config.compose import compose, conf_dir
from layerprune.config.registry import METRICS, REGISTRIES
from layerprune.config.schema import Tokens
from layerprune.errors import UserError
from layerprune.prune.metrics.cka import CKA

COMPOSE = """
import sys
from layerprune.config.compose import compose
from layerprune.config.registry import REGISTRIES
compose("metric=cka")
assert all(registry.choices() for registry in REGISTRIES)
print(*{"torch", "transformers", "numpy", "lm_eval"} & sys.modules.keys())
"""


def test_composing_and_listing_choices_import_no_heavy_library():
    done = subprocess.run([sys.executable, "-c", COMPOSE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.group)
def test_every_class_has_a_file_a_yaml_and_a_source(registry):
    for name, options in registry.choices().items():
        assert options.__module__.rpartition(".")[2] == name
        assert registry.references[name]
        assert (
            f"{registry.key}: {name}" in (conf_dir() / registry.group / f"{name}.yaml").read_text()
        )


def test_a_job_has_the_class_that_it_names_with_its_options():
    assert compose("metric=cka").metric == CKA(tokens=Tokens.all)
    assert compose("metric.name=cka").metric == CKA(tokens=Tokens.last)
    assert compose("metric=cka", "metric.tokens=last").metric == CKA(tokens=Tokens.last)


def test_a_name_is_the_default_of_its_class():
    options = METRICS["perplexity"]()
    assert options.name == "perplexity"
    assert METRICS["angular"]().tokens == MISSING


def with_option(option):
    """The choices that have an option, as a message lists them."""
    classes = {name: cls for registry in REGISTRIES for name, cls in registry.choices().items()}
    *names, last = (name for name, cls in classes.items() if option in cls.__dataclass_fields__)
    return f"{', '.join(names)} or {last}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heal=full", "heal.rank=4"],
         f"heal.rank has no effect with heal=full: remove it, or use heal={with_option('rank')}."),
        (["metric=taylor", "metric.tokens=all"],
         "metric.tokens has no effect with metric=taylor: remove it, or use "
         f"metric={with_option('tokens')}."),
        (["metric.tokenz=all"],
         "metric.tokenz is not a key of the configuration. Did you mean metric.tokens? "
         "Known here: name, tokens."),
        (["+metric.window=3"],
         "metric.window is not a key of the configuration. Known here: name, tokens."),
        (["metric.name=null"],
         "metric.name has no value: add metric.name=VALUE to the command."),
        (
            ["metric=null"],
            "A group cannot be null: choose one of its options, such as heal=none.",
        ),
        (["~metric"], "metric has no value: add metric=VALUE to the command."),
    ],
)  # fmt: skip
def test_messages(overrides, message):
    with pytest.raises(UserError) as caught:
        compose(*overrides)
    assert str(caught.value) == message
