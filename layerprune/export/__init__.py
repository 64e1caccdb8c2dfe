"""Write a point of a curve as a checkpoint that other programs load."""
