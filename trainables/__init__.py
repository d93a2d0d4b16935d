"""What one trial does: tables, reconstruction metrics, downstream tasks."""
