"""Check every type of causal language model that transformers knows against the equalities.

Writes docs/architectures.md and layerprune/model/verified.py (`make architectures`, some minutes).
With names of types as arguments, only prints the results for these.
"""

# ruff: noqa: E402 - the tiny models come from the tests
import json
import logging
import signal
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]  # the code beside it is checked

import torch
import transformers
from architectures import TYPES, tiny_architecture
from equalities import CUTS, causal, parts, verdicts

from layerprune.model import partial_forward, surgery
from layerprune.model.config_surgery import IGNORE_IS_DECODER
from layerprune.model.refused import NOT_DECODERS, REFUSED

SECONDS = 120
"""Limit for a type, in processor time, which does not depend on the machine's other load."""


class Everything(frozenset[str]):
    """Contains every type, so that none is refused by name before it is checked."""

    def __contains__(self, _: object) -> bool:
        return True


def checked(name: str) -> dict[str, Any]:
    """Return the results of the equalities for a type."""
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        model = tiny_architecture(name)
        if broken := causal(model):
            return {"error": broken}
        with tempfile.TemporaryDirectory() as folder:
            cuts = verdicts(model, Path(folder))
        config = model.config
        encoder = "is_decoder" in vars(config) and config.model_type not in IGNORE_IS_DECODER
        return {
            "type": config.model_type, "cuts": cuts, "parts": _parts(model), "encoder": encoder,
        }  # fmt: skip
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        return {
            "error": f"{type(error).__name__} {reason} ({Path(frame.filename).name}:{frame.lineno})"
        }
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _parts(model: Any) -> str:
    try:
        return parts(model)
    except Exception:
        logging.getLogger(__name__).info("Layers alone were refused.", exc_info=True)
        return "layers"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"{SECONDS} seconds of processor time")


def supported(result: dict[str, Any]) -> bool:
    """Return True if some cut holds every equality, and all others are refused."""
    cuts = list(result.get("cuts", {}).values())
    return "equal" in cuts and all(cut == "equal" or _refusal(cut) for cut in cuts)


def _refusal(cut: str) -> bool:
    return cut.startswith(("refused: ", "cannot be saved: "))


def verdict(name: str, result: dict[str, Any]) -> tuple[str, str]:
    """Return a type's verdict, and notes on it."""
    if name in NOT_DECODERS:
        return "not a decoder LM", NOT_DECODERS[name]
    if name in REFUSED:
        return "refused", REFUSED[name]
    if not supported(result):
        return "refused", result.get("error") or "; ".join(sorted(set(result["cuts"].values())))
    notes = ["as a decoder"] if result["encoder"] else []
    refusals = {cut: text for cut, text in result["cuts"].items() if text != "equal"}
    for kind in ("refused", "cannot be saved"):
        cuts = [cut for cut, text in refusals.items() if text.startswith(kind)]
        if cuts:
            reason = refusals[cuts[0]].removeprefix(f"{kind}: ").removeprefix(f"{result['type']}: ")
            notes.append(f"{kind}: {', '.join(cuts)}; the first: {_short(reason)}")
    if result["parts"]:
        notes.append(
            {"layers": "runs in one piece", "positions": "at all positions"}[result["parts"]]
        )
    return "supported", "; ".join(notes)


def _short(reason: str, most: int = 160) -> str:
    reason = " ".join(reason.split()).replace("|", "/").rstrip(".")
    return reason if len(reason) <= most else reason[: most - 4].rsplit(" ", 1)[0] + " ..."


def table(everything: dict[str, dict[str, Any]]) -> str:
    """Return docs/architectures.md."""
    verdicts_of = {name: verdict(name, result) for name, result in everything.items()}
    counts = Counter(verdict for verdict, _ in verdicts_of.values())
    decoders = sum(
        verdict == "supported" and not everything[name]["encoder"]
        for name, (verdict, _) in verdicts_of.items()
    )
    rows = [f"| {name} | {verdict} | {note} |" for name, (verdict, note) in verdicts_of.items()]
    return PREFACE.format(
        version=transformers.__version__,
        total=len(TYPES),
        supported=counts["supported"],
        encoders=counts["supported"] - decoders,
        refused=counts["refused"],
        others=counts["not a decoder LM"],
        cuts=", ".join(map(str, CUTS)),
        rows="\n".join(rows),
    )


PREFACE = """# Check whether your model can be cut

After this page you know whether layers of your model can be removed. Look up the `model_type` of
its `config.json` in the table below, or let a dry run check it:

    python main.py model=NAME dry_run=true

Of the {total} types of causal language model that transformers {version} knows:

- {supported} are supported. {encoders} of these are encoders or halves of encoder-decoder models,
  used as decoders.
- {refused} are refused by name.
- {others} are not language models with a single decoder.

A model that comes with its own code is refused too, unless `model.trust_remote_code=true` runs that
code. Each cut is then checked on the model itself.

## How we check a type

We make a tiny random model of each type, with eight layers, and remove these layers:
{cuts}.
A type is supported if each of these cuts either satisfies all equalities of
[tests/helpers/equalities.py](../tests/helpers/equalities.py), or is refused before anything is
changed. At least one cut must satisfy them:

- (a) The logits equal the logits of the same model with the removed layers replaced by the
  identity.
- (b) Greedy generation is the same with and without the cache.
- (c) Saved, then loaded by plain transformers with no key missing or left over, the model gives the
  same logits.
- (d) Removing layers in two steps gives the same model and configuration as in one step.
- (e) After `dropped`, the model is bit-identical to the original.

The tiny models are in [tests/helpers/architectures.py](../tests/helpers/architectures.py). A model
that uses a field which they leave at zero or empty may still be refused, by name.
`make architectures` writes this page, and a test keeps it current.

## Read the table

- *Refused*: these layers are not removed.
- *Cannot be saved*: `dropped` removes the layers temporarily, and (a) and (e) hold. No
  `config.json` describes the result, and `drop_layers` refuses.
- *Runs in one piece*: layers read more than the output of the previous layer. Pruned models are
  evaluated without sharing layers.
- *At all positions*: the last layer runs at all tokens of a prompt.

| type | verdict | |
|:--|:--|:--|
{rows}
"""

VERIFIED = '''"""Results of the checks of every model type: written by `make architectures`."""

# fmt: off
VERIFIED = frozenset({{
{verified}
}})
"""Types whose layers can be removed."""

NEED_FULL_FORWARD = frozenset({{
{need_full_forward}
}})
"""Types whose layers read more than the output of the previous layer."""

NEED_ALL_POSITIONS = frozenset({{
{need_all_positions}
}})
"""Types whose layers have parts that read more than one position."""
'''


def code(results: dict[str, dict[str, Any]]) -> str:
    """Return layerprune/model/verified.py."""
    supported = {
        name: result for name, result in results.items() if verdict(name, result)[0] == "supported"
    }

    def names_of(parts: str | None) -> str:
        # Some types' language models have another type.
        names = {
            name
            for key, result in supported.items()
            if parts in (None, result["parts"])
            for name in (key, result["type"])
        }
        text = ", ".join(f'"{name}"' for name in sorted(names)) + ","
        indent = "    "
        return textwrap.fill(
            text, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )

    return VERIFIED.format(
        verified=names_of(None),
        need_full_forward=names_of("layers"),
        need_all_positions=names_of("positions"),
    )


def main() -> None:
    """Check all types, or those named, and write or print the results."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    surgery.VERIFIED = Everything()
    partial_forward.NEED_FULL_FORWARD = partial_forward.NEED_ALL_POSITIONS = frozenset()
    everything = {}
    for name in sys.argv[1:] or TYPES:
        refused = name in REFUSED or name in NOT_DECODERS
        everything[name] = {} if refused and not sys.argv[1:] else checked(name)
        print(name, json.dumps(everything[name]), flush=True)
    if not sys.argv[1:]:
        (ROOT / "docs/architectures.md").write_text(table(everything), encoding="utf-8")
        (ROOT / "layerprune/model/verified.py").write_text(code(everything), encoding="utf-8")


if __name__ == "__main__":
    main()
