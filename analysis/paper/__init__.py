"""AdaComp's Table 2 and figures, from runs."""
