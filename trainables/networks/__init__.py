"""Networks that downstream tasks train, and how they are trained."""
