"""MLflow records of a sweep: its runs, the thread that sends them while it runs, and what sends the rest afterwards."""

from sweeps.record.tracking.runs import page_addresses
from sweeps.record.tracking.tracker import Tracker

__all__ = ["Tracker", "page_addresses"]
