"""What the pruned model still knows, and how well it still predicts text."""
