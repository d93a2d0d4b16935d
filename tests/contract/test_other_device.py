"""Fits on a device that is not the CPU, without having one.

A pretended device: its tensors hold their data on the CPU, say that they are elsewhere, and refuse to be mixed with tensors
of the CPU, as CUDA tensors do. What it cannot show is what a GPU's own arithmetic gives; the suite runs on CUDA where
there is one.
"""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from quantizers import Table, read

# torch computes gradients for "meta" in the calling thread, and has no kernels that could get in the way.
ELSEWHERE = torch.device("meta")
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put_"}  # a CUDA tensor may be indexed by one of the CPU, not the other way round


class FarTensor(Tensor):
    """A tensor that says it is elsewhere; ``inner`` has the data."""

    @staticmethod
    def __new__(cls, inner):
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=ELSEWHERE,
        )

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert a tensor of another device to numpy: use .cpu() first")
        return self.inner.numpy(force=True)

    def __array__(self, *_args, **_kwargs):
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def is_elsewhere(device):
    return device is not None and torch.device(device) == ELSEWHERE


def apply(change, value):
    """``change`` on a value, or on all that a list or tuple holds (torch's own tree functions are slow)."""
    if type(value) in (list, tuple):
        return type(value)([apply(change, part) for part in value])
    return change(value)


def compute(func, args, kwargs):
    far, near = [], []

    def unwrap(value):
        if isinstance(value, FarTensor):
            far.append(value)
            return value.inner
        if isinstance(value, Tensor) and value.dim():
            near.append(value)
        return torch.device("cpu") if isinstance(value, torch.device) else value

    near_args = [apply(unwrap, value) for value in args]
    near_kwargs = {name: apply(unwrap, value) for name, value in kwargs.items()}
    name = func._schema.name
    may_mix = name in COPIES or (name in INDEXING and isinstance(args[0], FarTensor))
    if far and near and not may_mix:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found two")
    result_is_far = is_elsewhere(kwargs["device"]) if kwargs.get("device") is not None else bool(far)
    if result_is_far and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: expected a generator of the same device")

    def wrap(value):
        return FarTensor(value) if isinstance(value, Tensor) and result_is_far else value

    result = apply(wrap, func(*near_args, **near_kwargs))
    return return_and_correct_aliasing(func, args, kwargs, result) if func._schema.is_mutable else result


class Computes(TorchDispatchMode):
    """Tensors that are made on the pretended device; operations on them come to ``FarTensor`` by themselves."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return compute(func, args, kwargs) if is_elsewhere(kwargs.get("device")) else func(*args, **kwargs)


class Makes(TorchFunctionMode):
    """``torch.tensor(data, device=...)`` does not pass through the dispatcher."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and is_elsewhere(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(ELSEWHERE)
        return func(*args, **kwargs)


@pytest.fixture
def elsewhere():
    with contextlib.ExitStack() as stack:
        stack.enter_context(Computes())
        stack.enter_context(Makes())
        yield ELSEWHERE


def test_the_pretence(elsewhere):
    here = torch.arange(6.0).reshape(2, 3)
    there = here.to(elsewhere)
    assert there.device == elsewhere
    assert torch.equal((there @ there.T).cpu(), here @ here.T)
    assert torch.equal(torch.tensor([1, 2], device=elsewhere).cpu(), torch.tensor([1, 2]))
    assert there.sum().item() == 15 and there[1].tolist() == [3, 4, 5]
    there[0] = 7
    there.mul_(2)
    assert there.cpu().tolist() == [[14, 14, 14], [6, 8, 10]]
    assert there[torch.tensor([1])].tolist() == [[6, 8, 10]]
    assert torch.equal(here, torch.arange(6.0).reshape(2, 3))
    for wrong in (
        lambda: there + here,
        lambda: here[torch.tensor([0], device=elsewhere)],
        lambda: here.index_add_(0, torch.tensor([0], device=elsewhere), here[:1]),
        lambda: torch.randn(3, generator=torch.Generator(), device=elsewhere),
    ):
        with pytest.raises(RuntimeError, match="device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


def name_of_table(case):
    """The small one (each operation there takes three times as long), unless the configuration asks for more rows."""
    return "small" if case.check(case.table("small")) is None else "realistic"


def far_table(case, device):
    table = case.table(name_of_table(case))
    return Table(table.vectors.to(device), table.words, table.counts.to(device), table.name)


@pytest.mark.thorough
@pytest.mark.one_example
def test_fit(case, fitted, elsewhere, tmp_path):
    reference = fitted(case, name_of_table(case)).to_dense().cpu()
    table = far_table(case, elsewhere)
    quantizer = case.cls(case.config)
    steps = list(quantizer.fit_steps(table))
    assert all(isinstance(step.value, float | None) for step in steps)
    assert {tensor.device for tensor in quantizer.state().values()} == {elsewhere}
    rebuilt = quantizer.to_dense()
    assert rebuilt.device == elsewhere
    # The same arithmetic in perhaps another order: as good, and byte for byte only where nothing was rounded differently.
    error = float((rebuilt - table.vectors).square().mean())
    usual = float((reference - table.vectors.cpu()).square().mean())
    assert error == pytest.approx(usual, rel=0.05, abs=1e-9)
    quantizer.save(tmp_path / "table.safetensors")
    artifact = read(tmp_path / "table.safetensors")
    for name, tensor in quantizer.to("cpu").state().items():
        assert torch.equal(artifact.quantizer.state()[name], tensor), name


@pytest.mark.slow
def test_weighted_fit(weighted_method, elsewhere):
    case = weighted_method.first
    table = far_table(case, elsewhere)
    quantizer = case.cls(case.config).fit(table, weights=table.counts)
    assert {tensor.device for tensor in quantizer.state().values()} == {elsewhere}


def test_encode(code_case, fitted, elsewhere):
    quantizer = fitted(code_case).to(elsewhere)
    vectors = code_case.table("realistic").vectors[:20].to(elsewhere)
    packed = quantizer.encode(vectors)
    assert packed.device == elsewhere
    assert quantizer.decode(packed).device == elsewhere
    assert quantizer.codes(torch.arange(3, device=elsewhere)).device == elsewhere


def test_training(case, fitted, elsewhere):
    table = far_table(case, elsewhere)
    module = copy.deepcopy(fitted(case, name_of_table(case))).to(elsewhere).training_module(table, seed=1)
    parameters = [parameter for parameter in module.parameters() if parameter.numel()]
    ids = torch.arange(0, table.num_embeddings, 5, device=elsewhere)
    module.set_progress(0.5)
    rows = module(ids)
    assert rows.device == elsewhere
    loss = rows.square().mean() + module.regularizer()
    if parameters:
        loss.backward()
        assert any(parameter.grad is not None for parameter in parameters)
        assert {parameter.device for parameter in parameters} == {elsewhere}
    assert module.harden().to_dense().device == elsewhere
