"""Every type of causal language model that transformers knows, held against the equalities.

Writes docs/architectures.md and layerprune/model/verified.py: `make architectures`. With names of
types, only prints what is found for those.
"""

import logging
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

sys.path[:0] = ["tests", "tests/model"]

import torch
import transformers
from architectures import TYPES, tiny_architecture
from equalities import verdicts

from layerprune.model import surgery

SECONDS = 60


class Everything(frozenset):
    """Of what is yet to be verified, nothing is refused by name."""

    def __contains__(self, _: object) -> bool:
        return True


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    surgery.VERIFIED = Everything()
    for name in sys.argv[1:] or TYPES:
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = verdicts(tiny_architecture(name), Path(folder))
            lines = {f"{cut} {verdict}" for cut, verdict in found.items() if verdict != "equal"}
            print(name, "|", " ;; ".join(sorted(lines)) or "EQUAL", flush=True)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            print(
                name, "| ERROR", type(error).__name__, str(error).replace("\n", " ")[:200],
                f"@{Path(at.filename).name}:{at.lineno}", flush=True,
            )  # fmt: skip
        finally:
            signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"{SECONDS} seconds")


if __name__ == "__main__":
    main()
