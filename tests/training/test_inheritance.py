from __future__ import annotations

import itertools
import pickle
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError
from detsearch.training.checkpoint import Checkpoint, CheckpointMeta, save_checkpoint
from detsearch.training.inheritance import Block, aligned, fitting, inherit

REST = "/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn"


def network(backbone: str, rest: str = REST, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(parse_network(backbone + rest), 3)


def saved(path: Path, weights: dict[str, Tensor], *, epoch: int = 5) -> Path:
    meta = CheckpointMeta(
        network="anything", input="64x64", classes=("a",), settings={}, seed=0, epoch=epoch, step=1, seconds=0.0
    )
    save_checkpoint(path, Checkpoint(meta, weights))
    return path


def same(network: nn.Module, other: nn.Module, names: dict[str, str]) -> bool:
    own, others = network.state_dict(), other.state_dict()
    return all(torch.equal(own[name], others[called]) for name, called in names.items())


def test_a_tensor_is_taken_where_name_and_shape_agree() -> None:
    own = {
        "a.weight": torch.zeros(2, 3),
        "a.bias": torch.zeros(2),
        "b.weight": torch.zeros(4, 2),
        "c.weight": torch.zeros(4),
        "d.steps": torch.tensor(0),
        "e.weight": torch.zeros(2),
    }
    others = {
        "a.weight": torch.ones(2, 3),
        "a.bias": torch.ones(3),  # another shape, of which no slice is taken
        "b.weight": torch.ones(4, 2, dtype=torch.float64),
        "c.weight": torch.ones(4).to_sparse(),
        "d.steps": torch.tensor(7),
        "f.weight": torch.ones(2),
    }
    assert fitting(own, others) == {"a.weight": "a.weight", "d.steps": "d.steps"}
    assert fitting(own, {}) == {}


def block(*shape: int) -> Block:
    return frozenset({("conv.weight", shape)})


A, B, C = block(2, 3), block(4, 4), block(5, 2)


@pytest.mark.parametrize(
    ("mine", "theirs", "pairs"),
    [
        ([A, B], [A, B], [(0, 0), (1, 1)]),
        ([A, C, B], [A, B], [(0, 0), (2, 1)]),  # one more in the middle
        ([A, B], [A, C, B], [(0, 0), (1, 2)]),  # one less
        ([C, A], [A, C], [(0, 1)]),  # crossing is no alignment: the one with more weights
        ([A, A, A], [A, A], [(0, 0), (1, 1)]),  # where any would do, the last is the new one
        ([A, A], [A, A, A], [(0, 0), (1, 1)]),
        ([A], [B], []),
        ([], [A], []),
    ],
)
def test_blocks_are_aligned(mine: list[Block], theirs: list[Block], pairs: list[tuple[int, int]]) -> None:
    assert aligned(mine, theirs) == pairs


sizes = st.integers(1, 3)
blocks = st.lists(st.builds(lambda a, b: frozenset({("a", (a,)), ("b", (b,))}), sizes, sizes), max_size=5)


@given(blocks, blocks)
def test_no_alignment_keeps_more(mine: list[Block], theirs: list[Block]) -> None:
    def kept(pairs: list[tuple[int, int]]) -> int:
        return sum(size for i, j in pairs for _, (size,) in mine[i] & theirs[j])

    found = aligned(mine, theirs)
    assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(found))
    assert kept(found) == max(
        kept(list(zip(chosen, others, strict=True)))
        for count in range(min(len(mine), len(theirs)) + 1)
        for chosen in itertools.combinations(range(len(mine)), count)
        for others in itertools.combinations(range(len(theirs)), count)
    )


CODES = st.builds(
    lambda kind, base, digits: f"{kind}_{base}_{'-'.join(digits)}",
    st.sampled_from(["basicblock", "bottleneck"]),
    st.sampled_from([4, 8]),
    st.lists(st.sampled_from(["1", "2", "11", "12", "21", "121"]), min_size=4, max_size=4),
)
HEADS = st.sampled_from([REST, "/fpn(levels=3-4-5,width=8)/fcos(depth=2)/bn", "/rpn/2fc(width=16)/gn_ws"])


@settings(max_examples=10)
@given(CODES, CODES, HEADS, HEADS)
def test_inherited_weights_fit_and_are_the_parents(
    tmp_path_factory: pytest.TempPathFactory, mine: str, theirs: str, head: str, other: str
) -> None:
    parent, child, fresh = network(theirs, other), network(mine, head, seed=1), network(mine, head, seed=1)
    taken = inherit(child, saved(tmp_path_factory.mktemp("parent") / "checkpoint.pt", parent.state_dict()))
    own, before = child.state_dict(), fresh.state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {k: v.shape for k, v in before.items()}
    names = fitting(before, parent.state_dict(), [f"backbone.layer{n}" for n in (1, 2, 3, 4)])
    assert same(child, parent, names)
    assert same(child, fresh, {name: name for name in own if name not in names})
    assert (taken.tensors, taken.of, taken.epochs) == (len(names), len(own), 5)
    assert len(set(names.values())) == len(names), "no tensor is taken twice"
    assert 0 <= taken.share <= 1
    parameters = dict(child.named_parameters())
    assert taken.share == pytest.approx(
        sum(p.numel() for name, p in parameters.items() if name in names) / sum(p.numel() for p in parameters.values())
    )
    if (mine, head) == (theirs, other):
        assert taken.share == 1


@pytest.mark.parametrize(
    ("mine", "theirs", "new"),
    [
        ("basicblock_4_1-2-211-21", "basicblock_4_1-2-21-21", {"backbone.layer3.2."}),
        ("basicblock_4_1-2-121-21", "basicblock_4_1-2-21-21", {"backbone.layer3.0."}),
        ("bottleneck_4_11-2-2-21", "bottleneck_4_1-2-2-21", {"backbone.layer1.1."}),
        ("basicblock_4_1-2-21-21", "basicblock_4_1-2-121-21", set()),
        ("basicblock_4_1-2-21-21", "basicblock_4_1-2-211-21", set()),
    ],
)
def test_one_block_more_or_less_keeps_all_others(tmp_path: Path, mine: str, theirs: str, new: set[str]) -> None:
    parent, child = network(theirs), network(mine, seed=1)
    inherit(child, saved(tmp_path / "checkpoint.pt", parent.state_dict()))
    own, fresh, other = (net.state_dict() for net in (child, network(mine, seed=1), network(mine, seed=2)))
    drawn = {name for name in fresh if not torch.equal(fresh[name], other[name])}  # not set to ones or zeros alike
    left = {name for name in drawn if torch.equal(own[name], fresh[name])}
    assert left == {name for name in drawn if name.startswith(tuple(new))} < drawn


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "torn", "pickle", "another", "nan", "infinite"])
def test_a_damaged_checkpoint_is_refused_and_nothing_taken(tmp_path: Path, kind: str) -> None:
    child = network("basicblock_4_1-2-2-2")
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    path = tmp_path / "checkpoint.pt"
    weights = network("basicblock_4_1-2-2-2", seed=3).state_dict()
    match kind:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "torn":
            whole = saved(tmp_path / "whole.pt", weights).read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "pickle":
            path.write_bytes(pickle.dumps(print))
        case "another":
            torch.save({"format": "detsearch checkpoint", "version": 1, "weights": weights}, path)
        case "nan" | "infinite":
            weights["head.class_logits.weight"][0, 0] = float("nan" if kind == "nan" else "inf")
            saved(path, weights)
    with pytest.raises(CheckpointError) as caught:
        inherit(child, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in child.state_dict().items())


def test_names_that_no_network_has_take_no_time(tmp_path: Path) -> None:
    hostile = {f"backbone.layer1.{number}.conv1.weight": torch.zeros(4, 4, 3, 3) for number in (10**9, 999, 7)}
    hostile |= {f"backbone.layer1.{text}.conv1.weight": torch.zeros(1) for text in ("00", "-1", "٣", "")}
    hostile |= {"backbone.layer1": torch.zeros(1), "": torch.zeros(1)}
    child = network("basicblock_4_1-2-2-2")
    began = time.process_time()
    taken = inherit(child, saved(tmp_path / "checkpoint.pt", hostile))
    assert time.process_time() - began < 5
    assert taken.tensors == 1, "the first block's first convolution is that of block 7"
    assert inherit(child, saved(tmp_path / "none.pt", {})).tensors == 0


def test_a_backbone_that_tells_no_stages_inherits_by_name(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self, *, depth: int) -> None:
            super().__init__()
            self.backbone = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))

    child = Plain(depth=3)
    taken = inherit(child, saved(tmp_path / "checkpoint.pt", Plain(depth=2).state_dict()))
    assert (taken.tensors, taken.of) == (4, 6)
