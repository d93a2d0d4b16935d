"""Credentials in addresses are refused wherever one can be given, and the message does not repeat them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantizers import InputError
from sweeps.cluster.submit import read_cluster
from sweeps.spec.config import build, load
from sweeps.storage import open_storage
from trainables.tables.credentials import refuse_credentials

SECRET = "hunter2"
SWEEP = {"name": "s", "table": "builtin:glove-10k-50d", "quantizers": ["pq"]}


@pytest.mark.parametrize(
    ("key", "address", "instead"),
    [
        ("tracking", f"http://someone:{SECRET}@host:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("tracking", f"postgresql+psycopg2://someone:{SECRET}@host/mlflow", "PGPASSWORD"),
        ("tracking", f"mysql://{SECRET}@host/mlflow", "its client reads"),
        ("output", f"s3://KEY:{SECRET}@bucket/runs", "AWS_SECRET_ACCESS_KEY"),
        ("ledger", f"s3://KEY:{SECRET}@bucket/ledger?scheme=http", "AWS_SECRET_ACCESS_KEY"),
        ("table", f"S3://KEY:{SECRET}@bucket/t.npy", "AWS_SECRET_ACCESS_KEY"),
        ("weights", f"s3://KEY:{SECRET}@bucket/w.npy", "AWS_SECRET_ACCESS_KEY"),
        ("tracking", f"postgresql://host/mlflow?user=me&password={SECRET}", "PGPASSWORD"),
        ("tracking", f"https://host:5000/?access_token={SECRET}", "MLFLOW_TRACKING_TOKEN"),
        ("output", f"s3://bucket/runs?scheme=http&secret_key={SECRET}", "AWS_SECRET_ACCESS_KEY"),
        ("table", f"https://bucket/t.npy?X-Amz-Signature={SECRET}", "MLFLOW"),
    ],
)
def test_a_sweep_takes_no_credentials(key: str, address: str, instead: str) -> None:
    with pytest.raises(InputError, match=f"sweep.{key}: .* set .*{instead}") as caught:
        build({**SWEEP, key: address})
    assert SECRET not in str(caught.value)


def test_nor_does_a_change_on_the_command_line() -> None:
    with pytest.raises(InputError, match="tracking") as caught:
        load("quick", [f"tracking=http://a:{SECRET}@host"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "quick", "--set", f"tracking=http://a:{SECRET}@host", "--dry-run"],
        ["ui", "--tracking", f"http://a:{SECRET}@host"],
        ["report", f"s3://a:{SECRET}@bucket/run"],
        ["recommend", f"s3://a:{SECRET}@bucket/run"],
        ["inspect", f"s3://a:{SECRET}@bucket/x.safetensors"],
        ["status", f"https://host/run?token={SECRET}"],
        ["report", ".", f"https://host/run?token={SECRET}"],
        ["compress", f"s3://a:{SECRET}@bucket/t.npy", "-o", "x.safetensors", "--method", "pq", "--ratio", "8"],
    ],
    ids=lambda words: words[0],
)
def test_commands_exit_with_2_and_do_not_print_it(frontier: Callable[..., Any], words: list[str]) -> None:
    result = frontier(*words)
    assert result.exit_code == 2
    assert SECRET not in result.output and "user or a password" in " ".join(result.output.replace("│", " ").split())


def test_nor_do_storage_and_cluster_files(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"provider: {{type: local}}\nmetadata: {{frontier: {{tracking: 'http://a:{SECRET}@h'}}}}\n")
    for refused in (lambda: read_cluster(str(path)), lambda: read_cluster(f"http://a:{SECRET}@host:8265")):
        with pytest.raises(InputError) as caught:
            refused()
        assert SECRET not in str(caught.value)
    with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_storage(f"s3://a:{SECRET}@bucket/x")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000/a@b",
        "s3://bucket/who@where/run?endpoint_override=h:1&scheme=http",
        "sqlite:////home/me@work/mlflow.db",
        "a@b",
        "mail: me@example.org",
        "http://host/?user=me@x",
        "s3://bucket/secrets/token=1?endpoint_override=h:1&scheme=http",
    ],
)
def test_an_at_elsewhere_is_fine(address: str) -> None:
    refuse_credentials("x", {"deep": [{"er": address}]})


@given(st.text("abc:.-_%", min_size=1), st.sampled_from(["http", "https", "s3", "mysql+pymysql", "gs"]))
def test_every_address_with_a_user_is_refused_wherever_it_stands(user: str, scheme: str) -> None:
    with pytest.raises(InputError):
        refuse_credentials("x", {"a": [1, None, {"b": ("y", f"{scheme}://{user}@host/path")}]})
