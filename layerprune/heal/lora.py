"""Low-rank updates, on weights of any precision."""

from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel

from layerprune.config.schema import HealConfig
from layerprune.errors import UserError
from layerprune.heal.course import Course, Examples, Subject, known
from layerprune.heal.objectives import NextToken
from layerprune.heal.projections import feed_forward_names
from layerprune.model.surgery import drop_layers


def lora(subject: Subject) -> Course:
    """Low-rank updates of the cut model, trained to predict the next token.

    Feed-forward projections only, alpha = rank, as Gromov et al. (arXiv 2403.17887, appendix A.1)
    after Lee et al. (arXiv 2308.07317).
    """
    model = drop_layers(subject.model, subject.plan.dropped)
    if subject.recompute:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()  # else nothing before the first update has a gradient
    adapted = adapt(model, subject.config)
    return Course(NextToken(model), Examples(subject.ids_ST), adapted)


def qlora(subject: Subject) -> Course:
    """The same on a model whose weights were loaded in 4 bits (Dettmers et al., arXiv 2305.14314).

    Norms are held in float32.
    """
    prepare_model_for_kbit_training(subject.model, use_gradient_checkpointing=False)
    return lora(subject)


def adapt(model: PreTrainedModel, config: HealConfig) -> PeftModel:
    """Give a model trainable low-rank updates, in place, and freeze its weights."""
    adapted = get_peft_model(model, _settings(model, config))
    assert isinstance(adapted, PeftModel)
    return adapted


def _settings(model: PreTrainedModel, config: HealConfig) -> LoraConfig:
    if config.targets is not None:
        names = [name for name, _ in model.named_modules()]
        for target in config.targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(f"heal.targets: {target} is not the name of a module.")
    rank = known(config.rank)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        lora_dropout=known(config.dropout),
        target_modules=config.targets or feed_forward_names(model),
    )
