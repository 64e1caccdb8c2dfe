"""The rows of the facts tasks, for the ``custom_dataset`` field of lm-eval's task files."""

from layerprune.evaluate.tasks.facts.dataset import load

__all__ = ["load"]
