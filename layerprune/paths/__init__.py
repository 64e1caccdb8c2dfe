"""Many cut models of one model, in one pass: whatever they share runs once."""
