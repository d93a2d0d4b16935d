"""Published tables and texts: what there is, and how it is fetched."""
