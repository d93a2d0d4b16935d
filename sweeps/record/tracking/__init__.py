"""MLflow records of a sweep: its runs, the thread that sends them while it runs, and what sends the rest afterwards."""
