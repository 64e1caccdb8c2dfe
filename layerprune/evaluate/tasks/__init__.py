"""lm-eval task folders that ship with layerprune."""
