"""What to run next, and what to stop early; knows no Ray."""
