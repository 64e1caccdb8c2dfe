"""Distillation: the dense model is the teacher of the pruned one."""

from itertools import pairwise

from layerprune.config.registry import recipe
from layerprune.config.schema import LoraOptions, TrainingLoad, loss_weight
from layerprune.errors import UserError
from layerprune.heal.recipes.lora import add_adapters
from layerprune.heal.setup import Examples, HealContext, TrainingSetup
from layerprune.prune.plan import Plan


@recipe("distill", reference="Gromov et al., arXiv 2403.17887, equation 8")
class Distill(LoraOptions):
    """LoRA adapters, trained to make the pruned model predict what the dense model predicts."""

    own_loss = True
    text_weight: float = loss_weight(0.0)
    """Weight of the next token's cross-entropy in the loss."""
    logits_weight: float = loss_weight(1.0)
    """Weight of the divergence from the dense model's distribution of the next token."""
    seam_weight: float = loss_weight(1.0)
    """Weight of the relative squared distance from the dense model's states."""

    def training_load(self, kept: int, dense: int, first: int) -> TrainingLoad:
        """Return the load of the adapters, and of the dense model's forward pass."""
        return TrainingLoad(layers=2 * kept + dense, heads=3, saved_layers=kept)

    def prepare(self, context: HealContext) -> TrainingSetup:
        """Add adapters to the pruned model, to be trained towards the dense one.

        Raises `UserError` if the head, which teacher and student share, is to be trained, and if
        the seam is all there is to learn from and the plan has none.
        """
        from layerprune.heal.losses import Distillation, trained_in_head
        from layerprune.model.surgery import ReversibleCut

        cut = ReversibleCut(context.model, context.plan.dropped)
        adapted = add_adapters(context.model, self)
        if trained_in_head(context.model):
            raise UserError(
                "heal=distill: teacher and student share the vocabulary head, so it cannot be "
                "trained: remove it from heal.targets."
            )
        pairs = seams(context.plan)
        if not (pairs or self.text_weight or self.logits_weight):
            raise UserError(
                "heal=distill: nothing is dropped, so there is no seam to learn from: set "
                "heal.logits_weight or heal.text_weight."
            )
        objective = Distillation(cut, adapted, pairs, self)
        return TrainingSetup(objective, Examples(context.ids_ST), adapted)


def seams(plan: Plan) -> list[tuple[int, int]]:
    """Return the places where dropped layers were, as (slot, layer) whose inputs should agree.

    One past the end stands for the output of the last layer.
    """
    neighbors = enumerate(pairwise((-1, *plan.kept, plan.num_layers)))
    return [(slot, layer) for slot, (below, layer) in neighbors if layer != below + 1]
