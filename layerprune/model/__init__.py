"""Where a model comes from, where its layers are, and how they are taken out."""
