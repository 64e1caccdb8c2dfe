"""Fine-tuning of the head and the last layers."""

from layerprune.config.registry import recipe
from layerprune.config.schema import TrainingLoad, TrainingOptions
from layerprune.heal.setup import HealContext, TrainingSetup


@recipe("tail", reference="Lu et al., arXiv 2411.15558")
class Tail(TrainingOptions):
    """The head, the final norm and the last layers are trained.

    A head that is tied to the input embeddings is trained as one with them. The paper trains the
    head and the last three layers.
    """

    last_layers: int = 3
    """Layers that are trained together with the head."""

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of a forward pass, and of training the last layers and the head."""
        last = min(self.last_layers, kept)
        return TrainingLoad(
            layers=kept + 2 * last, heads=3, saved_layers=last, trained_layers=last, trained_heads=1
        )

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Make the end of the pruned model trainable on the next token."""
        from layerprune.model.stack import decoder_stack

        model = context.prune()
        model.requires_grad_(False)
        model.get_output_embeddings().requires_grad_(True)
        stack = decoder_stack(model)
        for layer in stack.layers[-self.last_layers :]:
            layer.requires_grad_(True)
        for name, module in stack.decoder.named_children():
            if "norm" in name or name == "ln_f":
                module.requires_grad_(True)
        return context.train_on_text()
