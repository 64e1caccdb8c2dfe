"""Facts whose answers are written, not chosen."""
