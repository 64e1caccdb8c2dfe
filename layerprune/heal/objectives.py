"""What a model is trained towards: modules that return a loss, as transformers' Trainer asks.

Letters: B batch, T time, H hidden size, N positions, V vocabulary.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from layerprune.heal.chunked import summed
from layerprune.model.stack import Head, decoder_stack, text_config


class NextToken(nn.Module):
    """The mean cross-entropy of the next token, in nats: every token after the first counts."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """The loss on token ids [B, T]."""
        decoder = decoder_stack(self.model).decoder
        hidden_BTH = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        return {"loss": cross_entropy(self.model, hidden_BTH, input_ids)}


def cross_entropy(model: PreTrainedModel, hidden_BTH: Tensor, ids_BT: Tensor) -> Tensor:
    """Mean next-token cross-entropy, in nats, of states that have passed the final norm."""
    head = Head(model)
    hidden_NH = hidden_BTH[:, :-1].flatten(0, 1)
    target_N = ids_BT[:, 1:].flatten()

    def loss(part_nH: Tensor, at: slice) -> Tensor:
        return nn.functional.cross_entropy(head(part_nH).float(), target_N[at], reduction="sum")

    total = summed(hidden_NH, loss, vocabulary(model), trained_in_head(model))
    return total / len(target_N)


def vocabulary(model: PreTrainedModel) -> int:
    """Tokens that the model tells apart."""
    return int(text_config(model).vocab_size)


def trained_in_head(model: PreTrainedModel) -> list[nn.Parameter]:
    """The trainable parameters of the vocabulary head."""
    return [part for part in model.get_output_embeddings().parameters() if part.requires_grad]


def relative_error(state_BTH: Tensor, target_BTH: Tensor) -> Tensor:
    """Mean over tokens of |state - target|^2 / |target|^2, in float32."""
    target_BTH = target_BTH.float()
    error_BT = (state_BTH.float() - target_BTH).square().sum(dim=-1)
    return (error_BT / target_BTH.square().sum(dim=-1)).mean()
