"""What the contract suite runs over: every registered method, its examples, and a few small tables.

Each parameter's id begins with the method's name, so that `pytest tests/contract -k NAME` runs one method, and all of a
method's tests share an xdist group, so that a fit is done once.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import quantizers
from quantizers import Budget, CodeQuantizer, Quantizer, QuantizerConfig, Skip, Table, TableStats

RATIOS = (1, 2, 4, 8, 16, 32)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@dataclasses.dataclass(frozen=True)
class Case:
    """A method on a device, and one of its configurations."""

    cls: type[Quantizer]
    config: QuantizerConfig
    device: str

    def table(self, name: str) -> Table:
        return TABLES[name]().to(self.device)

    def check(self, table: Table) -> Skip | None:
        return self.cls.check(self.config, table.shape)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method on a device."""

    cls: type[Quantizer]
    device: str

    @property
    def examples(self) -> list[Case]:
        return [Case(self.cls, config, self.device) for config in self.cls.examples()]

    @property
    def first(self) -> Case:
        return self.examples[0]

    def table(self, name: str) -> Table:
        return TABLES[name]().to(self.device)

    def proposals(self, table: Table) -> list[tuple[Budget, Case]]:
        """Everything that the method proposes at the usual ratios, for each budget the recommended one first."""
        stats = TableStats.of(table)
        found = []
        for ratio in RATIOS:
            budget = Budget.from_ratio(ratio, table.shape)
            proposed = self.cls.configs_for(budget, stats)
            if not isinstance(proposed, Skip):
                found += [(budget, Case(self.cls, config, self.device)) for config in proposed]
        return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def realistic() -> Table:
    """512 x 16: clusters, a decaying spectrum, a mean, and words: what embedding tables look like."""
    rows, dim = 512, 16
    centres = normal(24, dim, seed=1)
    which = torch.randint(24, (rows,), generator=torch.Generator().manual_seed(2))
    spectrum = 0.85 ** torch.arange(dim)
    rotation, _ = torch.linalg.qr(normal(dim, dim, seed=3))
    vectors = 0.4 * ((centres[which] + 0.5 * normal(rows, dim, seed=4)) * spectrum) @ rotation + 0.1 * normal(dim, seed=5)
    return Table(vectors, [f"word{row}" for row in range(rows)], counts=1000 / torch.arange(1.0, rows + 1))


def zero_columns() -> Table:
    vectors = normal(32, 8)
    vectors[:, ::2] = 0
    return Table(vectors)


TABLES: dict[str, Callable[[], Table]] = {
    "realistic": realistic,
    "small": lambda: realistic().head(128),
    "constant": lambda: Table(torch.full((32, 8), 0.75)),
    "zero": lambda: Table(torch.zeros(32, 8)),
    "same_rows": lambda: Table(normal(1, 8).repeat(32, 1)),
    "zero_columns": zero_columns,
    "one_row": lambda: Table(normal(1, 8)),
    "two_rows": lambda: Table(normal(2, 8)),
    "one_column": lambda: Table(normal(32, 1)),
    "one_value": lambda: Table(torch.tensor([[0.5]])),
    "huge": lambda: Table(normal(32, 8) * 1e30),
    "tiny": lambda: Table(normal(32, 8) * 1e-30),
    "outlier": lambda: Table(torch.cat([normal(31, 8), torch.full((1, 8), 1e6)])),
}
EDGES = [name for name in TABLES if name not in ("realistic", "small")]


def _id(cls: type[Quantizer], device: str) -> str:
    return cls.name if device == "cpu" else f"{cls.name}-{device}"


def _parameter(value: Case | Method, name: str) -> Any:
    marks = [pytest.mark.xdist_group(value.cls.name)] + ([pytest.mark.cuda] if value.device == "cuda" else [])
    return pytest.param(value, id=name, marks=marks)


# What a test asks for by the name of its argument: cases or methods, all or some.
APPLIES: dict[str, Callable[[type[Quantizer]], bool]] = {
    "case": lambda cls: True,
    "code_case": lambda cls: issubclass(cls, CodeQuantizer),
    "method": lambda cls: True,
    "code_method": lambda cls: issubclass(cls, CodeQuantizer),
    "iterative_case": lambda cls: cls.iterative,
    "iterative_method": lambda cls: cls.iterative,
    "weighted_method": lambda cls: cls.uses_weights,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument in APPLIES.keys() & set(metafunc.fixturenames):
        parameters = []
        for cls in quantizers.list_methods().values():
            for device in DEVICES if APPLIES[argument](cls) else []:
                if argument.endswith("method"):
                    parameters.append(_parameter(Method(cls, device), _id(cls, device)))
                    continue
                for number, config in enumerate(cls.examples()):
                    parameters.append(_parameter(Case(cls, config, device), f"{_id(cls, device)}-{number}"))
        metafunc.parametrize(argument, parameters)
    if "edge" in metafunc.fixturenames:
        metafunc.parametrize("edge", EDGES)


Fit = Callable[..., Quantizer]


@pytest.fixture(scope="session")
def fitted() -> Iterator[Fit]:
    """``fitted(case, table, budget)``: fitted once a session, with seed 0. Not to be changed: ``copy.deepcopy`` it first."""
    done: dict[tuple[Any, ...], tuple[Quantizer, int]] = {}

    def fit(case: Case, table: str = "realistic", budget: Budget | None = None) -> Quantizer:
        key = (case.cls.name, case.config.model_dump_json(), case.device, table, budget)
        if key not in done:
            quantizer = case.cls(case.config).fit(case.table(table), budget=budget)
            done[key] = quantizer, fingerprint(quantizer)
        return done[key][0]

    yield fit
    for key, (quantizer, before) in done.items():
        assert fingerprint(quantizer) == before, f"a test changed the cached fit {key}"


def fingerprint(quantizer: Quantizer) -> int:
    value = 0
    for _, tensor in sorted(quantizer.state().items()):
        value = zlib.crc32(_bytes(tensor).numpy(), value)
    return value


@pytest.fixture
def same_state() -> Callable[[Quantizer, Quantizer], None]:
    """Asserts that two fits are the same, bit for bit (NaN included)."""

    def check(left: Quantizer, right: Quantizer) -> None:
        assert left.shape == right.shape
        one, other = left.state(), right.state()
        assert set(one) == set(other)
        for name in one:
            assert one[name].dtype == other[name].dtype, name
            assert one[name].shape == other[name].shape, name
            assert torch.equal(_bytes(one[name]), _bytes(other[name])), name

    return check


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture
def ids_of() -> Callable[[Quantizer], Tensor]:
    """A few ids of a table: first, last, some repeated, not in order."""

    def pick(quantizer: Quantizer) -> Tensor:
        count = quantizer.num_embeddings
        picked: Sequence[int] = [count - 1, 0, count // 2, 0, count // 3]
        return torch.tensor(picked, device=quantizer.device)

    return pick
