"""Fine-tuning of the layers just above the cut.

The layers below the cut do not change, so their output is computed once, and every step begins
there. With the dense model's states as the target, it also ends a few layers later. Only the loss
on the text itself has to run the layers above and the head, on a share of the sequences.
"""

from layerprune.config.registry import recipe
from layerprune.config.schema import TrainingLoad, TrainingOptions, loss_weight
from layerprune.errors import UserError
from layerprune.heal.setup import Examples, HealContext, TrainingSetup, dropped_block


@recipe("seam", reference="Gromov et al., arXiv 2403.17887, equation 8")
class Seam(TrainingOptions):
    """The first layers above the cut are trained in full, on states that are computed once."""

    streamable = True
    own_loss = True
    reads_dense = True
    uses_micro_batches = True  # they decide on which sequences it takes the text's loss

    sequences: int = 2048
    """Largest number of different sequences, whose states are stored on disk."""
    seam_layers: int = 3
    """Layers just above the cut that are trained in full."""
    text_weight: float = loss_weight(1.0)
    """Weight of the next token's cross-entropy in the loss."""
    text_share: float = 0.25
    """Share of each micro-batch on which the next token's cross-entropy is computed."""
    seam_weight: float = loss_weight(1.0)
    """Weight of the relative squared distance from the dense model's states."""

    def __post_init__(self) -> None:
        TrainingOptions.__post_init__(self)
        micro = min(self.micro_batch_size, self.batch_size)
        count = self.text_share * micro
        if self.text_share > 1 or count < 1 or abs(count - round(count)) > 1e-6:
            raise UserError(
                f"heal.text_share={self.text_share}: it must select a whole number of sequences "
                f"of heal.micro_batch_size={micro}, at least 1, and be at most 1."
            )

    @property
    def max_sequences(self) -> int:
        """The number of different sequences that the recipe can use."""
        return min(self.steps * self.batch_size, self.sequences)

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of the layers above the cut, with all of them for a share of the text."""
        own = min(self.seam_layers, kept - first)
        text = 2 * self.text_share
        return TrainingLoad(
            layers=3 * own + text * (kept - first - own),
            heads=text,
            saved_layers=own,
            trained_layers=own,
        )

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Store the states at the seam and make the layers above it trainable.

        Raises `UserError` where the plan is not one block with a layer above it.
        """
        from layerprune.heal.losses import SeamObjective
        from layerprune.heal.state_cache import cached_states
        from layerprune.model.offload import materialize
        from layerprune.model.stack import decoder_stack

        model, plan = context.model, context.plan
        block = dropped_block(plan, self.recipe)
        if block.stop == plan.num_layers and plan.dropped:
            raise UserError("heal=seam trains the layers above the block, and there are none.")
        count = min(self.seam_layers, plan.num_layers - block.stop)
        states = [block.start, block.stop + count] if self.seam_weight else [block.start]
        with context.main_process_first():
            stored = cached_states(model, context.ids_ST, states, context.folder / "states")
        context.prune()
        # The layers below the seam are not trained: they are read where a loss is measured.
        materialize(decoder_stack(model).layers[block.start :])
        model.requires_grad_(False)
        trained = range(block.start, block.start + count)
        for slot in trained:
            decoder_stack(model).layers[slot].requires_grad_(True)
        objective = SeamObjective(model, trained, self)
        named = dict(zip(("entering", "target"), stored, strict=False))
        return TrainingSetup(objective, Examples(context.ids_ST, **named))
