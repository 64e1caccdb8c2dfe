"""Figures of a study: one module for each kind of figure, and the chart builder that they share."""
