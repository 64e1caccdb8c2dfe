"""Load the imports of every run once: processes are forked from the one that imports this."""

# ruff: noqa: E402, F401

import gc
import os

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TQDM_DISABLE": "1"}
os.environ["COLUMNS"] = "120"

import torch

torch.set_num_threads(1)

import lm_eval.evaluator
import lm_eval.tasks
import transformers.models.llama.modeling_llama
from hydra.core.plugins import Plugins

import layerprune.cli
import layerprune.heal.healing
import layerprune.report.figures.render_pool
import layerprune.run.pipeline

# Hydra imports its plugins, which include the launchers.
Plugins.instance()

# Runs collect garbage several times; the objects of libraries never are garbage.
gc.collect()
gc.freeze()
