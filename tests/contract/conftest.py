"""What the contract suite runs over: every registered method, its examples, and a few small tables.

Each parameter's id begins with the method's name, so that `pytest tests/contract -k NAME` runs one method, and all of a
method's tests share an xdist group, so that a fit is done once. A case is fitted on the usual table twice: once while
everything around it is watched (``observed``), once more to see that the same comes out (``repeated``).
What a method refuses is a skip.
"""

import contextlib
import dataclasses
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import quantizers
from quantizers import Budget, CodeQuantizer, FitStep, Quantizer, QuantizerConfig, Skip, Table, TableStats
from quantizers.fitting.checkpoint import Saver, saved_by

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
FEW_EDGES = ("constant", "one_row", "outlier")  # what `make test-fast` keeps


def _id(cls: type[Quantizer], device: str) -> str:
    return cls.name if device == "cpu" else f"{cls.name}-{device}"


def _parameter(value: Case | Method, name: str, *more: pytest.MarkDecorator) -> Any:
    marks = [pytest.mark.xdist_group(value.cls.name)] + ([pytest.mark.cuda] if value.device == "cuda" else [])
    return pytest.param(value, id=name, marks=[*marks, *more])


# What a test asks for by the name of its argument: cases or methods, all or some.
APPLIES: dict[str, Callable[[type[Quantizer]], bool]] = {
    "case": lambda cls: True,
    "code_case": lambda cls: issubclass(cls, CodeQuantizer),
    "method": lambda cls: True,
    "code_method": lambda cls: issubclass(cls, CodeQuantizer),
    "iterative_case": lambda cls: cls.iterative,
    "iterative_method": lambda cls: cls.iterative,
    "sampled_case": lambda cls: cls.learns_on_sample,
    "weighted_method": lambda cls: cls.uses_weights,
    "device_case": lambda cls: True,  # on devices that are not the CPU: what would compare the CPU with itself is left out
}


# Tests that take seconds for these methods.
SLOW_FOR = {
    "trellis": {
        "test_edge_tables",
        "test_fit",
        "test_more_bytes_never_rebuild_worse",
        "test_proposals_are_within_their_budget",
        "test_proposals_for_edge_tables",
        "test_same_seed_same_state_and_no_memory_of_an_earlier_fit",
        "test_tables_at_the_edges",
        "test_training",
        "test_weighted_fit",
        "test_weights",
    },
    "transform_entropy": {"test_fit", "test_proposals_for_edge_tables"},
    "adacomp": {
        "test_more_bytes_never_rebuild_worse",
        "test_proposals_are_within_their_budget",
        "test_proposals_for_edge_tables",
    },
    "bin": {"test_proposals_are_within_their_budget"},
    "lsq": {"test_more_bytes_never_rebuild_worse", "test_proposals_are_within_their_budget"},
    "dccl": {"test_more_bytes_never_rebuild_worse", "test_proposals_are_within_their_budget"},
    "dpq": {"test_more_bytes_never_rebuild_worse", "test_proposals_are_within_their_budget"},
}
# Their search looks far ahead, so that one example is enough while one works.
ONE_EXAMPLE = ("trellis", "transform_entropy")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # What is left out of faster runs beside the first example of each method.
    later = pytest.mark.slow if metafunc.definition.get_closest_marker("one_example") else pytest.mark.thorough
    # What codebooks are stored in is nothing to the others, which have it in `make test-long`.
    stores = metafunc.module.__name__.endswith(("test_storage", "test_codes", "test_javascript"))
    # The page's reader knows the methods of this project alone.
    ours = metafunc.module.__name__.endswith("test_javascript")
    for argument in APPLIES.keys() & set(metafunc.fixturenames):
        parameters = []
        devices = [device for device in DEVICES if argument != "device_case" or device != "cpu"]
        for cls in quantizers.list_methods().values():
            if ours and not cls.__module__.startswith("quantizers."):
                continue
            slow = [pytest.mark.slow] if metafunc.function.__name__ in SLOW_FOR.get(cls.name, ()) else []
            for device in devices if APPLIES[argument](cls) else []:
                if argument.endswith("method"):
                    parameters.append(_parameter(Method(cls, device), _id(cls, device), *slow))
                    continue
                for number, config in enumerate(cls.examples()):
                    name = f"{_id(cls, device)}-{number}"
                    int8 = getattr(config, "codebook_dtype", None) == "int8" and not stores
                    rest = [pytest.mark.slow if cls.name in ONE_EXAMPLE or int8 else later] if number else []
                    marks = [*slow, *rest]
                    parameters.append(_parameter(Case(cls, config, device), name, *marks))
        if "edge" not in metafunc.fixturenames:
            metafunc.parametrize(argument, parameters)
            continue
        pairs = []
        for (value,), marks, name in parameters:
            first = not any(mark.name in ("thorough", "slow") for mark in marks)
            for edge in EDGES:
                # Every example on a few tables, and every table with the first example: all pairs are in `make test-long`.
                rest = [] if edge in FEW_EDGES else [pytest.mark.thorough if first else pytest.mark.slow]
                pairs.append(pytest.param(value, edge, id=f"{name}-{edge}", marks=[*marks, *rest]))
        metafunc.parametrize((argument, "edge"), pairs)


class CountingSaver(Saver):
    """Is asked to save after every step, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.saves = 0

    def load(self, name: str) -> dict[str, Any] | None:
        return None

    def save(self, name: str, state: dict[str, Any]) -> None:
        self.saves += 1


@contextlib.contextmanager
def gradients() -> Iterator[list[str]]:
    """What was done along a gradient inside, by name: backward passes through torch, and steps of its optimizers."""
    seen: list[str] = []
    patch = pytest.MonkeyPatch()

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return original(*args, **options)

        return call

    patch.setattr(torch.autograd, "backward", watched("backward", torch.autograd.backward))
    patch.setattr(torch.autograd, "grad", watched("grad", torch.autograd.grad))
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append("step"))
    try:
        yield seen
    finally:
        handle.remove()
        patch.undo()


@contextlib.contextmanager
def pretended_threads(count: int) -> Iterator[None]:
    """torch says that it has ``count`` threads, or as many as it was told to have since; sums stay as they were."""
    now = [count]
    patch = pytest.MonkeyPatch()
    patch.setattr(torch, "get_num_threads", lambda: now[0])
    patch.setattr(torch, "set_num_threads", lambda number: now.__setitem__(0, number))
    try:
        yield
    finally:
        patch.undo()


def settings_and_random_numbers() -> dict[str, Any]:
    """What a whole program shares, and a fit has to leave as it was."""
    generator = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (generator[1].tobytes(), generator[2]),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@dataclasses.dataclass(frozen=True)
class Observation:
    """A fit with seed 0, and what was seen of it.

    Attributes:
        quantizer: the fit. Not to be changed: ``copy.deepcopy`` it first.
        table: what it was fitted on, and ``vectors`` a copy from before.
        steps: its reports.
        changed: settings that were not as before, with the step at which that was seen.
        saves: how often it offered a checkpoint.
        gradients: what it did along a gradient.
    """

    quantizer: Quantizer
    table: Table
    vectors: Tensor
    steps: list[FitStep]
    changed: list[str]
    saves: int
    gradients: list[str]


def observe(quantizer: Quantizer, table: Table, *, budget: Budget | None = None) -> Observation:
    """Fit ``quantizer`` with seed 0, watching what it does to everything around it."""
    vectors, steps, changed, saver = table.vectors.clone(), [], [], CountingSaver()
    with pretended_threads(3), gradients() as seen, saved_by(saver):  # 3: a number that no method would choose
        before = settings_and_random_numbers()

        def compare(when: str) -> None:
            during = settings_and_random_numbers()
            changed.extend(f"{name} {when}" for name in before if during[name] != before[name])

        for step in quantizer.fit_steps(table, seed=0, budget=budget):
            steps.append(step)
            compare(f"at {step.phase!r} {step.fraction}")
        compare("after the fit")
    return Observation(quantizer, table, vectors, steps, changed, saver.saves, seen)


Fit = Callable[..., Quantizer]


@pytest.fixture(scope="session")
def observed() -> Iterator[Callable[..., Observation]]:
    """``observed(case, table, budget)``: fitted once a session, with seed 0."""
    done: dict[tuple[Any, ...], tuple[Observation, int]] = {}

    def fit(case: Case, table: str = "realistic", budget: Budget | None = None) -> Observation:
        key = (case.cls.name, case.config.model_dump_json(), case.device, table, budget)
        if key not in done:
            seen = observe(case.cls(case.config), case.table(table), budget=budget)
            done[key] = seen, fingerprint(seen.quantizer)
        return done[key][0]

    yield fit
    for key, (seen, before) in done.items():
        assert fingerprint(seen.quantizer) == before, f"a test changed the cached fit {key}"


@pytest.fixture(scope="session")
def fitted(observed: Callable[..., Observation]) -> Fit:
    """``fitted(case, table, budget)``: the quantizer of ``observed``. Not to be changed: ``copy.deepcopy`` it first."""
    return lambda *about, **options: observed(*about, **options).quantizer


@pytest.fixture(scope="session")
def repeated() -> Fit:
    """``repeated(case)``: the fit of ``observed`` once more, by a quantizer that has fitted another table before.

    It is alone this time: nothing watches or saves it, and torch's own random numbers are others.
    """
    done: dict[tuple[Any, ...], Quantizer] = {}

    def fit(case: Case) -> Quantizer:
        key = (case.cls.name, case.config.model_dump_json(), case.device)
        if key not in done:
            quantizer = case.cls(case.config)
            quantizer.fit(case.table("two_rows" if case.check(case.table("two_rows")) is None else "small"))
            torch.manual_seed(99)
            done[key] = quantizer.fit(case.table("realistic"), seed=0)
        return done[key]

    return fit


@pytest.fixture(scope="session")
def observe_fit() -> Callable[..., Observation]:
    """``observe_fit(quantizer, table)``: for methods that are not registered."""
    return observe


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
