"""Read text for distances, healing and held-out loss, in three disjoint parts."""
