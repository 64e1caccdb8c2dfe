"""How alike the inputs of a model's layers are: one forward pass, every pair of layers."""
