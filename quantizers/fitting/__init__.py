"""What fits are made of: k-means, searches over codes, least squares, principal axes, minibatches, checkpoints."""
