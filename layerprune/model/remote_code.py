"""Models whose files bring their own code, for types that transformers does not know."""

from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING

from layerprune.errors import UserError

FILES = ["*.py", "*.tiktoken"]
"""Fetched beside weights and configuration: code, and vocabularies of such models' tokenizers."""


def has_remote_code(settings: dict[str, Any]) -> bool:
    """Return True if a `config.json` names code beside it, for a type unknown to transformers."""
    kind = settings["model_type"]
    # Classes loaded from files earlier are registered beside transformers' classes.
    builtin = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind].__module__.startswith("transformers.")
    return not builtin and "AutoModelForCausalLM" in (settings.get("auto_map") or {})


def check_allowed(path: str, settings: dict[str, Any], trusted: bool) -> None:
    """Raise `UserError` unless a model's code may run, and lies in the model's own files."""
    if not trusted:
        raise UserError(
            f"model.path={path}: transformers does not know its type {settings['model_type']}, and "
            "its files bring their own code. Read it, then use model.trust_remote_code=true to "
            "run it with all of your permissions."
        )
    elsewhere = [target for target in settings["auto_map"].values() if "--" in str(target)]
    if elsewhere:
        raise UserError(
            f"model.path={path}: its code is in another repository ({elsewhere[0]}), which "
            "model.revision does not pin: give a folder that contains the code."
        )


def runs_remote_code(model: nn.Module) -> bool:
    """Return True if a model's class came with its files."""
    return type(model).__module__.startswith("transformers_modules.")
