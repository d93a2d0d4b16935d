"""What came of trials: the ledger, the status, MLflow, the files at the end."""
