"""Training objectives: modules that return a loss, as transformers' Trainer expects.

Letters: B batch, b part of a batch, T time, H hidden size, N predicted tokens, n tokens of a chunk,
V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, nll_loss
from transformers import PreTrainedModel

from layerprune.heal.chunked_loss import chunked_sum
from layerprune.heal.recipes.distill import Distill
from layerprune.heal.recipes.elastic import Elastic, split
from layerprune.heal.recipes.seam import Seam
from layerprune.model.partial_forward import partial_forward
from layerprune.model.stack import Head, decoder_stack
from layerprune.model.surgery import ReversibleCut, limited_to
from layerprune.prune.hidden_states import capture_states
from layerprune.runtime import processes
from layerprune.shared_forward.prefix_tree import LayerPath

TokenLoss = Callable[[Tensor, Tensor, slice], Tensor]
"""Maps log-probabilities [n, V], target ids [n] and their positions to the summed loss."""


class NextToken(nn.Module):
    """The mean cross-entropy of the next token in nats, over every token after the first."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the loss on token ids [B, T]."""
        decoder = decoder_stack(self.model).decoder
        normed_BTH = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        return {"loss": next_token_loss(self.model, normed_BTH, input_ids)}


class ElasticNextToken(nn.Module):
    """The mean cross-entropy of the next token in nats, over cut models that share their weights.

    How it works:
    1. `start_step` names the optimiser step; its draws decide the cuts of each micro-batch.
    2. A micro-batch is split into groups of sequences, one for each of its cuts.
    3. Each group runs through its own layers; the loss is the mean over all tokens.
    """

    def __init__(
        self, model: PreTrainedModel, paths: Sequence[LayerPath], options: Elastic, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self._paths, self._options, self._seed = tuple(paths), options, seed
        self._trained = [part for part in model.parameters() if part.requires_grad]
        self.start_step(0)

    def start_step(self, step: int) -> None:
        """Draw the cuts of the optimiser step after `step` others."""
        draws = self._options.draws(self._seed, step, len(self._paths))
        self._draws = iter(draws[processes.rank() :: processes.num_processes()])

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the loss on token ids [B, T], which go through the step's next cuts."""
        # Layers that no cut of this batch keeps have a gradient of 0: where processes average
        # gradients, every weight must have one.
        loss = torch.stack([part.sum() for part in self._trained]).sum() * 0.0
        cuts = next(self._draws)
        for cut, rows in zip(cuts, split(len(input_ids), len(cuts)), strict=True):
            ids_bT = input_ids[rows]
            if not len(ids_bT):  # the last micro-batch of an epoch may be shorter
                continue
            with limited_to(self.model, self._paths[cut]) as cut_model:
                decoder = decoder_stack(cut_model).decoder
                normed_bTH = decoder(input_ids=ids_bT, use_cache=False).last_hidden_state
                mean = next_token_loss(cut_model, normed_bTH, ids_bT)
            loss = loss + mean * (len(ids_bT) / len(input_ids))
        return {"loss": loss}


class Distillation(nn.Module):
    """A weighted mean of three losses against the dense model, each a mean over tokens.

    `text_weight` times the cross-entropy of the next token; `logits_weight` times the
    Kullback-Leibler divergence of the teacher's next-token distribution from the student's, in
    nats; `seam_weight` times the squared distance of the states at the seams from the teacher's
    (Gromov et al., arXiv 2403.17887, eq. 8), relative to the teacher's squared norm. Without that
    normalisation, the few tokens of enormous norm would dominate.

    The teacher takes no memory: it is the same weights with the dropped layers restored and the
    LoRA adapters disabled.

    `seams` are pairs (slot of the pruned model, layer of the dense model) whose inputs should
    agree.
    """

    def __init__(
        self,
        cut: ReversibleCut,
        adapted: PeftModel,
        seams: Sequence[tuple[int, int]],
        options: Distill,
    ) -> None:
        super().__init__()
        self.model = cut.model
        self._cut = cut
        self._adapted = (adapted,)  # in a tuple: its weights are already registered as the model's
        self._seams = tuple(seams)
        self._text, self._logits = float(options.text_weight), float(options.logits_weight)
        self._seam = float(options.seam_weight) if seams else 0.0

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Return the loss on token ids [B, T]."""
        slots, layers = zip(*self._seams, strict=True) if self._seam else ((), ())
        with torch.no_grad(), self._teacher():
            teacher_BTH, target_BTH = self._run(input_ids, layers)
        normed_BTH, state_BTH = self._run(input_ids, slots)
        loss = normed_BTH.new_zeros(())
        if self._text or self._logits:
            loss = self._token_losses(normed_BTH, teacher_BTH, input_ids)
        if self._seam:
            errors = [
                relative_error(state_BTH[slot], target_BTH[layer]) for slot, layer in self._seams
            ]
            loss = loss + self._seam * torch.stack(errors).mean()
        return {"loss": loss / (self._text + self._logits + self._seam)}

    def _run(self, ids_BT: Tensor, slots: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the states [B, T, H] after the final norm, and the inputs of `slots`."""
        stack = decoder_stack(self.model)
        if not slots:
            return stack.decoder(input_ids=ids_BT, use_cache=False).last_hidden_state, {}
        states: dict[int, Tensor] = {}
        every_slot = count()

        def catch(state_BTH: Tensor) -> None:
            if (slot := next(every_slot)) in slots:
                states[slot] = state_BTH

        with capture_states(stack, catch):
            output = stack.decoder(input_ids=ids_BT, use_cache=False)
        return output.last_hidden_state, states

    def _token_losses(self, normed_BTH: Tensor, teacher_BTH: Tensor, ids_BT: Tensor) -> Tensor:
        """Return the weighted losses of the next token's distribution."""
        head = Head(self.model)
        teacher_NH = teacher_BTH[:, :-1].flatten(0, 1)

        def loss(logprob_nV: Tensor, target_n: Tensor, positions: slice) -> Tensor:
            total = logprob_nV.new_zeros(())
            if self._text:
                total = total + self._text * nll_loss(logprob_nV, target_n, reduction="sum")
            if self._logits:
                with torch.no_grad():
                    teacher_nV = log_softmax(head(teacher_NH[positions]).float(), dim=-1)
                total = total + self._logits * kl_div(
                    logprob_nV, teacher_nV, reduction="sum", log_target=True
                )
            return total

        return next_token_loss(self.model, normed_BTH, ids_BT, loss)

    @contextmanager
    def _teacher(self) -> Iterator[None]:
        """Make the model dense, without adapters and dropout, inside the block."""
        training = self.model.training
        self.model.eval()
        try:
            with self._adapted[0].disable_adapter(), self._cut.dense():
                yield
        finally:
            self.model.train(training)


class SeamObjective(nn.Module):
    """A weighted mean of two losses of the pruned model, run from the seam upwards.

    `seam_weight` times the squared distance of the states after the trained layers from the dense
    model's, relative to the squared norm of those (Gromov et al., arXiv 2403.17887, eq. 8, moved
    up by the trained layers); `text_weight` times the cross-entropy of the next token, which has to
    run all layers above: it is computed on the first `text_share` of a micro-batch's sequences.
    """

    def __init__(self, model: PreTrainedModel, trained: range, options: Seam) -> None:
        super().__init__()
        self.model = model
        self._trained = trained
        self._above = range(trained.stop, len(decoder_stack(model).layers))
        self._text, self._seam = float(options.text_weight), float(options.seam_weight)
        self._share = options.text_share

    def forward(
        self, input_ids: Tensor, entering: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the loss on token ids [B, T], their states at the seam and targets [B, T, H]."""
        with partial_forward(self.model, self._trained) as run:
            after = run(state=entering)
        loss = entering.new_zeros((), dtype=torch.float32)
        if self._text:
            # The last micro-batch of an epoch may be shorter.
            rows = max(1, round(self._share * len(input_ids)))
            normed_BTH = after.normed[:rows]
            if self._above:
                with partial_forward(self.model, self._above) as run:
                    normed_BTH = run(state=after.state[:rows]).normed
            loss = loss + self._text * next_token_loss(self.model, normed_BTH, input_ids[:rows])
        if target is not None:
            loss = loss + self._seam * relative_error(after.state, target)
        return {"loss": loss / (self._text + self._seam)}


def _cross_entropy(logprob_nV: Tensor, target_n: Tensor, _: slice) -> Tensor:
    return nll_loss(logprob_nV, target_n, reduction="sum")


def next_token_loss(
    model: PreTrainedModel, normed_BTH: Tensor, ids_BT: Tensor, loss: TokenLoss = _cross_entropy
) -> Tensor:
    """Return the mean of `loss` over every token after the first, computed chunk by chunk.

    `normed_BTH` has passed the final norm. Log-probabilities are in float32. Cross-entropy by
    default, in nats.
    """
    head = Head(model)
    normed_NH = normed_BTH[:, :-1].flatten(0, 1)
    target_N = ids_BT[:, 1:].flatten()

    def chunk_loss(normed_nH: Tensor, positions: slice) -> Tensor:
        logprob_nV = log_softmax(head(normed_nH).float(), dim=-1)
        return loss(logprob_nV, target_N[positions], positions)

    total = chunked_sum(normed_NH, chunk_loss, head.positions_at_once, trained_in_head(model))
    return total / len(target_N)


def trained_in_head(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the trainable parameters of the vocabulary head."""
    return [part for part in model.get_output_embeddings().parameters() if part.requires_grad]


def relative_error(state_BTH: Tensor, target_BTH: Tensor) -> Tensor:
    """Return the mean over tokens of |state - target|^2 / |target|^2, in float32."""
    target_BTH = target_BTH.float()
    error_BT = (state_BTH.float() - target_BTH).square().sum(dim=-1)
    return (error_BT / target_BTH.square().sum(dim=-1)).mean()
