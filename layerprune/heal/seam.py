"""Training the layers just above the cut, and nothing else.

The layers below the cut are not touched, so what they hand over never changes: it is computed
once, and every step begins there. With the whole model's own states as the target it ends a few
layers later, too. Only where the text's own loss is asked for do the layers above and the head run,
and that on a share of the sequences.

Letters: B batch, T time, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerprune.config.schema import HealConfig
from layerprune.errors import UserError
from layerprune.heal.course import Course, Examples, Subject, known
from layerprune.heal.objectives import cross_entropy, relative_error
from layerprune.heal.stored import stored_states
from layerprune.model.segment import segment
from layerprune.model.spread import stay
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.plan.plan import Plan


def seam(subject: Subject) -> Course:
    """The first `heal.seam_layers` layers above the cut, trained in full on stored states.

    Raises `UserError` where the plan is not one block with a layer above it.
    """
    model, plan, config = subject.model, subject.plan, subject.config
    first, above = _block(plan)
    count = min(known(config.seam_layers), plan.num_layers - above)
    wanted = [first, above + count] if config.seam_weight else [first]
    with subject.ahead():
        states = stored_states(model, subject.ids_ST, wanted, subject.folder / "states")
    drop_layers(model, plan.dropped)
    # What stands below the seam is not trained on: it is read where a loss is measured.
    stay(decoder_stack(model).layers[first:])
    model.requires_grad_(False)
    for layer in decoder_stack(model).layers[first : first + count]:
        layer.requires_grad_(True)
    objective = Seam(model, range(first, first + count), config)
    named = dict(zip(("entering", "target"), states, strict=False))
    return Course(objective, Examples(subject.ids_ST, **named))


class Seam(nn.Module):
    """A weighed mean of two losses of the cut model, run from the seam on.

    `heal.seam_weight` times the squared distance of the states after the trained layers from the
    whole model's, relative to the squared length of these (Gromov et al., arXiv 2403.17887, eq. 8,
    moved up by the trained layers); `heal.text_weight` times the cross-entropy of the next token,
    for which all layers above have to run: it is taken on the first `heal.text_share` of the
    sequences of a micro-batch.
    """

    def __init__(self, model: PreTrainedModel, trained: range, config: HealConfig) -> None:
        super().__init__()
        self.model = model
        self._trained = trained
        self._above = range(trained.stop, len(decoder_stack(model).layers))
        self._text, self._share, self._seam = (
            float(known(value))
            for value in (config.text_weight, config.text_share, config.seam_weight)
        )

    def forward(
        self, input_ids: Tensor, entering: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss on token ids [B, T], the states at the seam and those aimed at [B, T, H]."""
        with segment(self.model, self._trained) as run:
            after = run(state=entering)
        loss = entering.new_zeros((), dtype=torch.float32)
        if self._text:
            # The last micro-batch of an epoch may be shorter.
            some = max(1, round(self._share * len(input_ids)))
            normed_BTH = after.normed[:some]
            if self._above:
                with segment(self.model, self._above) as run:
                    normed_BTH = run(state=after.state[:some]).normed
            loss = loss + self._text * cross_entropy(self.model, normed_BTH, input_ids[:some])
        if target is not None:
            loss = loss + self._seam * relative_error(after.state, target)
        return {"loss": loss / (self._text + self._seam)}


def _block(plan: Plan) -> tuple[int, int]:
    """The first layer of a plan's one block, and the first layer above it."""
    dropped_layers: Sequence[int] = plan.dropped
    if not dropped_layers:
        return 0, 0
    first, last = dropped_layers[0], dropped_layers[-1]
    if last - first + 1 != len(dropped_layers):
        raise UserError(
            f"heal=seam needs one block of layers; this plan drops {list(dropped_layers)}."
        )
    if last == plan.num_layers - 1:
        raise UserError("heal=seam trains what stands above the block; here nothing does.")
    return first, last + 1
