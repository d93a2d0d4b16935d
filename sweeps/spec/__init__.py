"""A sweep as it is described: the file, its checks, its space, its plan."""
