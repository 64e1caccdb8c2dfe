"""Full fine-tuning."""

from layerprune.config.registry import recipe
from layerprune.config.schema import TrainingLoad, TrainingOptions
from layerprune.heal.setup import HealContext, TrainingSetup


@recipe("full", reference="the usual fine-tuning, for comparison")
class Full(TrainingOptions):
    """Every weight is trained."""

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of training all layers, the embeddings and the head."""
        return TrainingLoad(
            layers=3 * kept, heads=3, saved_layers=kept, trained_layers=kept, trained_heads=2
        )

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Make every weight of the pruned model trainable on the next token."""
        context.prune().requires_grad_(True)
        return context.train_on_text(trains_all_weights=True)
