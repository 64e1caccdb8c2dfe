"""Evaluation of cut models: task scores, held-out loss and speed."""
