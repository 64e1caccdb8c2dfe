"""Errors of Hydra and OmegaConf, each explained in one line that names the key."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from layerprune.config.registry import REGISTRIES

HYDRA_ERRORS = (HydraException, OmegaConfBaseException)
"""Errors that Hydra and OmegaConf raise on purpose."""

OVERRIDE_ERRORS = (ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""Errors that they raise besides, for overrides that they do not expect."""

CHOICE_HINTS = {"tracker=wandb": "for Weights & Biases, choose offline or online of"}

SYNONYMS = {
    "lr": "heal.learning_rate",
    "lora_alpha": "heal.alpha",
    "lora_rank": "heal.rank",
    "r": "heal.rank",
    "warmup": "heal.warmup_steps",
    "output": "runtime.outputs",
    "output_dir": "runtime.outputs",
    "torch_dtype": "model.dtype",
    "tf32": "runtime.float32_matmul_precision",
    "allow_tf32": "runtime.float32_matmul_precision",
    "shots": "eval.num_fewshot",
    "n": "prune.layers_dropped",
    "num_layers": "prune.layers_dropped",
    "eval.batch_size": "runtime.memory",
}
"""Keys that other programs have, by their last part or in full, and the key to use here."""

NULL_GROUP = "Config group override must be a string or a list"
NO_VALUE = ("issing mandatory value", "is not Optional", "value 'None'")


def explain(error: Exception) -> str:
    """Return one line that says which key is wrong and which values are allowed."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher":
            extra = choice.partition("_")[0]
            return f"launcher={choice} is not installed: pip install 'layerprune[{extra}]'."
        if group:
            hint = CHOICE_HINTS.get(f"{group}={choice}", "choose one of")
            also = ", or give a hub id or a folder" if group == "model" else ""
            return f"{group}={choice} is not known: {hint} {', '.join(error.options)}{also}."
    if not isinstance(error, HYDRA_ERRORS):
        if NULL_GROUP in text:
            return "A group cannot be null: choose one of its options, such as heal=none."
        if "NoneType" in text:
            return (
                "An override cannot set keys within one that is null, like model.shape of most "
                "models: set them in a YAML file, such as one of conf/model."
            )
        return f"An override cannot be used: {text}"
    cause = _cause(error)
    if cause is None:
        return text
    key = cause.full_key or str(cause.key or "")
    if "not in" in str(cause) and cause.object_type is not None:
        return _unknown_key(key, cause.object_type)
    if any(words in str(cause) for words in NO_VALUE):
        return f"{key} has no value: add {key}=VALUE to the command."
    return f"{key}: {str(cause).strip().splitlines()[0].rstrip('.')}."


def _cause(error: BaseException) -> OmegaConfBaseException | None:
    """Return OmegaConf's own exception in the chain that led to `error`."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, OmegaConfBaseException):
        link = link.__cause__ or link.__context__
    return link


def _unknown_key(key: str, options: type) -> str:
    """Say which choices have the key, or which keys stand beside it, the most similar one first."""
    group, _, option = key.rpartition(".")
    choices = next((each.choices() for each in REGISTRIES if each.group == group), {})
    chosen = next((name for name, cls in choices.items() if cls is options), None)
    if chosen and (others := _choices_with(option, choices)):
        return f"{key} {_no_effect(group, chosen, others)}"
    keys = _keys(options)
    unchosen = {name for cls in choices.values() for name in _keys(cls)} - set(keys)
    similar = [
        name
        for names in (keys, sorted(unchosen))
        for name in difflib.get_close_matches(option, names, n=1)
    ]
    synonym = SYNONYMS.get(key) or SYNONYMS.get(option)
    instead = synonym or (f"{group}.{similar[0]}".lstrip(".") if similar else None)
    hint = f" Did you mean {instead}?" if instead else ""
    unknown = f"{key} is not a key of the configuration.{hint}"
    meant = (instead or "").removeprefix(f"{group}.")
    if chosen and meant in unchosen:
        return f"{unknown} It {_no_effect(group, chosen, _choices_with(meant, choices))}"
    return f"{unknown} Known here: {', '.join(keys)}."


def _choices_with(option: str, choices: Mapping[str, type]) -> list[str]:
    return [name for name, cls in choices.items() if option in _keys(cls)]


def _no_effect(group: str, chosen: str, others: Sequence[str]) -> str:
    either = f"{', '.join(others[:-1])}{' or ' if others[1:] else ''}{others[-1]}"
    return f"has no effect with {group}={chosen}: remove it, or use {group}={either}."


def _keys(options: type) -> list[str]:
    return [field.name for field in fields(options)] if is_dataclass(options) else []
