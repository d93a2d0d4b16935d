"""All that knows Ray Tune."""
