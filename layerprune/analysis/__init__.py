"""Numbers made from the points of a study: curves, critical fractions, comparisons. No torch."""
