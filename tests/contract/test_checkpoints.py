"""Fits that are lost and go on from their checkpoints end as if nothing had happened, bit for bit."""

import pytest
import torch

import quantizers
from quantizers.fitting.checkpoint import saved_by

GRADIENT = {"adacomp", "bin", "dccl", "dpq"}


def fit(quantizer, table, saver, **options):
    """The fit's reports."""
    reports = []
    with saved_by(saver):
        for step in quantizer.fit_steps(table, **options):
            reports.append(step)
            saver.told.append({"fraction": step.fraction})
    return reports


def test_a_lost_fit_goes_on_where_it_was(iterative_case, fitted, same_state, saver):
    case, table = iterative_case, iterative_case.table("realistic")
    quantizer, watched = case.cls(case.config), saver()
    reports = fit(quantizer, table, watched)
    same_state(quantizer, fitted(case))  # a saver changes nothing
    watched.delete()
    if not watched.saves:  # it takes no steps along a gradient
        assert case.cls.name not in GRADIENT
        return
    for lost_after in sorted({1, watched.saves // 2, watched.saves - 1}):
        with pytest.raises(saver.Lost):
            fit(case.cls(case.config), table, saver(lost_after))
        quantizer, again = case.cls(case.config), saver()
        rest = fit(quantizer, table, again)
        same_state(quantizer, fitted(case))
        assert again.saves == watched.saves - lost_after  # no step was done twice
        assert again.carried_seconds > 0
        assert [step["fraction"] for step in again.told] == [step.fraction for step in reports]
        trained = [step for step in rest if step.phase != "kmeans"]  # what DPQ starts from, and does again
        assert trained == reports[-len(trained) :]
        again.delete()


@pytest.mark.parametrize("name", sorted(GRADIENT))
def test_a_weighted_fit_that_is_lost_twice(name, same_state, saver):
    cls, table = quantizers.get(name), quantizers.Table(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    options = {"seed": 2, "weights": torch.arange(1.0, 301)}
    expected = cls(cls.examples()[0]).fit(table, **options)
    for _ in range(2):
        with pytest.raises(saver.Lost):
            fit(cls(cls.examples()[0]), table, saver(20), **options)
    quantizer = cls(cls.examples()[0])
    fit(quantizer, table, saver(), **options)
    same_state(quantizer, expected)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another"])
def test_a_broken_checkpoint_is_ignored(damage, same_state, saver, tmp_path):
    cls, table = quantizers.get("bin"), quantizers.Table(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(saver.Lost):
        fit(cls(cls.Config(num_bits=8)), table, saver(20))
    (path,) = (tmp_path / "checkpoints").iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
            "another": content,
        }[damage]
    )
    if damage == "another":  # of a training that keeps something else
        saver().save("bin", {"parts": {}, "seconds": 1.0, "told": "[]"})
    quantizer, again = cls(cls.Config(num_bits=8)), saver()
    fit(quantizer, table, again)
    same_state(quantizer, cls(cls.Config(num_bits=8)).fit(table))
    assert again.carried_seconds == 0


def test_trainings_of_one_name_are_kept_apart(same_state, saver):
    """A method that fits another one twice, lost in the second fit."""
    cls = quantizers.get("bin")
    tables = [quantizers.Table(torch.randn(200, 8, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1)]

    def both(kept):
        made = [cls(cls.Config(num_bits=8, epochs=5, recipe="paper")) for _ in tables]
        with saved_by(kept):
            for quantizer, table in zip(made, tables, strict=True):
                quantizer.fit(table)
        return made

    watched = saver()
    expected = both(watched)
    watched.delete()
    with pytest.raises(saver.Lost):
        both(saver(watched.saves * 3 // 4))
    for quantizer, other in zip(both(saver()), expected, strict=True):
        same_state(quantizer, other)
