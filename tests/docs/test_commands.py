"""What the documentation says to type: every command is there with its options, and is run on small tables.

Pages are the README, CONTRIBUTING.md, the reader's README and docs/*.md; docs/results/ is a record of what was run.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from safetensors.torch import save_file
from typer.testing import Result

from analysis import store
from sweeps.commands import application
from sweeps.spec.config import SweepConfig, load_all
from sweeps.spec.prepare import wrong_names
from trainables.registry import make_task
from trainables.tables.formats import read_table
from trainables.tables.writing import write_table

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "reader/python/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_UsageError = typer.BadParameter.__base__  # of the click that typer carries
_SPAN = re.compile(r"`([^`\n]+)`")

# Programs that are not ours, and options of them that pages name: why no test types them.
OTHERS = {
    "make": "installs, or runs the tests",
    "pip": "installs: tests/packaging",
    "source": "of the shell",
    "git": "gets this repository",
    "cd": "of the shell",
    "ray": "needs machines: tests/cluster",
    "$EDITOR": "is for people",
    "ssh": "needs machines: tests/cluster",
    "kubectl": "needs Kubernetes",
    "export": "of the shell",
    "cp": "tests/test_templates.py copies the templates",
    "python": "runs the tests",
}
OTHER_OPTIONS = {
    "--app-name": "mlflow server",
    "--allowed-hosts": "mlflow server",
    "--signal": "sbatch",
}
# Commands that are parsed and not run, by their beginning.
NOT_RUN = {
    "frontier submit": "needs a cluster: tests/cluster",
    "frontier ui": "is a server: tests/sweeps/test_commands.py",
}
# What is typed in addition, so that a command takes seconds. The longest beginning counts.
MORE = {
    "frontier run my-sweep.yaml --address": "--dry-run",
    "frontier run my-sweep.yaml": "--set seeds=[0] --set budgets.compression_ratio=[4,8]",
    "frontier run search": "--dry-run",
    "frontier run ptb": "--dry-run",
    "frontier run glove100": "--dry-run",
    "frontier run adacomp-": "--data DIR --dry-run",
    "frontier train language_model": "--set epochs=1 --set hidden_size=8 --set embedding_dim=8",
    "frontier train language_model --evaluate": "",
    "frontier train sentiment": "--set epochs=1",
}
# A command with words in capitals for what a reader puts there is a form, and not run, apart from these.
GIVEN = {"DIR": "DIR", "KEY": "KEY", "NAME": "pq"}


@dataclasses.dataclass(frozen=True)
class Typed:
    """One command of a page; ``inline`` where it stands in a sentence."""

    page: Path
    text: str
    inline: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text}"


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def typed(page: Path) -> Iterator[Typed]:
    """The commands of a page's shell blocks, and those of ``frontier`` in its sentences."""
    for block in blocks(page, "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
                if part:
                    yield Typed(page, part.removesuffix(" '&'"), inline=False)
    prose = _FENCE.sub("", page.read_text(encoding="utf-8")).replace("\n", " ")
    for span in _SPAN.findall(prose):
        if span.startswith("frontier ") and "|" not in span:
            yield Typed(page, span, inline=True)


ALL = [command for page in PAGES for command in typed(page)]


@pytest.fixture(scope="module")
def program() -> Any:
    """The command line as its parser has it; ``commands`` are those of a group."""
    return typer.main.get_command(application())


def leaf(program: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that some words name, and the words behind it."""
    command, words = program, words[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def problem(program: Any, words: list[str], *, whole: bool = True) -> str | None:
    """What is wrong with a command; ``whole``: it has all that it needs."""
    try:
        found, rest = leaf(program, words)
        given, _, _ = found.make_parser(found.context_class(found)).parse_args(rest)
    except (AssertionError, _UsageError) as error:
        return str(error) or type(error).__name__
    missing = [str(one.name) for one in found.params if one.required and one.name not in given]
    return f"without {', '.join(missing)}" if missing and whole else None


def test_pages_have_commands() -> None:
    assert len(ALL) > 60 and len({command.page for command in ALL}) > 8


def test_every_command_is_there_with_its_options(program: Any) -> None:
    wrong = []
    for command in ALL:
        words = command.words
        if words[0] != "frontier":
            if not any(words[0].endswith(name) or "=" in words[0] for name in OTHERS):
                wrong.append(f"{command}: neither ours nor listed in OTHERS")
            continue
        if found := problem(program, words, whole=not command.inline):
            wrong.append(f"{command}: {found}")
    assert wrong == []


def test_every_help_has_examples_that_are_right(program: Any) -> None:
    def look(command: Any, name: str) -> list[str]:
        if hasattr(command, "commands"):
            return [line for key, inner in command.commands.items() for line in look(inner, f"{name} {key}")]
        title, *examples = (command.epilog or "").split("\n\n")
        if title not in ("Example:", "Examples:") or not any(one.startswith(name) for one in examples):
            return [f"{name}: no example"]
        return [f"{one}: {found}" for one in examples if (found := problem(program, shlex.split(one)))]

    assert look(program, "frontier") == []
    assert problem(program, ["frontier", "run", "--dry"]) and problem(program, ["frontier", "runs"])


def test_every_option_that_is_named_is_there(program: Any) -> None:
    known = {"--help", "--version", *OTHER_OPTIONS}

    def add(command: Any) -> None:
        known.update(option for one in command.params for option in one.opts)
        for inner in getattr(command, "commands", {}).values():
            add(inner)

    add(program)
    wrong = []
    for page in PAGES:
        for span in _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8")).replace("\n", " ")):
            option = re.match(r"--[a-z][a-z-]+", span)
            if option and option[0] not in known:
                wrong.append(f"{page.relative_to(ROOT)}: {span}")
    assert wrong == []


def test_every_sample_of_yaml_is_right(tmp_path: Path) -> None:
    """A whole sweep, keys of one, or the settings of a language model."""
    minimal = {"name": "s", "table": "t", "quantizers": ["pq"], "budgets": {"compression_ratio": [8]}}
    seen = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            text = block.replace("NAME.METRIC", "neighbours.recall_at_10").replace("NAME", "neighbours")
            keys = yaml.safe_load(text)
            seen += 1
            if not set(keys) <= set(SweepConfig.model_fields):
                make_task({"task": "language_model", **keys})
                continue
            changed = {**minimal, **keys}
            if "low:" in text:
                changed["search"] = {"kind": "random", "samples": 3}
            file = tmp_path / "s.yaml"
            file.write_text(text if {"name", "table", "quantizers"} <= set(keys) else yaml.safe_dump(changed))
            assert load_all(str(file), further=wrong_names), page
    assert seen > 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_corpora: Callable[[Path], Path]) -> Path:
    """A folder with what the pages' commands read, by the names that they give it; runs only as they are committed."""
    place = tmp_path_factory.mktemp("place")
    data = write_corpora(place / "DIR")
    table = read_table("builtin:glove-10k-50d")
    write_table(table, place / "my-table.txt")
    for name in ("glove.txt", "glove.6B.100d.txt", "vectors.txt"):
        shutil.copy(place / "my-table.txt", place / name)
    for dim in (50, 100, 200, 300):
        shutil.copy(place / "my-table.txt", data / f"glove.6B.{dim}d.txt")
    import pyarrow as pa
    import pyarrow.parquet

    rows = pa.array(list(table.vectors.numpy()), pa.list_(pa.float32()))
    pyarrow.parquet.write_table(pa.table({"word": table.words, "vector": rows}), place / "vectors.parquet")
    (place / "model").mkdir()
    save_file({"model.embed_tokens.weight": table.vectors[:100].clone()}, place / "model" / "model.safetensors")
    (place / "model" / "vocab.txt").write_text("".join(f"{word}\n" for word in (table.words or ())[:100]))
    (sweep,) = (block for block in blocks(ROOT / "docs/sweep-file.md", "yaml") if block.startswith("name: my-table"))
    (place / "my-sweep.yaml").write_text(sweep)
    basis = next(block for block in blocks(ROOT / "docs/language-models.md", "yaml") if block.startswith("optimizer"))
    (place / "lm.yaml").write_text(basis)
    (block,) = blocks(ROOT / "docs/writing-a-task.md", "yaml")
    (place / "try.yaml").write_text(block.replace("NAME.METRIC", "neighbours.recall_at_10").replace("NAME", "neighbours"))
    for run in (ROOT / "docs/results/adacomp").glob("adacomp-table2-*"):
        shutil.copytree(run, place / "runs" / run.name)
    return place


@pytest.fixture(scope="module")
def with_runs(
    place: Path, warm_ray: Path, frontier: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same with the run of the sweep file in the documentation, as it stands."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("with") / "runs"
    shutil.copytree(place, folder)
    patch.chdir(folder)
    done = frontier("run", "my-sweep.yaml", "--data", "DIR")
    patch.undo()
    assert done.exit_code == 0, done.output
    (folder / "said").write_text(done.output)
    shutil.copytree(folder / "runs/my-table", folder / "runs/quick")
    return folder


@pytest.mark.slow
@pytest.mark.ray
def test_the_sweep_file_of_the_documentation_yields_a_frontier(with_runs: Path) -> None:
    run = with_runs / "runs/my-table"
    statuses = store.read_trials(run)["status"].to_pylist()
    assert statuses.count("ok") > len(statuses) / 2
    frontier = store.read_frontier(run).to_pylist()
    assert len({row["config_json"] for row in frontier if row["on_frontier"] and row["quantizer"] != "identity"}) >= 3
    said = (with_runs / "said").read_text()
    assert "Pick: " in said and "Next: frontier export " in said


def runnable(command: Typed) -> bool:
    """Whether a test types it: not another program's, not listed, not a form."""
    if command.words[0] != "frontier" or any(command.text.startswith(start) for start in NOT_RUN):
        return False
    words = [word for word in command.words[2:] if not word.startswith("-")]
    form = any(re.fullmatch(r"[A-Z][A-Z_.]*", word) and word not in GIVEN for word in words)
    whole = not command.inline or len(command.words) > 2
    return whole and not form and "..." not in command.text


TO_RUN = {page: [command for command in ALL if command.page == page and runnable(command)] for page in PAGES}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if TO_RUN[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(
    page: Path,
    place: Path,
    with_runs: Path,
    tmp_path: Path,
    frontier: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the order of the page, in one folder: what one writes the next reads."""
    here = tmp_path / "here"
    begins = any(command.text.startswith("frontier init") for command in TO_RUN[page])
    shutil.copytree(place if begins else with_runs, here)
    if begins:
        (here / "my-sweep.yaml").unlink()  # it is what frontier init writes
    elif page.name != "README.md":
        _compress(here / "small.safetensors", frontier, here)
    monkeypatch.chdir(here)
    for command in TO_RUN[page]:
        for target in _outputs(command.words):
            _remove(Path(target))
        done = frontier(*_completed(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
    for name, block in enumerate(_snippets(page)):
        exec(compile(block, f"{page.name}, snippet {name}", "exec"), {})


def _compress(file: Path, frontier: Callable[..., Result], here: Path) -> None:
    done = frontier("compress", here / "my-table.txt", "--method", "pq", "--ratio", 32, "-o", file)
    assert done.exit_code == 0, done.output


def _snippets(page: Path) -> list[str]:
    """Python of a page that reads what its commands wrote."""
    missing = [name for name in ("sentence_transformers",) if importlib.util.find_spec(name) is None]
    found = [block for block in blocks(page, "python") if "class " not in block]
    return [block for block in found if not any(name in block for name in missing)]


def _completed(command: Typed) -> list[str]:
    """The words of a command as a test types them."""
    longest = max((start for start in MORE if command.text.startswith(start)), key=len, default="")
    words: list[str] = []
    for word in [*command.words, *shlex.split(MORE.get(longest, ""))]:
        if word == "KEY":
            word = _key()
        words += sorted(glob.glob(word)) if "*" in word else [GIVEN.get(word, word)]
    return words


def _key() -> str:
    rows: list[dict[str, Any]] = store.read_trials(Path("runs/my-table")).to_pylist()
    return str(next(row["trial_key"] for row in rows if row["status"] == "ok" and row["quantizer"] == "rq"))


def _outputs(words: list[str]) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-o"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_what_is_not_run_says_why() -> None:
    """Every entry of the lists above is of use, and most commands of ours are run."""
    texts = [command.text for command in ALL]
    for start in (*NOT_RUN, *(start for start in MORE if start.startswith("frontier"))):
        assert any(text.startswith(start) for text in texts), start
    ours = [command for command in ALL if command.words[0] == "frontier" and not command.inline]
    left = [str(command) for command in ours if not runnable(command)]
    assert all(any(f": {start}" in text for start in NOT_RUN) for text in left), left
    assert len(ours) - len(left) > 20
