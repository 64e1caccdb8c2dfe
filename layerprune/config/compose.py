"""From Hydra's composed YAML to the typed `Config`, and from its errors to one line for people."""

import difflib
import hashlib
import json
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layerprune import grid
from layerprune.config import fence
from layerprune.config.schema import Config
from layerprune.config.stumbles import STUMBLES, unreadable
from layerprune.errors import UserError
from layerprune.redact import redacted


def _register() -> None:
    """Make the schema known to Hydra, the sweep over a grid, and the resolvers of `conf/`."""
    fence.put_up()
    grid.register()
    ConfigStore.instance().store(name="base_root", node=Config)
    OmegaConf.register_new_resolver("job_key", _job_key, replace=True)
    OmegaConf.register_new_resolver("remainder", int.__mod__, replace=True)
    OmegaConf.register_new_resolver("unless", _unless, replace=True)


def compose(*overrides: str) -> Config:
    """The typed configuration that `python main.py OVERRIDES` would run, without running it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = hydra_compose("config", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error
        except STUMBLES as error:
            raise UserError(unreadable(error)) from error
        return typed(composed)


def compose_sweep(preset: str) -> list[Config]:
    """The typed configuration of each job that `python main.py experiment=PRESET` would run."""
    chosen = f"experiment={preset}"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        whole = hydra_compose("config", overrides=[chosen], return_hydra_config=True)
        swept = whole.hydra.sweeper.params or {}
        lists = [f"{key}={values}" for key, values in swept.items()]
        parsed = OverridesParser.create().parse_overrides(lists)
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        return [typed(hydra_compose("config", overrides=[chosen, *job])) for job in jobs]


def conf_dir() -> Path:
    """The folder of YAML choices: inside the package in a wheel, beside it in the repository."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"conf/config.yaml is neither in {package} nor beside it: install again.")


def job_key(composed: DictConfig) -> str:
    """Name of a job's folder: twelve hex digits of a hash of everything composed but `hydra`.

    It names logs, not results: those follow what changes them (`record.identity`).
    """
    job = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    text = json.dumps(OmegaConf.to_container(job), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _job_key(*, _root_: DictConfig) -> str:
    return job_key(_root_)


def _unless(value: object, *others: object) -> object:
    """A value for where nothing else is given."""
    return value if all(other is None for other in others) else None


def typed(composed: DictConfig) -> Config:
    """The composed configuration as checked dataclasses.

    Raises `UserError` naming the key for a missing or unknown key, a value out of range, and one
    that others should not read.
    """
    try:
        config = OmegaConf.to_object(composed)
        given = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    except AttributeError as error:  # a key forced in with `++` has no slot in the dataclass
        raise UserError(f"A key added with + is not known: {error}.") from error
    assert isinstance(config, Config)
    if redacted(given) != given:
        keys = [key for key, value in fence.entries("", given) if redacted(value) != value]
        raise UserError(
            f"{' and '.join(keys)} holds a password, a token or a key, which would be written to "
            "files with it. Leave it out: the libraries take theirs from the environment."
        )
    return config


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """One line that says which key is wrong and what is allowed."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher":
            extra = choice.partition("_")[0]
            return f"launcher={choice} is not installed: pip install 'layerprune[{extra}]'."
        if group:
            return f"{group}={choice} is not known: choose one of {', '.join(error.options)}."
    cause = _cause(error)
    if cause is None:
        return " ".join(str(error).split())
    key = cause.full_key or str(cause.key or "")
    if "not in" in str(cause) and cause.object_type is not None:
        return _unknown_key(key, cause)
    if "missing mandatory value" in str(cause).lower():
        return f"{key} has no value: add {key}=VALUE to the command."
    return f"{key}: {str(cause).strip().splitlines()[0].rstrip('.')}."


def _cause(error: BaseException) -> OmegaConfBaseException | None:
    """OmegaConf's own exception in the chain that led to `error`."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, OmegaConfBaseException):
        link = link.__cause__ or link.__context__
    return link


def _unknown_key(key: str, error: OmegaConfBaseException) -> str:
    """The nearest known key first, then all keys that stand at its side."""
    fields = getattr(error.object_type, "__dataclass_fields__", {})
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(last, fields, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key} is not a key of the configuration.{hint} Known here: {', '.join(fields)}."


_register()  # here, since the processes of a launcher import this file, and run no `main`
