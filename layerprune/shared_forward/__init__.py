"""Run many pruned models of one model in one pass: layers that they share run once."""
