"""Fits: repeatable, without side effects, with honest reports and clear errors."""

import copy
import json
import math
import sys

import pytest
import torch

from quantizers import InputError, NotFittedError, Skip, Table, make_config
from quantizers.base import Quantizer


def test_same_seed_same_state_and_no_memory_of_an_earlier_fit(case, fitted, repeated, same_state):
    same_state(repeated(case), fitted(case))


def test_fit_changes_nothing_around_it(case, observed):
    seen = observed(case)
    assert not seen.changed
    assert torch.equal(seen.table.vectors, seen.vectors)
    assert seen.quantizer.config == case.config


@pytest.mark.one_example
def test_codes_do_not_depend_on_how_many_rows_are_encoded_at_a_time(sampled_case, fitted, same_state):
    quantizer = sampled_case.cls(sampled_case.config)
    quantizer.chunk_rows = 100
    same_state(quantizer.fit(sampled_case.table("realistic")), fitted(sampled_case))


def test_fit_under_no_grad(method, fitted, same_state):
    with torch.no_grad():
        quantizer = method.cls(method.first.config).fit(method.table("realistic"))
    same_state(quantizer, fitted(method.first))


def test_device_of_the_fit(device_case, fitted):
    table, quantizer = device_case.table("realistic"), fitted(device_case)
    assert {tensor.device for tensor in quantizer.state().values()} == {table.vectors.device}
    assert quantizer.to_dense().device == table.vectors.device


def test_reports(case, observed):
    seen = observed(case)
    steps = seen.steps
    assert steps
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] == 1.0
    if case.cls.iterative:
        assert len(steps) > 1
    for step in steps:
        assert step.phase
        assert step.value is None or (math.isfinite(step.value) and step.value >= 0)
        assert all(math.isfinite(value) for value in step.metrics.values())
    if steps[-1].value is not None:
        # Rows may have been held out, so that it is close and not equal. A value that is not of a whole row, or not
        # halved, or taken on soft codes, is off by more.
        half_mse = 0.5 * float((seen.quantizer.to_dense() - seen.table.vectors).square().sum(dim=1).mean())
        assert steps[-1].value == pytest.approx(half_mse, rel=0.4, abs=1e-6)


def test_every_parameter_has_a_value_after_a_fit(case, fitted):
    resolved = fitted(case).resolved()
    given = case.config.model_dump(mode="json")
    assert resolved.keys() == given.keys()
    assert None not in resolved.values()
    assert json.loads(json.dumps(resolved)) == resolved


def test_iterative_methods_report_values(iterative_method, observed):
    assert any(step.value is not None for step in observed(iterative_method.first).steps)


def test_a_fit_that_is_given_up_leaves_nothing(method, fitted):
    quantizer = copy.deepcopy(fitted(method.first))
    steps = quantizer.fit_steps(method.table("constant"))
    step = next(steps)
    steps.close()
    if step.fraction < 1:
        with pytest.raises(NotFittedError):
            quantizer.to_dense()


@pytest.mark.thorough
def test_weights(weighted_method):
    """The error of rows from another cluster falls when they weigh more: only then do they get codewords and bits."""
    usual = weighted_method.table("realistic").vectors
    few = 24
    heavy = slice(0, few)
    vectors = usual.clone()
    vectors[heavy] = usual[heavy].flip(1) * 1.5 + 1.0
    table = Table(vectors)
    weights = torch.ones(len(vectors), device=weighted_method.device)
    weights[heavy] = 200.0
    budgets = sorted(weighted_method.proposals(table), key=lambda pair: pair[0].payload_bytes)
    assert budgets
    budget, case = budgets[0]
    plain = case.cls(case.config).fit(table, budget=budget).to_dense()
    weighted = case.cls(case.config).fit(table, weights=weights, budget=budget).to_dense()
    uniform = case.cls(case.config).fit(table, weights=torch.full_like(weights, 7.0), budget=budget).to_dense()
    assert error(weighted[heavy], vectors[heavy]) < 0.95 * error(plain[heavy], vectors[heavy])
    assert error(uniform, vectors) == pytest.approx(error(plain, vectors), rel=0.1)


def error(rebuilt, vectors):
    return float((rebuilt - vectors).square().mean())


@pytest.mark.parametrize("wrong", ["short", "negative", "zero", "nan", "infinite"])
def test_wrong_weights_are_refused(method, wrong):
    table = method.table("realistic")
    weights = torch.ones(table.num_embeddings)
    if wrong == "short":
        weights = weights[1:]
    elif wrong == "zero":
        weights[:] = 0
    else:
        weights[3] = {"negative": -1.0, "nan": math.nan, "infinite": math.inf}[wrong]
    with pytest.raises(InputError, match="weights"):
        method.cls(method.first.config).fit(table, weights=weights)


def test_nested_families(method, fitted, same_state):
    families = {}
    table = method.table("realistic")
    cases = [case for _, case in method.proposals(table)] + method.examples
    for case in cases:
        key = method.cls.family_key(case.config)
        assert key is None or isinstance(key, str)
        if key is not None:
            families.setdefault(key, {})[case.config.model_dump_json()] = case
    for family in families.values():
        ordered = sorted(family.values(), key=lambda case: method.cls.storage(case.config, table.shape).payload_bytes)
        largest = fitted(ordered[-1])
        for case in ordered[:-1]:
            restricted = largest.restrict(case.config, table)
            assert restricted.config == case.config
            same_state(restricted, fitted(case))
            assert list(restricted.words) == list(table.words)


def test_before_a_fit(case):
    quantizer = case.cls(case.config)
    for use in (
        lambda: quantizer.reconstruct(torch.zeros(1, dtype=torch.int64)),
        lambda: quantizer.to_dense(),
        lambda: quantizer.state(),
        lambda: quantizer.module(),
        lambda: quantizer.shape,
        lambda: quantizer.payload_bytes,
        lambda: quantizer.save("nowhere.safetensors"),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            use()


def test_configurations_survive_json_and_refuse_unknown_parameters(case):
    parameters = case.config.model_dump(mode="json")
    assert make_config(case.cls.name, parameters) == case.config
    assert hash(case.config) == hash(make_config(case.cls.name, parameters))
    with pytest.raises(InputError, match="Unknown parameter"):
        make_config(case.cls.name, {**parameters, "no_such_parameter": 1})
    for name in parameters:
        with pytest.raises(InputError, match=f"Did you mean '{name}'"):
            make_config(case.cls.name, {name + "x": 1})


def test_check_accepts_the_examples(case):
    assert not isinstance(case.check(case.table("realistic")), Skip)


def test_what_a_method_says_about_itself(method):
    cls = method.cls
    assert cls.name == cls.name.lower().strip()
    assert cls.reference.strip()
    assert cls.examples()
    assert all(isinstance(config, cls.Config) for config in cls.examples())
    text = sys.modules[cls.__module__].__doc__
    assert text and len(text.splitlines()) >= 2, "the module's docstring has one line, the paper, and the equation"
    named = [word for word in cls.reference.replace(",", " ").split() if len(word) > 3 and word in text]
    assert named, f"the module's docstring does not mention {cls.reference!r}"
    assert cls.Config.__doc__
    assert issubclass(cls, Quantizer)
