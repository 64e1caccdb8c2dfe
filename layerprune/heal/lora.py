"""Low-rank updates, on weights of any precision."""

from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel

from layerprune.config.schema import HealConfig
from layerprune.errors import UserError
from layerprune.heal.projections import feed_forward_names


def lora(model: PreTrainedModel, config: HealConfig) -> PeftModel:
    """The model with trainable low-rank updates; it is changed in place, its weights are frozen.

    Feed-forward projections only, alpha = rank, as Gromov et al. (arXiv 2403.17887, appendix A.1)
    after Lee et al. (arXiv 2308.07317).
    """
    adapted = get_peft_model(model, _settings(model, config))
    assert isinstance(adapted, PeftModel)
    return adapted


def qlora(model: PreTrainedModel, config: HealConfig) -> PeftModel:
    """The same on a model whose weights were loaded in 4 bits (Dettmers et al., arXiv 2305.14314).

    Norms are held in float32, and activations are not kept but computed again where a GPU's memory
    is what is short.
    """
    prepared = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=model.device.type == "cuda"
    )
    return lora(prepared, config)


def _settings(model: PreTrainedModel, config: HealConfig) -> LoraConfig:
    if config.targets is not None:
        names = [name for name, _ in model.named_modules()]
        for target in config.targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(f"heal.targets: {target} is not the name of a module.")
    assert config.rank is not None
    assert config.dropout is not None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.rank,
        lora_dropout=config.dropout,
        target_modules=config.targets or feed_forward_names(model),
    )
