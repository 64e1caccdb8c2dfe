"""The configuration of a command, without running it."""

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from layerprune.config.compose import conf_dir, register, typed
from layerprune.config.schema import Config


def compose(*overrides: str) -> Config:
    """The typed configuration that `python main.py OVERRIDES` would run."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(hydra_compose("config", overrides=list(overrides)))
