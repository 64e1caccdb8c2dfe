"""Factual questions as lm-eval tasks: see README.md."""
