"""The output layer of a language model on a compressed table."""
