"""What is kept of a run: one atomic JSON a point is the truth, everything else is a view of it."""
