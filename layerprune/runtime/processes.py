"""The processes of one run, as `torchrun` or `accelerate launch` start them.

All of them load, cut and train, and score models that are not healed. The main process alone scores
healed models, writes records and prints messages.
"""

import os


def num_processes() -> int:
    """Return how many processes share this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process in the run."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return True in the process that writes records and prints messages."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process on its machine, and of its GPU there."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def uses_fsdp() -> bool:
    """Return True if accelerate is set to shard a model's weights over the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
