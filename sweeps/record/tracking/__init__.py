"""MLflow records of a sweep: its runs, the thread that sends them while it runs, and what sends the rest afterwards."""

from sweeps.record.tracking.database import ARTIFACTS
from sweeps.record.tracking.experiment import page_addresses
from sweeps.record.tracking.tracker import Tracker

__all__ = ["ARTIFACTS", "Tracker", "page_addresses"]
