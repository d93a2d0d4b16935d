"""A network that translates: its texts, the Transformer, and the search for the best translation."""
