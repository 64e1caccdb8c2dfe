"""The smallest model within a budget of accuracy, memory and speed."""
