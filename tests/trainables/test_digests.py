"""Which code a result depends on: its key changes with that code, and with no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import quantizers
from sweeps.spec.prepare import task_key
from trainables import provenance
from trainables.records import trial_code_digest
from trainables.registry import make_task, tasks

IMDB, SST = "trainables.corpora.imdb", "trainables.corpora.sst"


@pytest.fixture
def commented(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a comment to a module, as far as digests see."""
    source, changed = provenance._source, set[str]()

    def read(module: str) -> bytes | None:
        found = source(module)
        return found + b"# a comment\n" if found and module in changed else found

    def comment(module: str) -> None:
        assert source(module)
        changed.add(module)

    monkeypatch.setattr(provenance, "_source", read)
    return comment


@pytest.fixture
def task_keys(corpora: Path) -> Callable[[], dict[str, str]]:
    """The keys of the tasks that read a corpus."""
    reviews = [f"a {kind} film,{kind}" for kind in ("positive", "negative") * 4]
    (corpora / "imdb").mkdir(exist_ok=True)
    (corpora / "imdb" / "reviews.csv").write_text("\n".join(["review,sentiment", *reviews]) + "\n")

    def keys() -> dict[str, str]:
        entries = ("sentiment", {"task": "sentiment", "dataset": "imdb"}, "chunking", "entailment")
        return {task.label: task_key(task) for task in (make_task(entry, corpora) for entry in entries)}

    return keys


def test_a_trial_depends_on_no_task_corpus_or_network() -> None:
    modules = provenance.covered((quantizers.get("pq").__module__, "trainables.trial"))
    assert {name for name in modules if name.startswith("trainables.")} == {
        "trainables.baselines",
        "trainables.books",
        "trainables.leading",
        "trainables.lexicon",
        "trainables.memory",
        "trainables.provenance",
        "trainables.reconstruction",
        "trainables.records",
        "trainables.task",
        "trainables.trial",
    }
    assert {name for name in modules if name.startswith("quantizers.methods.")} == {"quantizers.methods.pq"}
    assert {"quantizers.artifact", "quantizers.base", "quantizers.coding.bits", "quantizers.fitting.kmeans"} < set(modules)


@pytest.mark.parametrize("name", sorted(tasks()))
def test_a_task_depends_on_no_other_task_and_no_method(name: str) -> None:
    modules = provenance.covered((tasks()[name].__module__,))
    own = tasks()[name].__module__
    package = own.rpartition(".")[0]  # of a task that is a package, its other files are the task's too
    others = [found for found in modules if found.startswith("trainables.tasks.") and found != own]
    assert all(found.startswith(f"{package}.") and package != "trainables.tasks" for found in others)
    assert not [found for found in modules if found.startswith("quantizers.methods.")]
    assert "trainables.trial" not in modules


def test_a_task_depends_on_the_corpus_it_reads_and_no_other(
    task_keys: Callable[[], dict[str, str]], commented: Callable[[str], None]
) -> None:
    before, trial = task_keys(), trial_code_digest("pq")
    commented(IMDB)
    after = task_keys()
    assert [label for label in before if before[label] != after[label]] == ["sentiment_imdb"]
    assert trial_code_digest("pq") == trial
    commented(SST)
    assert [label for label in before if after[label] != task_keys()[label]] == ["sentiment"]


@pytest.mark.parametrize("module", ["course", "training", "sequence", "vocabulary", "trained_task"])
def test_a_trained_task_depends_on_how_it_is_trained(
    module: str, task_keys: Callable[[], dict[str, str]], commented: Callable[[str], None]
) -> None:
    before, trial = task_keys(), trial_code_digest("pq")
    commented(f"trainables.networks.{module}")
    after = task_keys()
    assert all(before[label] != after[label] for label in before)
    assert trial_code_digest("pq") == trial


def test_a_trial_depends_on_its_own_method_alone(commented: Callable[[str], None]) -> None:
    before = {method: trial_code_digest(method) for method in ("pq", "scalar", "tt")}
    commented("quantizers.methods.tt")
    assert [method for method in before if trial_code_digest(method) != before[method]] == ["tt"]
