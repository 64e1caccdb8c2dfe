"""Find, load and prune models, and run parts of them."""
