"""Optimisers, parameter groups and learning-rate schedules."""

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import nn

from cifar_lightning.training.optim import build_optimizer, build_schedule, orthogonalise


def rates(name: str, steps: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = build_schedule(optimizer, name, total_steps=steps, warmup=warmup)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay_does_not_apply_to_norms_and_biases(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimizer = build_optimizer(network, name, lr=0.1, weight_decay=0.5, momentum=0.9)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for key, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.5 if key in ("0.weight", "2.weight") else 0.0)


def test_frozen_weights_are_left_out() -> None:
    network = nn.Linear(2, 2)
    network.weight.requires_grad = False
    optimizer = build_optimizer(network, "sgd", lr=0.1, weight_decay=0.1, momentum=0.0)
    assert [p is network.bias for group in optimizer.param_groups for p in group["params"]] == [True]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
def test_optimizers_learn(name: str) -> None:
    torch.manual_seed(0)
    network, x = nn.Linear(4, 1), torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    optimizer = build_optimizer(network, name, lr=0.05, weight_decay=0.0, momentum=0.9, sgd_lr=0.05, sgd_momentum=0.9)
    for _ in range(200):
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_a_group_that_is_added_keeps_its_rate() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), "adamw", lr=0.1, weight_decay=0.3, momentum=0.0)
    schedule = build_schedule(optimizer, "linear", total_steps=4, warmup=0.0)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.01})
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.01])
    assert optimizer.param_groups[-1]["weight_decay"] == 0.3


def test_the_shapes_of_the_schedules() -> None:
    assert rates("constant", 4, 0.0) == [2.0] * 5
    assert rates("linear", 4, 0.0) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates("linear", 6, 1 / 3) == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates("cosine", 2, 0.0) == pytest.approx([2.0, 1.0, 0.0])
    assert rates("onecycle", 4, 0.5) == pytest.approx([0.08, 1.04, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "onecycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.9])
def test_rates_stay_between_0_and_the_peak(name: str, steps: int, warmup: float) -> None:
    seen = rates(name, steps, warmup)
    assert all(math.isfinite(rate) and 0 <= rate <= 2.0 for rate in seen)
    assert seen[0] > 0


def test_muon_orthogonalises_convolutions_and_uses_sgd_for_the_rest() -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
    network = nn.Sequential(conv, nn.Flatten(), head)
    optimizer = build_optimizer(network, "muon", lr=0.1, weight_decay=0.5, momentum=0.0, sgd_lr=0.3, sgd_momentum=0.9)
    plain_conv, plain_head = copy.deepcopy(conv), copy.deepcopy(head)
    rest = [plain_conv.bias, plain_head.weight, plain_head.bias]
    sgd = torch.optim.SGD(cast(Any, rest), lr=0.3, momentum=0.9, weight_decay=0.5, nesterov=True)
    for _ in range(3):
        before = conv.weight.detach().clone()
        plain_conv.weight.data.copy_(before)
        for first, last, opt in [(conv, head, optimizer), (plain_conv, plain_head, sgd)]:
            opt.zero_grad()
            images = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(1))
            last(first(images).flatten(1)).square().mean().backward()
            opt.step()
        move = (conv.weight - before * 8**0.5 / before.norm()).detach().flatten(1) / 0.1
        values = torch.linalg.svdvals(move)
        assert 0.3 < values[1] <= values[0] < 1.6  # The gradient of two logits has rank 2.
        assert values[2:].max() < 1e-3
    for one, other in [(conv.bias, plain_conv.bias), (head.weight, plain_head.weight), (head.bias, plain_head.bias)]:
        torch.testing.assert_close(one, other)


def test_muon_can_train_linear_layers_but_for_the_last() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 2))

    def orthogonal(linear: bool) -> set[str]:
        optimizer = build_optimizer(
            network, "muon", lr=0.1, weight_decay=0.0, momentum=0.6, sgd_lr=0.1, sgd_momentum=0.9, muon_linear=linear
        )
        trained = {id(p) for group in optimizer.param_groups if group["orthogonal"] for p in group["params"]}
        return {name for name, p in network.named_parameters() if id(p) in trained}

    assert orthogonal(linear=False) == {"0.weight"}
    assert orthogonal(linear=True) == {"0.weight", "2.weight", "3.weight"}


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (16, 16)])
def test_orthogonalise_keeps_the_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalise(matrix, steps=5)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ made @ right.T
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-3
    assert inner.diagonal().min() > 0.5


def test_the_training_of_a_group_can_end_early() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].bias_lr_ends = 0.5  # type: ignore[assignment]
    optimizer = build_optimizer(network, "sgd", lr=2.0, weight_decay=0.0, momentum=0.0)
    rates = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    early, rest = rates[id(network[0].bias)], rates[id(network[1].bias)]
    schedule = build_schedule(optimizer, "linear", total_steps=4, warmup=0.0)
    seen = []
    for _ in range(5):
        seen.append((early["lr"], rest["lr"]))
        optimizer.step()
        schedule.step()
    assert seen == [(2.0, 2.0), (1.0, 1.5), (0.0, 1.0), (0.0, 0.5), (0.0, 0.0)]


def test_a_backbone_can_learn_more_slowly() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    factors = dict.fromkeys(network[0].parameters(), 0.1)
    optimizer = build_optimizer(network, "adamw", lr=2.0, weight_decay=0.5, momentum=0.0, lr_factors=factors)
    schedule = build_schedule(optimizer, "linear", total_steps=2, warmup=0.0)
    for factor in (1.0, 0.5):
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert [rates[id(p)] for p in network[0].parameters()] == pytest.approx([0.2 * factor] * 2)
        assert [rates[id(p)] for p in network[1].parameters()] == pytest.approx([2.0 * factor] * 2)
        optimizer.step()
        schedule.step()


def test_unknown_names() -> None:
    with pytest.raises(KeyError):
        build_optimizer(nn.Linear(1, 1), "lion", lr=1, weight_decay=0, momentum=0)
    with pytest.raises(KeyError):
        rates("step", 2, 0.0)
