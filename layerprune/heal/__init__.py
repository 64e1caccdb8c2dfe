"""Repairing the seam that a cut leaves: one small file a recipe, one training loop for all."""
