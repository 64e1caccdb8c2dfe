"""Small tasks that ask for more than one fact."""
