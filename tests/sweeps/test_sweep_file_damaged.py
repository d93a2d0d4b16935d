"""Sweep files of any bytes are a sweep or one line of refusal, at once; and so are sweeps of too many trials."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from typer.testing import CliRunner

from quantizers import InputError, Table
from sweeps.commands import application
from sweeps.spec.config import build, load_all
from sweeps.spec.limits import check_size
from sweeps.spec.prepare import prepare, read_weights
from sweeps.spec.sweep_file import preset_names, preset_text
from tests.attacks.readers import SWEEP

pytestmark = pytest.mark.thorough  # searches long

MINIMAL = {"name": "s", "table": "builtin:synthetic-50x8", "quantizers": ["pq"], "budgets": {"compression_ratio": [8]}}
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def sweeps_or_refusal(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        for config in load_all(str(path)):
            check_size(config)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, "nests more than 50 levels deep"),
        ("".join(" " * depth + "a:\n" for depth in range(1500)), "nests more than 50 levels deep"),
        (SWEEP + "rows: " + "9" * 5000, "4300 digits"),
        (SWEEP + "trial_timeout: 2001-99-99", "month must be in 1..12"),
        ("a: !!int ''", "a value is not valid YAML"),
        ("&a [*a]", r"\*a is inside the part that it refers to"),
        ("? [1]: 2\n: 3", "unhashable key"),
        ("1: 2", "a mapping of keys to values"),
        ("a: \x80", "not valid YAML"),
        (SWEEP + "'n[0]': 1", r"unknown key 'n\[0\]'"),
        (SWEEP + "Rows: 1", "unknown key 'Rows'. Did you mean 'rows'"),
        ("x: " + "a" * 3_000_000, "3,000,003 bytes; expected at most"),
        (
            "name: a\ntable: t\nname: b\n",
            "not valid YAML: the key 'name' is given twice .*line 3",
        ),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
            "more than 500,000 values",
        ),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
            "more than 500,000 values",
        ),
    ],
    ids=[
        "lists",
        "mappings",
        "digits",
        "date",
        "no number",
        "itself",
        "list as key",
        "number as key",
        "byte",
        "bracket",
        "capital",
        "size",
        "key twice",
    ]
    + ["bombs of lists", "bombs of merges"],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    (tmp_path / "s.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        load_all(str(tmp_path / "s.yaml"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_utf_16_is_read_where_its_mark_says_so(tmp_path):
    (tmp_path / "s.yaml").write_bytes(SWEEP.encode("utf-16"))
    (tmp_path / "t.yaml").write_text(SWEEP)
    assert load_all(str(tmp_path / "s.yaml"))[0] == load_all(str(tmp_path / "t.yaml"))[0]
    (tmp_path / "s.yaml").write_bytes(SWEEP.encode("utf-16-le"))
    with pytest.raises(InputError, match="not valid YAML"):
        load_all(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": {"payload_bytes": ["9" * 400]}}, "too large a size"),
        ({"budgets": {"compression_ratio": [1e-320]}}, "budgets.compression_ratio.0"),
        ({"seeds": [10**30]}, "seeds.0"),
        ({"rows": -(10**4000)}, "rows: .*greater than or equal to 1"),
    ],
)
def test_numbers_beyond_reason(change, message):
    with pytest.raises(InputError, match=message) as caught:
        build({**MINIMAL, **change})
    assert len(str(caught.value)) < 600


GRID = {"method": "pq", "num_codebooks": list(range(1, 1141)), "codebook_size": list(range(2, 1142))}


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"seeds": list(range(200_000))}, r"200,000 trials \(1 configuration x 200,000 seeds\)"),
        ({"quantizers": [GRID]}, "1,299,600 configurations are more"),
        ({"quantizers": [GRID], "search": {"kind": "random", "samples": 5}}, "1,299,600 configurations are more"),
        ({"budgets": {"compression_ratio": list(range(1, 100_002))}}, "100,001 configurations are more"),
        (
            {
                "quantizers": [{"method": "pq", "num_codebooks": 2, "codebook_size": {"low": 2, "high": 9}}],
                "search": {"kind": "random", "samples": 10**9},
            },
            "1,000,000,000 trials are more",
        ),
    ],
    ids=["seeds", "grid", "drawn from a grid", "budgets", "samples"],
)
def test_too_many_trials_are_refused_before_they_are_listed(change, count):
    config = build({**MINIMAL, **change})
    with pytest.raises(InputError, match=count + r".*limits.trials \(100,000\).*--set limits.trials="):
        prepare(config, None)


def test_the_limit_can_be_moved():
    config = build({**MINIMAL, "seeds": [0, 1, 2], "limits": {"trials": 3}})
    assert len(prepare(config, None).plan.trials) >= 3
    with pytest.raises(InputError, match=r"4 trials .*limits.trials \(3\)"):
        prepare(build({**MINIMAL, "seeds": [0, 1, 2, 3], "limits": {"trials": 3}}), None)
    # What methods propose for a budget is known only when they are asked.
    two = {"quantizers": ["tt"], "budgets": {"payload_bytes": [200]}}
    with pytest.raises(InputError, match=r"2 trials are more than limits.trials \(1\)"):
        prepare(build({**MINIMAL, **two, "limits": {"trials": 1}}), None)


def test_weights_of_no_bytes(tmp_path):
    table = Table(torch.ones(3, 2))
    for name in ("w.txt", "w.npy"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=f"{name}: "):
            read_weights(str(tmp_path / name), table, None)
    (tmp_path / "w.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="not a file of weights"):
        read_weights(str(tmp_path / "w.txt"), table, None)
    np.save(tmp_path / "w.npy", np.array([1.0, 2.0, 3.0]))
    assert read_weights(str(tmp_path / "w.npy"), table, None).tolist() == [1, 2, 3]


def test_the_command_line_says_it_in_a_line(tmp_path):
    (tmp_path / "s.yaml").write_text("a: " + "[" * 3000)
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00'''(\n")
    for command in (["run", f"{tmp_path}/s.yaml"], ["convert", f"{tmp_path}/t.npy", "-o", f"{tmp_path}/t.safetensors"]):
        result = CliRunner().invoke(application(), command)
        assert result.exit_code == 2 and not isinstance(result.exception, ValueError)
        assert result.output.startswith("error: ") and result.output.count("\n") == 1


def damage(draw: st.DrawFn, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(found)))
        length = draw(st.sampled_from([1, 1, 4, 20]))
        found[place : place + draw(st.sampled_from([0, length]))] = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"[", b"{", b"&a ", b"*a", b": ", b"- ", b"!!int ", b"!!binary ", b"9" * 30, b"\n", b"~", b".inf", b"{}"]
            )
        )
    return bytes(found)


@settings(FUZZ, max_examples=80)
@given(data=st.data())
def test_any_damage_is_a_sweep_or_a_refusal(data, tmp_path):
    sweeps_or_refusal(tmp_path / "s.yaml", damage(data.draw, SWEEP.encode()))


@settings(FUZZ, max_examples=30)
@given(data=st.binary(max_size=100))
@example(data=b"")
def test_any_bytes_are_a_sweep_or_a_refusal(data, tmp_path):
    sweeps_or_refusal(tmp_path / "s.yaml", data)


@pytest.mark.slow
@settings(FUZZ, max_examples=3000)
@given(data=st.data())
def test_much_damage_is_a_sweep_or_a_refusal(data, tmp_path):
    text = data.draw(st.sampled_from([SWEEP, *(preset_text(name) for name in preset_names())]))
    sweeps_or_refusal(tmp_path / "s.yaml", damage(data.draw, text.encode()))
