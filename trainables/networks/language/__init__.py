"""Language models: running text, the recurrent network that reads it, and what is measured of both."""
