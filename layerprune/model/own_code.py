"""Models whose files bring code of their own, of types that transformers does not know."""

from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING

from layerprune.errors import UserError

FILES = ["*.py", "*.tiktoken"]
"""What is fetched beside weights and settings: code, and what tokenizers of such models read."""

CLASS = "AutoModelForCausalLM"


def brings_code(settings: dict[str, Any]) -> bool:
    """Whether a `config.json` names code beside it, for a type that transformers does not know."""
    kind = settings["model_type"]
    # A class that was loaded from files before is registered beside those of transformers.
    known = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind].__module__.startswith("transformers.")
    return not known and CLASS in (settings.get("auto_map") or {})


def check_allowed(path: str, settings: dict[str, Any], trusted: bool) -> None:
    """Raise `UserError` unless the code of a model may run, and is the files' own."""
    if not trusted:
        raise UserError(
            f"model.path={path}: transformers does not know its type {settings['model_type']}, and "
            "its files bring code of their own. model.trust_remote_code=true runs that code here, "
            "with all that you may do yourself: read it first."
        )
    elsewhere = [each for each in settings["auto_map"].values() if "--" in str(each)]
    if elsewhere:
        raise UserError(
            f"model.path={path}: its code is in another repository ({elsewhere[0]}), of which no "
            "model.revision says what it is: give a folder with that code in it."
        )


def runs_own_code(model: nn.Module) -> bool:
    """Whether a model's class came with its files."""
    return type(model).__module__.startswith("transformers_modules.")
