"""Secrets planted wherever one can be given: none may stand in a file that is written, or in what is printed.

Every byte of the folder is searched, and what Parquet files hold, which is packed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from sweeps.commands import application
from tests.attacks.guard import BrokenPromiseError, Outcome, attempt
from tests.attacks.stand_in import sweep_file, without_ray

VARIABLES = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"]
VARIABLES += ["RAY_AUTH_TOKEN", "HF_TOKEN", "GITHUB_TOKEN", "HTTPS_PROXY"]
SCHEMES = {
    "tracking": ["http", "https", "postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pyodbc", "HTTP"],
    "output": ["s3", "S3"],
    "ledger": ["s3"],
    "table": ["s3", "https", "hf"],
    "weights": ["s3", "https"],
}
# How an address may carry one.
FORMS = ["{scheme}://user:{secret}@{host}/x", "{scheme}://{secret}@{host}/x", "{scheme}://{host}/x?password={secret}"]
FORMS += ["{scheme}://{host}/x?user=me&secret_key={secret}", "{scheme}://{host}/x?access_token={secret}"]
FORMS += [
    "{scheme}://{host}/x?scheme=http&api_key={secret}",
    "{scheme}://:{secret}@{host}:1/x",
    "{scheme}://u%40v:{secret}@{host}/x",
]
FORMS += ["{scheme}://{host}/x?X-Amz-Signature={secret}", "{scheme}://{host}/x?sslpassword={secret}&pwd={secret}"]


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed: a secret in one place, or in the environment of a whole sweep."""
    dice = Random(f"leaks {seed} {number}")
    secret = "".join(dice.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(16))
    ways: list[Callable[[Random, str, Path], tuple[str, list[list[object]]]]] = [_in_file, _in_set, _in_words, _in_cluster]
    with tempfile.TemporaryDirectory(dir=place) as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.chdir(folder)  # what is taken for a path lies there
        patch.setenv("HOME", str(folder / "home"))  # copies of what is on s3 lie there
        if number % 6 == 5:
            what, words = _in_environment(dice, secret, folder, patch)
        else:
            what, words = ways[number % 6 % len(ways)](dice, secret, folder)
        given = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return what, attempt(lambda: _search(words, secret, folder, given), folder, reads=False)


def _address(dice: Random, secret: str) -> tuple[str, str]:
    """A key of a sweep, and an address with the secret in it for it."""
    key = dice.choice(list(SCHEMES))
    form = dice.choice(FORMS)
    return key, form.format(scheme=dice.choice(SCHEMES[key]), secret=secret, host="127.0.0.1:9")


def _in_file(dice: Random, secret: str, folder: Path) -> tuple[str, list[list[object]]]:
    key, address = _address(dice, secret)
    file = sweep_file(folder, **{key: address})
    return f"file: {_shown(key, address, secret)}", [["run", file, *dice.choice([[], ["--dry-run"]])]]


def _in_set(dice: Random, secret: str, folder: Path) -> tuple[str, list[list[object]]]:
    key, address = _address(dice, secret)
    file = sweep_file(folder)
    return f"--set: {_shown(key, address, secret)}", [["run", file, "--set", f"{key}={address}"]]


def _in_words(dice: Random, secret: str, folder: Path) -> tuple[str, list[list[object]]]:
    key, address = _address(dice, secret)
    # A command that reads: with an address of a server it would wait for that one.
    words: list[list[object]] = [
        ["compress", address, "-o", folder / "x.safetensors", "--method", "pq", "--ratio", "8"],
        ["convert", address, "-o", folder / "x.npy"],
        ["inspect", address],
        ["ledger", "clean", address, "--older-than", "1s"],
        ["report", address],
        ["status", address],
        ["export", address, "-o", folder / "x.safetensors"],
        ["ui", "--tracking", address],
    ]
    chosen = dice.choice(words)
    return f"{chosen[0]}: {_shown(key, address, secret)}", [chosen]


def _in_cluster(dice: Random, secret: str, folder: Path) -> tuple[str, list[list[object]]]:
    key, address = _address(dice, secret)
    cluster = folder / "cluster.yaml"
    inner = {"tracking": address} if dice.random() < 0.5 else {"output": address}
    cluster.write_text(yaml.safe_dump({"provider": {"type": "local"}, "metadata": {"frontier": inner}}))
    return f"cluster: {_shown(key, address, secret)}", [["submit", cluster, sweep_file(folder)]]


def _in_environment(dice: Random, secret: str, folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, list[list[object]]]:
    """A whole sweep, and every command on its run, while the environment holds secrets."""
    for name in VARIABLES:
        patch.setenv(name, f"http://u:{secret}@127.0.0.1:9" if name == "HTTPS_PROXY" else secret)
    run = folder / "s"
    words: list[list[object]] = [["run", sweep_file(folder)], ["status", run], ["recommend", run], ["report", run]]
    words += [["resume", run], ["sync", run], ["inspect", folder / "t.npy"]]
    words += [["export", run, "--max-bytes", "10KB", "-o", folder / "x.safetensors"]]
    return f"environment of a sweep and {len(words) - 1} commands", words


def _shown(key: str, address: str, secret: str) -> str:
    return f"{key} {address.replace(secret, '***')}"


@contextlib.contextmanager
def _logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    root.addHandler(handler)
    try:
        yield stream
    finally:
        root.removeHandler(handler)


def _search(words: list[list[object]], secret: str, folder: Path, given: dict[Path, bytes]) -> None:
    """Give the commands, and look for the secret in all that came of them."""
    refused = ""
    with without_ray(), _logged() as log:
        for one in words:
            done = CliRunner().invoke(application(), [str(word) for word in one])
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise BrokenPromiseError("traceback", f"{one[0]}: {_hidden(repr(done.exception), secret)}")
            printed = done.output + done.stderr + log.getvalue()
            if found := _forms(secret, printed.replace("\n", "").encode()):
                raise BrokenPromiseError("leaked", f"{one[0]} prints it ({found}): {_hidden(printed, secret)[-400:]!r}")
            if done.exit_code not in (0, 2):
                raise BrokenPromiseError("wrong", f"{one[0]}: exit code {done.exit_code}: {printed[-300:]!r}")
            refused = done.stderr.strip() if done.exit_code == 2 else refused
    for path in folder.rglob("*"):
        if not path.is_file() or given.get(path) == path.read_bytes():
            continue
        content = path.read_bytes() + str(path).encode()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pydict()).encode()
        if found := _forms(secret, content):
            raise BrokenPromiseError("leaked", f"{path.relative_to(folder)} holds it ({found})")


def _forms(secret: str, content: bytes) -> str:
    """How the secret stands in some bytes; empty where it does not."""
    forms: dict[str, Any] = {"as it is": secret, "quoted": urllib.parse.quote(secret), "backwards": secret[::-1]}
    return next((name for name, form in forms.items() if form.encode() in content), "")


def _hidden(text: str, secret: str) -> str:
    return text.replace(secret, "***")
