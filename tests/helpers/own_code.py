"""Folders of tiny models that bring their own code, some of which counts its layers."""

import importlib.util
import json

import torch
from tiny import byte_tokenizer

NAME = "modeling_tiny_own"
CODE = """
import os
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

os.environ["TINY_OWN_CODE_RAN"] = "1"

class TinyOwnConfig(PreTrainedConfig):
    model_type = "tiny_own"
    def __init__(self, vocab_size=259, hidden_size=32, num_hidden_layers=6, scales=None, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.scales = num_hidden_layers, scales
        super().__init__(**kwargs)

class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, 64)
        self.down = nn.Linear(64, config.hidden_size)
        BUILT
    def forward(self, hidden_states, index):
        seen = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device)
        mixed = hidden_states.cumsum(dim=1) / seen[None, :, None]
        change = self.down(torch.tanh(self.up(mixed)))
        return (hidden_states + change * (SCALE), None)

class TinyOwnPreTrained(PreTrainedModel):
    config_class = TinyOwnConfig
    base_model_prefix = "model"

class TinyOwnModel(TinyOwnPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [Layer(config, index) for index in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()
    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        state = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        for index, layer in enumerate(self.layers):
            state = layer(state, index)[0]
        return BaseModelOutput(last_hidden_state=self.norm(state))

class TinyOwnForCausalLM(TinyOwnPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyOwnModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
    def forward(self, input_ids=None, labels=None, **kwargs):
        states = self.model(input_ids=input_ids, **kwargs).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(states))
"""


def write(folder, scale="1", built="pass", **settings):
    """A model's folder; `scale` is by what a change is multiplied, `built` what a layer keeps."""
    folder.mkdir(parents=True)
    path = folder / f"{NAME}.py"
    path.write_text(CODE.replace("SCALE", scale).replace("BUILT", built))
    spec = importlib.util.spec_from_file_location(NAME, path)
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    model = code.TinyOwnForCausalLM(code.TinyOwnConfig(**settings))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": f"{NAME}.TinyOwnConfig",
        "AutoModelForCausalLM": f"{NAME}.TinyOwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save_pretrained(folder)
    return folder
