"""Repairing the seam that a cut leaves: one small file a recipe, one training loop for all."""

import logging
import warnings

# bitsandbytes says at its import that an optional kernel of a hub is not there; it does without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# peft asks transformers 5.23 by a name that a later version will not have; nothing is wrong.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
