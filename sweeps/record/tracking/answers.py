"""What MLflow's answers mean: a matter of one record, or of all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlflow.exceptions import MlflowException

# Answers that concern one record. All others (no connection, no permission, a fault of the server) concern all of them.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}


class UnreachableError(Exception):
    """MLflow does not answer, or cannot do its work: to be tried again later."""


@contextlib.contextmanager
def if_there() -> Iterator[None]:
    """A refusal means that the run is no longer there, or as it should be: nothing is left to do."""
    try:
        yield
    except MlflowException as error:
        if not is_refusal(error):
            raise


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answers that it will not do this, however often it is asked."""
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


def one_line(error: Exception) -> str:
    """What an error says, on a line."""
    return " ".join(str(error).split())[:300]
