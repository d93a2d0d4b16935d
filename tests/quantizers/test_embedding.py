import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from quantizers import CompressedEmbedding, Table, create, load

VECTORS = torch.tensor([[1.0, 2.0], [0.5, -4.0], [3.0, 0.25]])


@pytest.fixture
def quantizer():
    return create("cast", dtype="float16").fit(Table(VECTORS, ["a", "b", "c"]))


def test_it_stands_in_for_an_embedding(quantizer):
    reference = nn.Embedding.from_pretrained(VECTORS)
    module = quantizer.module()
    for ids in (torch.tensor(2), torch.tensor([0, 2]), torch.tensor([[1], [1]]), torch.zeros((2, 0), dtype=torch.int64)):
        assert torch.equal(module(ids), reference(ids))
    assert (module.num_embeddings, module.embedding_dim) == (reference.num_embeddings, reference.embedding_dim)
    network = nn.Sequential(module, nn.Linear(2, 1))
    assert network(torch.tensor([0, 1])).shape == (2, 1)
    assert module.words == ["a", "b", "c"]
    assert repr(module) == "CompressedEmbedding(3, 2, method=cast, payload_bytes=12)"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_type_of_ids(quantizer, dtype):
    # A uint8 tensor used as an index would be taken for a mask.
    assert torch.equal(quantizer.module()(torch.tensor([2, 0, 1], dtype=dtype)), VECTORS[[2, 0, 1]])


@pytest.mark.parametrize("ids", [[3], [-1], [0, 7, 1]])
def test_ids_out_of_range(quantizer, ids):
    with pytest.raises(IndexError, match=r"ids must be in \[0, 3\); found"):
        quantizer.module()(torch.tensor(ids))


@pytest.mark.parametrize("ids", [torch.tensor([True, False, True]), torch.tensor([1.0])])
def test_ids_that_are_no_integers(quantizer, ids):
    with pytest.raises(TypeError, match="ids must be integers"):
        quantizer.module()(ids)


def test_moves_to_another_type_keep_what_is_stored(quantizer):
    module = quantizer.module()
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        assert module.to(dtype)(torch.tensor([1])).dtype == dtype
        assert module.vectors.dtype == torch.float16
        assert module.payload_bytes == module.quantizer.payload_bytes == 12
    module.half()
    assert pickle.loads(pickle.dumps(module))(torch.tensor([1])).dtype == torch.float16
    assert module.to_dense().dtype == torch.float32


def test_trained_in_float32_and_stored_as_before(quantizer):
    module = CompressedEmbedding(quantizer, trainable=True)
    assert module.vectors.dtype == torch.float32
    assert module.payload_bytes == 12
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(torch.tensor([0, 0])).sum().backward()
    optimizer.step()  # row 0 has gradient 2 in both columns
    assert module(torch.tensor([0])).tolist() == [[0.0, 1.0]]
    hard = module.harden()
    assert hard.state()["vectors"].dtype == torch.float16
    assert hard.payload_bytes == 12
    assert hard.to_dense().tolist() == [[0.0, 1.0], [0.5, -4.0], [3.0, 0.25]]
    assert hard.words == ["a", "b", "c"]
    assert torch.equal(quantizer.to_dense(), VECTORS)


def test_trained_values_beyond_the_stored_type_become_its_largest(quantizer):
    module = CompressedEmbedding(quantizer, trainable=True)
    with torch.no_grad():
        module.vectors[0] = torch.tensor([1e6, -1e6])
    assert module.harden().to_dense()[0].tolist() == [65_504.0, -65_504.0]


def test_hardening_is_a_copy(quantizer):
    module = CompressedEmbedding(quantizer, trainable=True)
    hard = module.harden()
    with torch.no_grad():
        module.vectors.zero_()
    assert torch.equal(hard.to_dense(), VECTORS)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_loaded_state_is_what_forward_uses(quantizer, assign, trainable):
    other = create("cast", dtype="float16").fit(torch.zeros(3, 2))
    module = CompressedEmbedding(other, trainable=trainable)
    state = {
        name: tensor.clone() for name, tensor in CompressedEmbedding(quantizer, trainable=trainable).state_dict().items()
    }
    module.load_state_dict(state, assign=assign)
    assert torch.equal(module(torch.arange(3)), VECTORS)
    assert torch.equal(module.to_dense(), VECTORS)


def test_loading_inside_a_network(quantizer):
    network = nn.Sequential(create("cast", dtype="float16").fit(torch.zeros(3, 2)).module(), nn.Linear(2, 2))
    donor = nn.Sequential(quantizer.module(), nn.Linear(2, 2))
    network.load_state_dict(donor.state_dict(), assign=True)
    assert torch.equal(network[0](torch.arange(3)), VECTORS)
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict(nn.Sequential(create("cast").fit(torch.zeros(4, 2)).module(), nn.Linear(2, 2)).state_dict())


def test_only_the_state_is_in_the_state_dict(quantizer):
    assert list(quantizer.module().state_dict()) == ["vectors"]
    assert not list(quantizer.module().parameters())
    assert [name for name, _ in CompressedEmbedding(quantizer, trainable=True).named_parameters()] == ["vectors"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_train_apart(quantizer, copied):
    module = CompressedEmbedding(quantizer, trainable=True)
    other = copied(module)
    with torch.no_grad():
        other.vectors.zero_()
    assert torch.equal(module(torch.arange(3)), VECTORS)
    assert not other(torch.arange(3)).any()
    assert not other.harden().to_dense().any()
    assert other.words == module.words


def test_default_hooks_for_training(quantizer):
    module = quantizer.module()
    assert float(module.regularizer()) == 0
    module.set_progress(0.5)
    assert torch.equal(module.harden().to_dense(), VECTORS)


STORED = sorted((Path(__file__).parents[2] / "reader/python/tests/data").glob("*.safetensors"))
IDS = torch.tensor([[0, 7, 39], [3, 3, 1]])


def compiled(module):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="eager")


FEW = ("adacomp-01", "pruned-index", "rq-16", "transform_entropy-24")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.thorough if file.stem in FEW else pytest.mark.slow) for file in STORED],
    ids=lambda file: file.stem,
)
def test_every_method_is_compiled_and_exported_whole(file):
    module = load(file)
    network = compiled(module)
    assert torch.equal(network(IDS), module(IDS))
    assert torch.equal(network(IDS[:, :2]), module(IDS[:, :2]))
    auto = torch.export.Dim.AUTO
    program = torch.export.export(module, (IDS,), dynamic_shapes=({0: auto, 1: auto},))
    assert torch.equal(program.module()(IDS[:1, 1:]), module(IDS[:1, 1:]))


def stored(name):
    return load(next(file for file in STORED if file.stem == name))


@pytest.mark.thorough
def test_compiled_look_ups_check_their_ids():
    network = compiled(stored("hashed-1"))
    with pytest.raises(IndexError, match=r"ids must be in \[0, 40\); found 3 to 40"):
        network(torch.tensor([3, 40]))


@pytest.mark.thorough
def test_a_compiled_table_sees_what_is_loaded_into_it():
    first, second = stored("pq-5"), stored("pq-5")
    second.codebooks.mul_(2)
    network = compiled(first)
    assert torch.equal(network(IDS), first(IDS))
    first.load_state_dict(second.state_dict())
    assert torch.equal(network(IDS), second(IDS)) and not torch.equal(second(IDS), stored("pq-5")(IDS))
    assert set(first.state_dict()) == {"codes", "codebooks"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rq-int8", "adacomp-01", "lowrank-8"])
def test_codebooks_are_trained_compiled_as_they_are_otherwise(name):
    gradients = []
    for wrap in (lambda module: module, compiled):
        module = CompressedEmbedding(stored(name).quantizer, trainable=True)
        wrap(module)(IDS).square().sum().backward()
        gradients.append({name: one.grad for name, one in module.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 0
    for key, one in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], one)


@pytest.mark.thorough
def test_an_exported_program_can_be_saved(tmp_path):
    module = stored("adacomp-01")
    torch.export.save(torch.export.export(module, (IDS,)), tmp_path / "program.pt2")
    assert torch.equal(torch.export.load(tmp_path / "program.pt2").module()(IDS), module(IDS))


def test_the_padding_row_is_zero(quantizer):
    module = CompressedEmbedding(quantizer, trainable=True)
    for padding in (1, -2):
        module.padding_idx = padding
        rows = module(torch.tensor([[0, 1], [1, 2]]))
        assert torch.equal(rows[0, 1], torch.zeros(2)) and torch.equal(rows[0, 0], VECTORS[0])
        assert torch.equal(module.weight[1], torch.zeros(2))
        module.zero_grad()
        rows.sum().backward()
        assert torch.equal(module.vectors.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert torch.equal(module.to_dense(), VECTORS)  # the table is as it was


def test_a_tied_output_reads_the_weight(quantizer):
    module = CompressedEmbedding(quantizer, trainable=True)
    scores = nn.functional.linear(torch.tensor([[1.0, 0.0]]), module.weight)
    assert torch.equal(scores, VECTORS[None, :, 0])
    scores[0, 2].backward()
    assert torch.equal(module.vectors.grad, torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    assert module.half().weight.dtype == torch.float16
    assert not quantizer.module().weight.requires_grad


def test_rows_by_word(quantizer):
    module = quantizer.module()
    assert torch.equal(module["b"], VECTORS[1]) and torch.equal(module[2], VECTORS[2])
    assert torch.equal(module[["c", "a"]], VECTORS[[2, 0]]) and torch.equal(module[[1, 1]], VECTORS[[1, 1]])
    assert "a" in module and "d" not in module and len(list(module)) == 3
    with pytest.raises(KeyError, match="'d' is no word of the table"):
        module["d"]
    with pytest.raises(IndexError, match="found 3"):
        module[3]
    with pytest.raises(KeyError, match="has no words"):
        stored("identity-without-words")["dog"]
    assert torch.equal(stored("pq-5")["dog"], stored("pq-5").to_dense()[0])  # of two rows the first
    assert torch.equal(pickle.loads(pickle.dumps(module))["b"], VECTORS[1])
