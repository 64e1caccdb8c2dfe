"""Load the imports of every run once: processes are forked from the one that imports this."""

# ruff: noqa: E402, F401

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TQDM_DISABLE": "1"}
os.environ["COLUMNS"] = "120"

import torch

torch.set_num_threads(1)

import layerprune.heal.healing
import layerprune.report.figures.render_pool
import layerprune.run.pipeline
