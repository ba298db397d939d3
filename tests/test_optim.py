import math

import pytest
import torch
from torch import nn

from cifar_lightning.optim import build_optimizer, build_schedule


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
def test_weight_decay_spares_norms_and_biases(name: str) -> None:
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


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimisers_learn(name: str) -> None:
    torch.manual_seed(0)
    network, x = nn.Linear(4, 1), torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    optimizer = build_optimizer(network, name, lr=0.05, weight_decay=0.0, momentum=0.9)
    for _ in range(200):
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_the_shapes_of_the_schedules() -> None:
    assert rates("constant", 4, 0.0) == [2.0] * 5
    assert rates("linear", 4, 0.0) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates("linear", 6, 1 / 3) == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates("cosine", 2, 0.0) == pytest.approx([2.0, 1.0, 0.0])
    assert rates("onecycle", 4, 0.5) == pytest.approx([0.08, 1.04, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "onecycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.9])
def test_rates_stay_between_nothing_and_the_peak(name: str, steps: int, warmup: float) -> None:
    seen = rates(name, steps, warmup)
    assert all(math.isfinite(rate) and 0 <= rate <= 2.0 for rate in seen)
    assert seen[0] > 0


def test_unknown_names() -> None:
    with pytest.raises(KeyError):
        build_optimizer(nn.Linear(1, 1), "lion", lr=1, weight_decay=0, momentum=0)
    with pytest.raises(KeyError):
        rates("step", 2, 0.0)
