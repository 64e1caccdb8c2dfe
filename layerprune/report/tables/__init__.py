"""Tables of a study: for the page, a terminal, and files."""
