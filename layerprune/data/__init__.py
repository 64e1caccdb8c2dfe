"""Text for distances, healing and held-out loss, in three parts that share nothing."""
