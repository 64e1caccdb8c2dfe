"""Estimates of what a run takes, before a weight is loaded."""
