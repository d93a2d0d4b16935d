"""The sweep file: defaults, mistakes in one line, changes from the command line."""

from pathlib import Path

import pytest
import yaml

from quantizers.errors import InputError
from sweeps.spec.config import build, load, load_all
from sweeps.spec.space import parse_entry
from sweeps.spec.sweep_file import preset_names, preset_scales
from sweeps.spec.units import parse_bytes

MINIMAL = {"name": "s", "table": "builtin:glove-10k-50d", "quantizers": ["pq"], "budgets": {"compression_ratio": [8]}}


def test_resolved_yaml_loads_to_the_same_sweep(tmp_path: Path) -> None:
    config = build({**MINIMAL, "seeds": [0, 1], "tasks": ["neighbours", {"task": "polarity"}], "stop": {"time": "30m"}})
    file = tmp_path / "sweep.yaml"
    file.write_text(config.to_yaml())
    assert load(str(file)) == config
    assert config.stop.time == 1800


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100KB", 100_000),
        ("1MB", 1_000_000),
        ("1.5 MB", 1_500_000),
        ("1MiB", 1 << 20),
        (123, 123),
        ("7", 7),
        (" 2kb ", 2000),
        ("1.5GiB", 3 << 29),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizer": ["pq"]}, "unknown key 'quantizer'.*Did you mean 'quantizers'"),
        ({"budgets": {"ratio": [8]}}, "unknown key 'ratio' in budgets.*compression_ratio"),
        ({"budgets": {"compression_ratio": [0]}}, "budgets.compression_ratio.0: .*greater than 0"),
        ({"budgets": {"compression_ratio": [8], "payload_bytes": [100]}}, "either compression_ratio or payload_bytes"),
        ({"budgets": {"payload_bytes": ["10 parsecs"]}}, "is not a size"),
        ({"regime": "none"}, "regime: .*'pretrained'"),
        ({"seeds": []}, "seeds"),
        ({"name": "../x"}, "name"),
        ({"rows": 0}, "rows"),
        ({"resources": {"cpus": 2}}, "unknown key 'cpus' in resources.*Did you mean 'cpu'"),
        ({"quantizers": "every"}, "sweep: quantizers: "),
        ({"stop": {"time": "soon"}}, "is not a time"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build({**MINIMAL, **change})


def test_all_quantizers_or_a_list() -> None:
    assert build({**MINIMAL, "quantizers": "all"}).quantizers == "all"
    with pytest.raises(InputError, match="quantizers"):
        build({**MINIMAL, "quantizers": "every"})
    with pytest.raises(InputError, match="quantizers"):
        build({**MINIMAL, "quantizers": []})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="'table' is missing"):
        build({key: value for key, value in MINIMAL.items() if key != "table"})


def test_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'quick'"):
        load("quik")
    with pytest.raises(InputError, match="no such sweep file"):
        load("missing/sweep.yaml")


def test_changes_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    config = load(str(file), ["seeds=[0,1,2]", "budgets.payload_bytes=[100KB]"], output=str(tmp_path))
    assert config.seeds == (0, 1, 2)
    assert config.budgets is not None and config.budgets.payload_bytes == (100_000,) and not config.budgets.compression_ratio
    assert config.run_dir == tmp_path / "s"
    with pytest.raises(InputError, match="expected key=value"):
        load(str(file), ["seeds"])


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_sweeps(name: str) -> None:
    folders = []
    for scale in preset_scales(name) or [None]:
        configs = load_all(name, scale=scale)
        assert configs[0].name.startswith(name)
        folders += [config.run_dir for config in configs]
        for config in configs:
            for entry in config.quantizers if config.quantizers != "all" else ():
                own = entry if isinstance(entry, str) else {key: entry[key] for key in entry if key != "roles"}
                assert isinstance(own, str) or parse_entry(own)[0]
    assert len(set(folders)) == len(folders)


def test_scales_of_a_preset() -> None:
    small, paper = load_all("adacomp-table2"), load_all("adacomp-table2", scale="paper")
    assert load_all("adacomp-table2", scale="small") == small and preset_scales("adacomp-table2") == ["small", "paper"]
    assert {config.table for config in small} == {"glove.6B.100d.txt"}
    assert {config.table for config in paper} == {"glove.6B.300d.txt"}
    assert {config.ledger_location for config in small} == {str(small[0].run_dir.parent / "adacomp-ledger")}
    with pytest.raises(InputError, match="--scale larg: preset adacomp-table2 has no such scale: it has small and paper"):
        load_all("adacomp-table2", scale="larg")
    with pytest.raises(InputError, match="Did you mean 'paper'"):
        load_all("adacomp-table2", scale="papers")
    with pytest.raises(InputError, match="preset quick has no such scale: it has no scales"):
        load_all("quick", scale="paper")


def test_several_sweeps_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("---\n" + yaml.safe_dump_all([MINIMAL, {**MINIMAL, "name": "t", "seeds": [1]}]) + "---\n")
    first, second = load_all(str(file), ["rows=50"], output=str(tmp_path))
    assert (first.name, second.name) == ("s", "t") and first.seeds == (0,) and second.seeds == (1,)
    assert first.rows == second.rows == 50
    with pytest.raises(InputError, match="expected one sweep, found 2: s, t"):
        load(str(file))
    with pytest.raises(InputError, match="sweep 2: an earlier sweep has the name 'u'"):
        load_all(str(file), ["name=u"])
    with pytest.raises(InputError, match=r"^--set sedes=\[1\]: unknown key 'sedes'.*'seeds'"):
        load_all(str(file), ["sedes=[1]"])
    with pytest.raises(InputError, match="is a file; only presets have scales"):
        load_all(str(file), scale="paper")
    file.write_text(yaml.safe_dump_all([MINIMAL, [1]]))
    with pytest.raises(InputError, match="sweep 2: expected a mapping"):
        load_all(str(file))


@pytest.mark.parametrize("text", ["[1, 2", "- a\n- b\n", ""])
def test_files_that_are_no_sweep(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=str(file)):
        load(str(file))


@pytest.mark.parametrize(
    ("ledger", "shared"),
    [
        (False, False),
        ("RUN_DIR/ledger", False),
        ("RUN_DIR/../s/ledger", False),
        ("RUN_DIR/../all", True),
        ("/elsewhere", True),
        ("s3://bucket/ledger", True),
    ],
)
def test_a_ledger_outside_the_run_may_have_other_users(ledger: str | bool, shared: bool) -> None:
    sweep = {"name": "s", "table": "builtin:glove-10k-50d", "quantizers": ["pq"], "ledger": ledger, "output": "/runs"}
    assert build(sweep).shares_ledger is shared
