"""The processes of one run, as `torchrun` or `accelerate launch` start them.

All of them load, cut and train, and answer questions to models that are not healed; the first alone
asks those that are, writes records and talks to people.
"""

import os


def count() -> int:
    """How many processes work on this run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes and talks."""
    return os.environ.get("RANK", "0") == "0"


def sharded() -> bool:
    """Whether accelerate was told to spread a model's weights over the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def local() -> int:
    """The number of the process on its machine, and of its GPU there."""
    return int(os.environ.get("LOCAL_RANK", "0"))
