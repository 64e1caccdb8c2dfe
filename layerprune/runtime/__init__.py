"""Files, locks, memory, processes, progress lines: independent of models."""
