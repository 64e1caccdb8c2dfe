"""The record of a point: one atomic JSON file per point; everything else is made from them."""
