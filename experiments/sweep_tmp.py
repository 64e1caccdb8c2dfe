"""Every type of causal language model that transformers knows, held against the equalities.

Writes docs/architectures.md and layerprune/model/verified.py (`make architectures`, some minutes).
With names of types, only prints what is found for those.
"""

import json
import logging
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "model")]

import torch
import transformers
from architectures import TYPES, tiny_architecture
from equalities import causal, parts, verdicts

from layerprune.model import surgery
from layerprune.model.refused import NOT_DECODERS, REFUSED

SECONDS = 120


class Everything(frozenset[str]):
    """Of what is yet to be verified, nothing is refused by name."""

    def __contains__(self, _: object) -> bool:
        return True


def found(name: str) -> dict[str, Any]:
    """What the equalities say of a type."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        model = tiny_architecture(name)
        if broken := causal(model):
            return {"error": broken}
        with tempfile.TemporaryDirectory() as folder:
            cuts = verdicts(model, Path(folder))
        return {"type": model.config.model_type, "cuts": cuts, "parts": _parts(model)}
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        return {"error": f"{type(error).__name__} {reason} ({Path(at.filename).name}:{at.lineno})"}
    finally:
        signal.alarm(0)


def _parts(model: Any) -> str:
    try:
        return parts(model)
    except Exception:
        logging.getLogger(__name__).info("Layers alone were refused.", exc_info=True)
        return "layers"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"{SECONDS} seconds")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    surgery.VERIFIED = Everything()
    everything = {}
    for name in sys.argv[1:] or [t for t in TYPES if t not in REFUSED and t not in NOT_DECODERS]:
        everything[name] = found(name)
        print(name, json.dumps(everything[name]), flush=True)


if __name__ == "__main__":
    main()
