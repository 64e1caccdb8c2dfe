"""What a run is made of: the typed configuration, and what identifies a point."""
