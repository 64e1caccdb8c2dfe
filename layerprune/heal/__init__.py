"""Repairing the seam that a cut leaves: one small file a recipe, one training loop for all."""

import logging

# bitsandbytes says at its import that an optional kernel of a hub is not there; it does without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
