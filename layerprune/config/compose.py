"""Composition of jobs: from Hydra's YAML to the typed `Config`."""

import hashlib
import json
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layerprune.config import guard, sweeper
from layerprune.config.hydra_errors import HYDRA_ERRORS, OVERRIDE_ERRORS, explain
from layerprune.config.overrides import expand
from layerprune.config.registry import REGISTRIES
from layerprune.config.schema import Config, fit_to_steps, fit_warmup
from layerprune.errors import UserError
from layerprune.runtime.progress import say_once
from layerprune.runtime.redact import redacted


def _register() -> None:
    """Register the schema, the sweeper and the resolvers of `conf/` with Hydra."""
    _extend_loader()
    sweeper.register()
    root = OmegaConf.structured(Config)
    for registry in REGISTRIES:  # these accept any key until `apply_schemas` knows the class
        root._get_node(registry.group)._set_flag("struct", False)
    ConfigStore.instance().store(name="base_root", node=root)
    OmegaConf.register_new_resolver("job_key", job_key, replace=True)
    OmegaConf.register_new_resolver("remainder", int.__mod__, replace=True)
    OmegaConf.register_new_resolver("product", int.__mul__, replace=True)
    OmegaConf.register_new_resolver("fitting", fit_to_steps, replace=True)
    OmegaConf.register_new_resolver("warmup", fit_warmup, replace=True)
    OmegaConf.register_new_resolver("unless", _unless, replace=True)


def _extend_loader() -> None:
    """Expand the overrides of each composition in this process, and check what it returns."""
    load_configuration = ConfigLoaderImpl.load_configuration

    @wraps(load_configuration)
    def load(
        loader: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        def checked(given: list[str]) -> DictConfig:
            composed = load_configuration(
                loader, config_name, given, run_mode, from_shell, validate_sweep_overrides
            )
            guard.check(composed)
            return composed

        if config_name is None:  # Hydra's own, for --hydra-help
            return checked(overrides)
        overrides = expand(overrides, loader.get_group_options("model"))
        composed = checked(overrides)
        if run_mode is RunMode.RUN:  # in which each job of a sweep is composed, too
            choice = composed.hydra.runtime.choices.get("model")
            path = _model_path(composed)
            preset = loader.repository.load_config(f"model/{choice}")
            known = None if preset is None else _model_path({"model": preset.config})
            if path not in (None, MISSING) and known not in (MISSING, path):
                of_hydra = [override for override in overrides if override.startswith("hydra.")]
                own_path = _model_path(checked([*of_hydra, f"model={choice}"]))
                if own_path not in (MISSING, path):  # a preset may inherit its path
                    say_once(
                        f"model.path={path} is not the model of model={choice}: it runs as "
                        "model=custom, without the name, precision and healing settings of "
                        f"conf/model/{choice}.yaml."
                    )
                    others = [given for given in overrides if not given.startswith("model=")]
                    composed = checked(["model=custom", *others])
            apply_schemas(composed)
        return composed

    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign, assignment]


def _model_path(composed: Mapping[str, Any]) -> Any:
    """Return `model.path`, without resolving `${...}`."""
    node = (composed.get("model") or DictConfig({}))._get_node("path")
    return None if node is None else node._value()


def compose(*overrides: str) -> Config:
    """Return the configuration that `python main.py OVERRIDES` would run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = hydra_compose("config", overrides=list(overrides))
        except (*HYDRA_ERRORS, *OVERRIDE_ERRORS) as error:
            raise UserError(explain(error)) from error
        return typed(composed)


def conf_dir() -> Path:
    """Return the folder of YAML choices: in the package (a wheel) or beside it (a repository)."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"conf/config.yaml is neither in {package} nor beside it: reinstall.")


def job_key(*, _root_: DictConfig) -> str:
    """Return the name of a job's folder of logs: a hash of all that was composed but `hydra`.

    Results have other keys, which leave out whatever doesn't change them (`record.identity`).
    """
    job = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    text = json.dumps(OmegaConf.to_container(job), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unless(value: object, *others: object) -> object:
    """Return a default that applies only if all `others` are null."""
    return value if all(other is None for other in others) else None


def apply_schemas(composed: DictConfig) -> None:
    """Give each group that has a registry the fields and defaults of the class that it names.

    Raises `UserError` for a name that is not registered, and OmegaConf's errors for a key or a type
    that the class does not have.
    """
    for registry in REGISTRIES:
        node = composed._get_node(registry.group)
        if not isinstance(node, DictConfig) or not node or OmegaConf.is_missing(node, registry.key):
            continue
        options = registry[node[registry.key]]
        if OmegaConf.get_type(node) is not options:
            given = OmegaConf.to_container(node, resolve=False)
            checked = OmegaConf.create({registry.group: OmegaConf.structured(options)})
            checked.merge_with({registry.group: given})
            composed[registry.group] = checked[registry.group]


def typed(composed: DictConfig) -> Config:
    """Return the composed configuration as checked dataclasses.

    Raises `UserError` naming the key for a missing or unknown key, a value out of range, and a
    secret.
    """
    try:
        apply_schemas(composed)
        config = OmegaConf.to_object(composed)
        given = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    except AttributeError as error:  # a key forced in with `++` has no slot in the dataclass
        raise UserError(f"{error}: remove the key that was added with +.") from error
    assert isinstance(config, Config)
    if redacted(given) != given:
        keys = [key for key, value in guard.entries("", given) if redacted(value) != value]
        raise UserError(
            f"{' and '.join(keys)} contains a password, a token or a key, which would be written "
            "to files. Remove it: the libraries read theirs from the environment."
        )
    return config


_register()  # at import: the processes of a launcher import this file and run no `main`
