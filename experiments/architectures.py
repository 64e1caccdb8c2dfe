"""Every type of causal language model that transformers knows, held against the equalities.

Writes docs/architectures.md and layerprune/model/verified.py (`make architectures`, some minutes).
With names of types, only prints what is found for those.
"""

# ruff: noqa: E402 - the tiny models are those of the tests
import json
import logging
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # what is said is true of the code beside it

import torch
import transformers
from architectures import TYPES, tiny_architecture
from equalities import CUTS, causal, parts, verdicts

from layerprune.model import segment, surgery
from layerprune.model.refused import NOT_DECODERS, REFUSED
from layerprune.model.settings import NOT_READ

SECONDS = 120
"""Of the processor's time: what is found does not depend on what else a machine does."""


class Everything(frozenset[str]):
    """Of what is yet to be verified, nothing is refused by name."""

    def __contains__(self, _: object) -> bool:
        return True


def found(name: str) -> dict[str, Any]:
    """What the equalities say of a type."""
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        model = tiny_architecture(name)
        if broken := causal(model):
            return {"error": broken}
        with tempfile.TemporaryDirectory() as folder:
            cuts = verdicts(model, Path(folder))
        config = model.config
        encoder = "is_decoder" in vars(config) and config.model_type not in NOT_READ
        return {
            "type": config.model_type, "cuts": cuts, "parts": _parts(model), "encoder": encoder,
        }  # fmt: skip
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        return {"error": f"{type(error).__name__} {reason} ({Path(at.filename).name}:{at.lineno})"}
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
    """Whether some cut holds every equality, and all others are refused."""
    cuts = list(result.get("cuts", {}).values())
    return "equal" in cuts and all(cut == "equal" or _refusal(cut) for cut in cuts)


def _refusal(cut: str) -> bool:
    return cut.startswith(("refused: ", "cannot be saved: "))


def verdict(name: str, result: dict[str, Any]) -> tuple[str, str]:
    """A type's verdict and what there is to say of it."""
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
    """docs/architectures.md."""
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


PREFACE = """# Which models' layers can be dropped

Written by `make architectures`; a test keeps it true. Of the {total} types of causal language model
that transformers {version} knows, {supported} are supported ({encoders} of them encoders, or halves
of encoder-decoder models, as decoders), {refused} are refused by name and {others} are no language
models with one decoder. A model whose code comes with its files is refused, too,
unless `model.trust_remote_code=true` runs it: then each cut is tried on the model itself.

A type is supported where a tiny random model of it, of eight layers, holds the equalities of
[tests/equalities.py](../tests/equalities.py) for the cuts {cuts}, or where the cut is
refused before anything is changed:

- (a) logits equal those of the same model with these layers made the identity;
- (b) greedy generation with the cache equals that without;
- (c) saved, and loaded by plain transformers with no key missing or left over, it gives the same
  logits;
- (d) layers that go in two steps leave the model, and its configuration, as in one step;
- (e) `dropped` leaves the model as it was, to the bit.

*Refused*: the cut is not made. *Cannot be saved*: it is made by `dropped` for a while, and (a) and
(e) hold, but no `config.json` describes it, so that `drop_layers` refuses it. *Runs in one piece*:
layers read more than the state that the layer before puts out, so that cut models share no layers
when they are asked. *At all positions*: the last layer runs at all of a prompt's tokens.

The tiny models are in [tests/architectures.py](../tests/architectures.py): a field that they leave
at zero or empty may still be refused, by name, when a model has it.

| type | verdict | |
|:--|:--|:--|
{rows}
"""

VERIFIED = '''"""What was found for each type of model: written by `make architectures`."""

VERIFIED = frozenset(
    {verified}
)
"""Types whose layers may be dropped."""

WHOLE = frozenset(
    {whole}
)
"""Types whose layers read more than the state that the layer before puts out."""

EVERYWHERE = frozenset(
    {everywhere}
)
"""Types whose layers have parts that read more than one position."""
'''


def code(everything: dict[str, dict[str, Any]]) -> str:
    """layerprune/model/verified.py."""
    good = {
        name: result
        for name, result in everything.items()
        if verdict(name, result)[0] == "supported"
    }

    def those(names: set[str]) -> str:
        return "{\n" + "".join(f'        "{name}",\n' for name in sorted(names)) + "    }"

    # Some types' language models have a type of their own.
    return VERIFIED.format(
        verified=those({*good, *(result["type"] for result in good.values())}),
        **{
            key: those(
                {
                    each
                    for name, result in good.items()
                    if result["parts"] == what
                    for each in (name, result["type"])
                }
            )
            for key, what in (("whole", "layers"), ("everywhere", "positions"))
        },
    )


def main() -> None:
    """Find out, and write what was found."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    surgery.VERIFIED = Everything()
    segment.WHOLE = segment.EVERYWHERE = frozenset()
    everything = {}
    for name in sys.argv[1:] or TYPES:
        known = name in REFUSED or name in NOT_DECODERS
        everything[name] = {} if known and not sys.argv[1:] else found(name)
        print(name, json.dumps(everything[name]), flush=True)
    if not sys.argv[1:]:
        (ROOT / "docs/architectures.md").write_text(table(everything), encoding="utf-8")
        (ROOT / "layerprune/model/verified.py").write_text(code(everything), encoding="utf-8")


if __name__ == "__main__":
    main()
