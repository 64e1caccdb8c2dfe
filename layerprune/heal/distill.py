"""The model before its cut as the teacher of the model after it.

The teacher costs no memory: it is the same weights, with the dropped layers put back and the
low-rank updates off.

Letters: B batch, T time, H hidden size, N positions, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn

from layerprune.config.schema import HealConfig
from layerprune.errors import UserError
from layerprune.heal.chunked import summed
from layerprune.heal.course import Course, Examples, Subject, known
from layerprune.heal.lora import adapt
from layerprune.heal.objectives import relative_error, trained_in_head, vocabulary
from layerprune.model.stack import Head, decoder_stack
from layerprune.model.surgery import Cut
from layerprune.plan.plan import Plan
from layerprune.similarity.states import catching


def distill(subject: Subject) -> Course:
    """Low-rank updates of the cut model, trained to answer as the whole one does."""
    cut = Cut(subject.model, subject.plan.dropped)
    adapted = adapt(subject.model, subject.config)
    if trained_in_head(subject.model):
        raise UserError(
            "heal=distill: teacher and pupil share the vocabulary head, so it cannot be trained: "
            "leave it out of heal.targets."
        )
    objective = Distillation(cut, adapted, subject.plan, subject.config)
    return Course(objective, Examples(subject.ids_ST), adapted)


class Distillation(nn.Module):
    """A weighed sum of three losses, each a mean over tokens.

    `heal.text_weight` times the cross-entropy of the next token; `heal.logits_weight` times the
    Kullback-Leibler divergence of the teacher's next-token distribution from the pupil's, in nats;
    `heal.seam_weight` times the squared distance of the states at the seam from the teacher's
    (Gromov et al., arXiv 2403.17887, eq. 8), relative to the teacher's squared length, since
    otherwise the few tokens of enormous norm would decide alone. All together divided by the sum of
    the weights.
    """

    def __init__(self, cut: Cut, adapted: PeftModel, plan: Plan, config: HealConfig) -> None:
        super().__init__()
        self.model = cut.model
        self._cut = cut
        self._adapted = (adapted,)  # in a tuple: its weights are the model's, and registered there
        self._text, self._logits, self._seam = (
            float(known(weight))
            for weight in (config.text_weight, config.logits_weight, config.seam_weight)
        )
        self._seams = seams(plan)
        if not self._seams:  # nothing was dropped
            self._seam = 0.0
            if not (self._text or self._logits):
                raise UserError(
                    "heal=distill: nothing is dropped, and there is no seam to learn from: give "
                    "heal.logits_weight or heal.text_weight."
                )

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """The loss on token ids [B, T]."""
        with torch.no_grad(), self._teacher():
            wanted = {layer: None for _, layer in self._seams}
            taught_BTH, taught = self._run(input_ids, wanted if self._seam else {})
        wanted = {slot: None for slot, _ in self._seams}
        hidden_BTH, own = self._run(input_ids, wanted if self._seam else {})
        loss = self._answers(hidden_BTH, taught_BTH, input_ids)
        if self._seam:
            errors = [relative_error(own[slot], taught[layer]) for slot, layer in self._seams]
            loss = loss + self._seam * torch.stack(errors).mean()
        return {"loss": loss / (self._text + self._logits + self._seam)}

    def _run(self, ids_BT: Tensor, wanted: dict[int, None]) -> tuple[Tensor, dict[int, Tensor]]:
        """States [B, T, H] after the final norm, and the inputs of the wanted slots."""
        stack = decoder_stack(self.model)
        seen: dict[int, Tensor] = {}
        slots = iter(range(len(stack.layers) + 1))

        def catch(state_BTH: Tensor) -> None:
            slot = next(slots)
            if slot in wanted:
                seen[slot] = state_BTH

        if not wanted:
            run = stack.decoder(input_ids=ids_BT, use_cache=False)
        else:
            with catching(stack, catch):
                run = stack.decoder(input_ids=ids_BT, use_cache=False)
        return run.last_hidden_state, seen

    def _answers(self, hidden_BTH: Tensor, taught_BTH: Tensor, ids_BT: Tensor) -> Tensor:
        """The weighed losses of the next token's distribution."""
        head = Head(self.model)
        hidden_NH, taught_NH = (part[:, :-1].flatten(0, 1) for part in (hidden_BTH, taught_BTH))
        target_N = ids_BT[:, 1:].flatten()
        log_softmax = nn.functional.log_softmax

        def loss(part_nH: Tensor, at: slice) -> Tensor:
            own_nV = log_softmax(head(part_nH).float(), dim=-1)
            total = own_nV.new_zeros(())
            if self._text:
                total = total + self._text * nn.functional.nll_loss(
                    own_nV, target_N[at], reduction="sum"
                )
            if self._logits:
                with torch.no_grad():
                    taught_nV = log_softmax(head(taught_NH[at]).float(), dim=-1)
                total = total + self._logits * nn.functional.kl_div(
                    own_nV, taught_nV, reduction="sum", log_target=True
                )
            return total

        if not (self._text or self._logits):
            return hidden_NH.new_zeros(())
        return summed(hidden_NH, loss, vocabulary(self.model), []) / len(target_N)

    @contextmanager
    def _teacher(self) -> Iterator[None]:
        """The whole model, without its updates and without dropout."""
        training = self.model.training
        self.model.eval()
        try:
            with self._adapted[0].disable_adapter(), self._cut.whole():
                yield
        finally:
            self.model.train(training)


def seams(plan: Plan) -> list[tuple[int, int]]:
    """Where layers that were apart now meet: (slot, layer) whose inputs should be alike.

    One past the end stands for the output of the last one.
    """
    before = (-1, *plan.kept)
    after = (*plan.kept, plan.num_layers)
    return [
        (slot, layer)
        for slot, (below, layer) in enumerate(zip(before, after, strict=True))
        if layer != below + 1
    ]
