"""Choose layers to remove: metrics, layer distances, strategies and plans."""
