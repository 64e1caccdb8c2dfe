"""What a run will take, by arithmetic, before a weight is loaded."""
