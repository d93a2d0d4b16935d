"""Networks, batches and training against single texts, torch's own layers, and counts by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import quantizers
from quantizers import CompressedEmbedding, InputError, Table
from quantizers.base import generator
from trainables.networks.batches import batches, encode
from trainables.networks.scoring import predict, sensitivity
from trainables.networks.sequence import SequenceNetwork, task_loss
from trainables.networks.training import train
from trainables.registry import make_task
from trainables.tables.formats import read_table

SETTINGS = SimpleNamespace(
    epochs=4, patience=9, batch_size=8, learning_rate=0.01, decay=1.0, average=0.9, clip_norm=5.0, precision="float32"
)


def network(per_token: bool = False, bidirectional: bool = False, dropout: float = 0.0, seed: int = 0) -> SequenceNetwork:
    return SequenceNetwork(
        6, 5, 2, 3, dropout=dropout, bidirectional=bidirectional, per_token=per_token, generator=generator(seed)
    )


def some_texts(count: int = 30, per_token: bool = False) -> Any:
    random = np.random.default_rng(1)
    texts = [[str(word) for word in random.integers(0, 20, random.integers(1, 9))] for _ in range(count)]
    targets = [[int(word) % 3 for word in text] if per_token else int(text[0]) % 3 for text in texts]
    return encode(texts, targets, int, 100)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(per_token: bool, bidirectional: bool) -> None:
    net = network(per_token, bidirectional).eval()
    lengths = torch.tensor([2, 7, 1])
    vectors = torch.randn(3, 7, 6, generator=generator(1))
    together = net(vectors, lengths)
    for text, length in enumerate(lengths.tolist()):
        alone = net(vectors[text : text + 1, :length], lengths[text : text + 1])
        seen = together[text, :length] if per_token else together[text]
        torch.testing.assert_close(seen, alone[0])


def test_both_directions_are_torchs_lstm() -> None:
    net = network(per_token=True, bidirectional=True).eval()
    theirs = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    for layer in range(2):
        for suffix, own in (("", net.forwards[layer]), ("_reverse", net.backwards[layer])):
            for name, values in own.state_dict().items():
                theirs.get_parameter(name.replace("l0", f"l{layer}{suffix}")).data.copy_(values)
    vectors = torch.randn(2, 9, 6, generator=generator(1))
    expected = net.output(theirs(vectors)[0])
    torch.testing.assert_close(net(vectors, torch.tensor([9, 9])), expected)


def test_batches_hold_every_text_once() -> None:
    data = some_texts(150, per_token=True)
    seen = []
    for batch in batches(data, 4, generator=generator(3), per_token=True):
        assert batch.ids.shape == batch.targets.shape == (len(batch.lengths), int(batch.lengths.max()))
        for ids, length, targets in zip(batch.ids.tolist(), batch.lengths.tolist(), batch.targets.tolist(), strict=True):
            assert targets[length:] == [-100] * (len(ids) - length)
            assert targets[:length] == [word % 3 for word in ids[:length]]
            seen.append(tuple(ids[:length]))
    bounds = zip(data.starts[:-1], data.starts[1:], strict=True)
    assert sorted(seen) == sorted(tuple(data.ids[start:stop].tolist()) for start, stop in bounds)
    orders = [[b.ids.tolist() for b in batches(data, 4, generator=generator(seed))] for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]
    padding = [float((b.lengths.max() - b.lengths).sum()) for b in batches(data, 4, generator=generator(3))]
    assert sum(padding) < 0.1 * len(data.ids)


def test_texts_are_cut_and_an_empty_one_is_one_unknown_word() -> None:
    rows = {"a": 0, "b": 1}
    data = encode([["a", "b", "a"], [], ["c"]], [0, 1, 2], lambda word: rows.get(word, 2), 2)
    assert data.ids.tolist() == [0, 1, 2, 2]
    assert data.lengths.tolist() == [2, 1, 1]


@pytest.mark.parametrize("per_token", [False, True])
def test_sensitivity_is_the_sum_of_squared_gradients_of_each_text(per_token: bool) -> None:
    net, data = network(per_token).eval(), some_texts(12, per_token)
    table = torch.randn(20, 6, generator=generator(2))
    felt, moment = torch.zeros(20), torch.zeros(6, 6)
    for batch in batches(data, 1, per_token=per_token):
        vectors = table[batch.ids].requires_grad_()
        loss = task_loss(net(vectors, batch.lengths), batch.targets) * (int(batch.lengths) if per_token else 1)
        (gradient,) = torch.autograd.grad(loss, vectors)
        for word, row in zip(batch.ids[0].tolist(), gradient[0], strict=True):
            felt[word] += row.square().sum()
            moment += torch.outer(row, row)
    torch.testing.assert_close(sensitivity(table, net, data), (felt, moment))


# The training loop ---------------------------------------------------------------------------------------------------


def run_training(dev: list[float] | None = None, report: Any = lambda step: None, **options: Any) -> tuple[Any, Any, Any]:
    data, net = some_texts(40), network(dropout=0.3)
    given = options.pop("embedding", None)
    embedding = given or nn.Embedding(20, 6, _weight=torch.randn(20, 6, generator=generator(5)))
    scores = iter(dev or ())

    def measure() -> float:
        if dev is not None:
            return next(scores)
        return sum(int((classes == batch.targets).sum()) for batch, classes in predict(embedding, net, data)) / len(data)

    settings = SimpleNamespace(**{**vars(SETTINGS), **options.pop("settings", {})})
    trained = train(
        {"input": embedding},
        net,
        net.epoch(data, settings.batch_size),
        measure,
        settings,
        seed=1,
        report=report,
        phase="task",
        **options,
    )
    return trained, embedding, net


def test_it_learns_repeats_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, embedding, net = run_training(settings={"epochs": 25, "learning_rate": 0.03})
    assert torch.equal(torch.rand(3), expected)
    assert first.dev > 0.8
    again, embedding2, net2 = run_training(settings={"epochs": 25, "learning_rate": 0.03})
    assert again == first
    assert torch.equal(embedding.weight, embedding2.weight)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), net2.parameters(), strict=True))


def test_patience_ends_it_and_the_best_weights_stay() -> None:
    weights: list[torch.Tensor] = []
    trained, embedding, _ = run_training(dev=[0.1, 0.5, 0.4, 0.3, 0.9], settings={"epochs": 9, "patience": 2})
    assert (trained.dev, trained.epochs, trained.stopped) == (0.5, 4, False)
    weights.append(embedding.weight.detach().clone())
    _, embedding, _ = run_training(dev=[0.1, 0.5], settings={"epochs": 9}, epochs=2)
    assert torch.equal(weights[0], embedding.weight)


def test_optimizer_plateau_and_reports_within_an_epoch() -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    told: list[Any] = []
    run_training(
        dev=[0.5, 0.4, 0.6, 0.6],
        report=told.append,
        make_optimizer=lambda parameters, rate: Watched(parameters, lr=rate),
        plateau=0.5,
        log_interval=2,
        learning_rate=0.08,
    )
    assert rates[::5] == [0.08, 0.08, 0.04, 0.04] and rates[::5] == rates[4::5]
    assert [round(step.fraction * 20) for step in told] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]
    assert [("dev" in step.metrics) for step in told] == [False, False, True] * 4


class Annealed(CompressedEmbedding):
    """Anneals over the first half of a training, and learns at a rate of its own."""

    def __init__(self, scale: float = 1.0) -> None:
        fitted = quantizers.create("lowrank", rank=3).fit(torch.randn(20, 6, generator=generator(5)))
        super().__init__(fitted, trainable=True)
        self.progress, self.scale = 0.0, scale

    def set_progress(self, fraction: float) -> None:
        self.progress = fraction

    @property
    def annealing(self) -> bool:
        return self.progress < 0.5

    def rate_scales(self) -> dict[nn.Parameter, float]:
        return dict.fromkeys(self.parameters(), self.scale)


def test_epochs_in_which_an_embedding_anneals_do_not_count() -> None:
    trained, *_ = run_training(dev=[0.9, 0.8, 0.7, 0.1, 0.3, 0.2], embedding=Annealed(), epochs=6, patience=2)
    assert (trained.dev, trained.epochs) == (0.3, 6)  # epochs 1 to 3 are annealed, whatever they score
    again, *_ = run_training(dev=[0.5, 0.9, 0.8, 0.7, 0.4, 0.6, 0.2], embedding=Annealed(), epochs=6, keep_start=True)
    assert again.dev == 0.6  # the start had 0.5
    stopped, *_ = run_training(dev=[0.9, 0.8], embedding=Annealed(), epochs=6, report=interrupt)
    assert (stopped.dev, stopped.epochs, stopped.stopped) == (0.8, 1, True)


def interrupt(step: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 1e-3, 1.0), (1e-6, 0.0, 1e-6)])
def test_parameters_with_a_rate_of_their_own(scale: float, least: float, most: float) -> None:
    embedding = Annealed(scale)
    before = [parameter.detach().clone() for parameter in embedding.parameters()]
    run_training(embedding=embedding, epochs=1)
    moved = max(float((one - other.detach()).abs().max()) for one, other in zip(before, embedding.parameters(), strict=True))
    assert least < moved < most


def test_the_start_is_kept_where_no_epoch_is_better() -> None:
    trained, embedding, _ = run_training(dev=[0.6, 0.5, 0.6], epochs=2, keep_start=True)
    assert trained.dev == 0.6
    assert torch.equal(embedding.weight, torch.randn(20, 6, generator=generator(5)))


def test_the_learning_rate_rises_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, closure: Any = None) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    run_training(settings={"epochs": 2, "decay": 0.5, "learning_rate": 0.1}, warm_up=7)  # 5 batches an epoch
    assert rates == pytest.approx([*(0.1 * step / 7 for step in range(1, 6)), 0.05 * 6 / 7, 0.05, 0.05, 0.05, 0.05])


def test_a_stop_keeps_what_is_best_so_far() -> None:
    def report(step: Any) -> None:
        if step.fraction == 0.5:
            raise KeyboardInterrupt

    trained, embedding, _ = run_training(dev=[0.3, 0.2], report=report)
    assert (trained.dev, trained.epochs, trained.stopped) == (0.3, 2, True)
    _, first, _ = run_training(dev=[0.3], epochs=1)
    assert torch.equal(embedding.weight, first.weight)


def test_a_network_that_is_held_stays_as_it_is() -> None:
    before = network().state_dict()
    _, embedding, net = run_training(train_network=False)
    assert all(torch.equal(before[name], values) for name, values in net.state_dict().items())
    assert not torch.equal(embedding.weight, torch.randn(20, 6, generator=generator(5)))


# Tasks ---------------------------------------------------------------------------------------------------------------


def chunks_of_conlleval(tags: list[str]) -> set[tuple[int, int, str]]:
    """Chunks as the shared task's script finds them: a chunk ends or begins where prefix or type says so."""
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        if kind and (prefix in "BO" or own != kind):
            found.add((start, place, kind))
            kind = ""
        if own and not kind:
            start, kind = place, own
    return found


TAGS = ("B-NP", "B-VP", "I-NP", "I-VP", "O")


@given(st.lists(st.lists(st.tuples(*2 * [st.integers(0, 4)]), min_size=1, max_size=8), min_size=1, max_size=4))
def test_f1_is_what_conlleval_counts(pairs: list[list[tuple[int, int]]]) -> None:
    truth = [[own for own, _ in text] for text in pairs]
    guess = [[other for _, other in text] for text in pairs]
    right = wrong = 0
    for own, other in zip(truth, guess, strict=True):
        gold, found = (chunks_of_conlleval([TAGS[index] for index in side]) for side in (own, other))
        right += 2 * len(gold & found)
        wrong += len(gold) + len(found)
    task = make_task("chunking")
    assert task.measure(truth, guess, TAGS) == pytest.approx(right / wrong if wrong else 0.0)


def small(name: str, corpora: Any, **settings: Any) -> Any:
    quick = {"hidden_size": 16, "epochs": 3, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.1, "average": 0.9}
    return make_task({"task": name, **quick, **settings}, corpora)


def test_vocabulary_and_words_without_a_vector(corpora: Any) -> None:
    table = read_table("builtin:glove-10k-50d")
    task = small("sentiment", corpora)
    own = task.task_table(table)
    assert set(own.words) <= {*table.words, "<unk>"} and own.words[-1] == "<unk>"
    assert "zzqx" not in own.words
    torch.testing.assert_close(own.vectors[-1], own.vectors[:-1].mean(dim=0))
    row = {word: index for index, word in enumerate(table.words)}
    assert all(torch.equal(own.vectors[i], table.vectors[row[word]]) for i, word in enumerate(own.words[:-1]))
    texts = task.splits().train.tokens
    assert float(own.counts[own.words.index("the")]) == sum(text.count("the") for text in texts)
    assert float(own.counts[-1]) == sum(text.count("zzqx") for text in texts)
    again = task.vocabulary(own)  # the same task in its own table
    assert again.rows.tolist() == list(range(len(own.words))) and again.unknown == len(own.words) - 1
    assert again.oov_words == task.vocabulary(table).oov_words == 1
    assert all(np.array_equal(again.texts[s].ids, task.vocabulary(table).texts[s].ids) for s in ("train", "dev", "test"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["sentiment", *(pytest.param(name, marks=pytest.mark.slow) for name in ("chunking", "entailment"))]
)
def test_a_finetuned_baseline_learns_its_task(name: str, corpora: Any) -> None:
    task = small(name, corpora, epochs=25, patience=25, train_texts=240)
    table = task.task_table(read_table("builtin:glove-10k-50d"))
    baseline = task.baseline(table, seed=0, finetune=True)
    assert baseline.scores[task.main_metric].value > 0.9
    rows = torch.tensor(baseline.arrays["table"])
    assert not torch.equal(rows, table.vectors)
    net = task.trained_network(baseline)
    assert task.test({"input": rows}, net, task.vocabulary(table)) == baseline.scores
    assert task.test({"input": torch.zeros_like(rows)}, net, task.vocabulary(table))[task.main_metric].value < 0.7
    frozen = task.baseline(table, seed=0)
    assert np.array_equal(frozen.arrays["table"], table.vectors.numpy())


def test_row_weights_follow_what_the_task_feels(corpora: Any) -> None:
    table = read_table("builtin:glove-10k-50d")
    task = small("sentiment", corpora, epochs=2)
    baseline = task.baseline(table, seed=0)
    weights = task.fisher_weights(table, baseline)["input"]
    row = {word: index for index, word in enumerate(table.words)}
    assert weights.shape == (table.num_embeddings,) and float(weights.min()) > 0
    felt = baseline.arrays["felt.input"]
    occurrence = felt.sum() / sum(len(text) for text in task.splits().train.tokens)
    place = task.task_table(table).words.index("terrible")
    assert float(weights[row["terrible"]]) == pytest.approx(felt[place] + occurrence) and felt[place] > 0
    own = task.fisher_weights(task.task_table(table), baseline)["input"]
    assert len(own) == len(felt) and own[place] == weights[row["terrible"]]
    assert weights[row["berlin"]] == weights.min()  # not a word of the task


def test_tables_without_words_and_data_that_is_missing(corpora: Any, tmp_path: Any) -> None:
    task = make_task("sentiment", corpora)
    assert "no words" in task.check(Table(torch.ones(3, 2))).reason
    assert "no word of its texts" in task.check(Table(torch.ones(1, 2), ["berlin"])).reason
    with pytest.raises(InputError, match="imdb"):
        make_task({"task": "sentiment", "dataset": "imdb"}, corpora).check(Table(torch.ones(1, 2), ["berlin"]))
    with pytest.raises(InputError, match="learning_rates.*learning_rate"):
        make_task({"task": "sentiment", "learning_rates": 1}, corpora)


def test_row_weights_of_a_table_with_one_other_word(corpora: Any) -> None:
    """As many rows as the task has, and yet not the task's: the other word in the place of the row for unknown words."""
    table = read_table("builtin:glove-10k-50d")
    task = small("sentiment", corpora, epochs=1)
    own = task.task_table(table)
    other = Table(own.vectors, ["berlin", *own.words[:-1]])
    baseline = task.baseline(other, seed=0)
    assert len(baseline.arrays["felt.input"]) == other.num_embeddings
    weights = task.fisher_weights(other, baseline)["input"]
    assert weights[0] == weights.min() and weights[1] > weights[0]
