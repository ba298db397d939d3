"""Optimisers and learning-rate schedules by name, in pure torch."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.sgd import sgd


class Muon(Optimizer):
    """Momentum with orthogonalised updates for filters; Nesterov SGD for what is no filter.

    Each step a filter bank, seen as a matrix (out, in · height · width), is scaled to a norm of √out, and moves by
    lr times its momentum with all singular values brought near to 1. Sources: Keller Jordan et al.,
    https://kellerjordan.github.io/posts/muon/ and, for the scaling, https://github.com/KellerJordan/cifar10-airbench.

    Args:
        params: Parameter groups with the keys ``orthogonal`` (bool), ``lr`` and ``momentum``, and ``weight_decay`` if
            they are not orthogonal.
        fused: Whether one kernel does a whole step of SGD.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, fused: bool = True) -> None:
        super().__init__(params, {"fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step; ``closure`` computes the loss and the gradients, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for param in params:
                if not self.state[param]:
                    self.state[param]["momentum_buffer"] = torch.zeros_like(param)
            grads = [cast(Tensor, param.grad) for param in params]
            momenta = [self.state[param]["momentum_buffer"] for param in params]
            if not params:
                continue
            if not group["orthogonal"]:
                sgd(
                    params, grads, momenta, fused=group["fused"], lr=group["lr"], momentum=group["momentum"],
                    weight_decay=group["weight_decay"], dampening=0, nesterov=True, maximize=False,
                )  # fmt: skip
                continue
            for param, grad, momentum in zip(params, grads, momenta, strict=True):
                momentum.mul_(group["momentum"]).add_(grad)
                update = orthogonalise(grad.add(momentum, alpha=group["momentum"]).flatten(1)).view_as(param)
                param.mul_(len(param) ** 0.5 / param.norm().clamp_min(1e-12)).add_(update, alpha=-group["lr"])
        return loss


def orthogonalise(matrix: Tensor, steps: int = 3) -> Tensor:
    """Brings the singular values of a matrix (M, N) near to 1, between about 0.5 and 1.5.

    Newton and Schulz' iteration with the coefficients of https://kellerjordan.github.io/posts/muon/.
    """
    # half precision is enough, but slower where the hardware has none
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x.div(x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = x.mul(3.4445) + (gram.mul(-4.7750) + gram.mul(2.0315) @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    sgd_lr: float = 0.0,
    sgd_momentum: float = 0.0,
    lr_factors: Mapping[nn.Parameter, float] | None = None,
    fused: bool = True,
) -> Optimizer:
    """Builds an optimiser.

    A module's attribute ``bias_lr_ends`` says in which part of the training its bias is to be trained.

    Args:
        model: The network to train.
        name: "adam", "adamw", "sgd" (with Nesterov momentum), or "muon" (for convolutions, beside Nesterov SGD for
            all else).
        lr: Peak learning rate, > 0.
        weight_decay: Decay of the weights, >= 0: decoupled for adamw, part of the gradient for the others. It spares
            biases and the scales of normalisation layers; with muon it is for these and the head, not for filters.
        momentum: Momentum of sgd and muon, in [0, 1); ignored by the others.
        sgd_lr: Peak learning rate of the SGD beside Muon, > 0.
        sgd_momentum: Momentum of the SGD beside Muon, in [0, 1).
        lr_factors: What the peak rate of some parameters is multiplied by, such as those of a pretrained backbone.
        fused: Whether one kernel does a whole step.

    Raises:
        KeyError: If the name is unknown.
    """
    ends = {m.bias: m.bias_lr_ends for m in model.modules() if hasattr(m, "bias_lr_ends")}
    groups: list[dict[str, Any]] = []
    for p in model.parameters():
        if not p.requires_grad:
            continue
        factor = (lr_factors or {}).get(p, 1.0)
        settings: dict[str, Any] = {"lr_ends": ends.get(p, 1.0), "lr_factor": factor, "lr": lr * factor}
        if name != "muon":
            # two groups also where neither decays: a resumed run may have another decay
            settings |= {"decays": p.ndim > 1, "weight_decay": weight_decay if p.ndim > 1 else 0.0}
        elif p.ndim == 4:
            settings |= {"orthogonal": True, "momentum": momentum}
        else:
            settings |= {"orthogonal": False, "momentum": sgd_momentum, "weight_decay": weight_decay}
            settings["lr"] = sgd_lr * factor
        same = next((group for group in groups if settings.items() <= group.items()), None)
        if same is None:
            groups.append(same := {"params": [], **settings})
        same["params"].append(p)
    # what a group has that is added later, as when a backbone is unfrozen
    builders: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay, fused=fused),
        "adamw": lambda: torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused),
        "sgd": lambda: torch.optim.SGD(
            groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=fused
        ),
        "muon": lambda: Muon(groups, fused=fused),
    }
    optimizer = builders[name]()
    optimizer.register_load_state_dict_pre_hook(_check_state)
    return optimizer


def _check_state(optimizer: Optimizer, loaded: dict[str, Any]) -> None:
    """Refuse a state that is not of this optimizer: torch checks the numbers of groups and parameters alone.

    Fused steps read whatever memory is behind a tensor that is smaller than its parameter.

    Raises:
        ValueError: If a value is of another type, or a tensor of another shape.
    """
    for own, group in zip(optimizer.param_groups, loaded["param_groups"], strict=False):
        for name in own.keys() - {"params"}:
            usual = own[name]
            # a switch that is missing comes from an earlier torch, which fills it in
            value = group.get(name, usual if isinstance(usual, bool) else None)
            if not _alike(value, None if name in ("fused", "foreach") else usual):
                raise ValueError(f"{name} is {value!r}, where it was {usual!r}")
    params = [param for group in optimizer.param_groups for param in group["params"]]
    kinds = {frozenset((name, value is None) for name, value in values.items()) for values in loaded["state"].values()}
    if len(kinds) > 1:
        raise ValueError("parameters have states of several kinds")
    for number, values in loaded["state"].items():
        for name, value in values.items():
            if value is not None and not (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and value.layout is torch.strided
                and not value.is_meta
                and value.shape in (torch.Size(), params[number].shape)
            ):
                raise ValueError(f"{name} of parameter {number} is no tensor of its shape")


def _alike(value: object, usual: object) -> bool:
    if isinstance(usual, tuple):
        return (
            isinstance(value, tuple | list)
            and len(value) == len(usual)
            and all(_alike(one, other) for one, other in zip(value, usual, strict=True))
        )
    if usual is None or isinstance(usual, bool):
        return isinstance(value, bool) or (value is None and usual is None)
    return type(value) in (int, float) and math.isfinite(cast(float, value))


class Schedule(LambdaLR):
    """Leaves the rates of groups alone that are added to the optimiser later, where torch would fail."""

    def get_lr(self) -> list[float | Tensor]:
        """Returns the next rate of each group."""
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*super().get_lr(), *(group["lr"] for group in added)]


def build_schedule(optimizer: Optimizer, name: str, *, total_steps: int, warmup: float) -> LRScheduler:
    """Builds a learning-rate schedule that is stepped once an optimiser step.

    Args:
        optimizer: The optimiser whose rate is scheduled. A group that says ``lr_ends`` goes through the schedule in
            that part of the training, and keeps a rate of 0 from then on.
        name: "constant", "linear" (to 0), "cosine" (to 0), each after a linear warm-up, or "onecycle": along a
            cosine from 1/25 of the peak up and down to 0 (https://arxiv.org/abs/1708.07120, without its cycle of
            the momentum).
        total_steps: Length of the training in optimiser steps, >= 1.
        warmup: The part of the training during which the rate rises, in [0, 1).

    Raises:
        KeyError: If the name is unknown.
    """
    decay: Callable[[float], float] = {
        "constant": lambda t: 1.0,
        "linear": lambda t: 1 - t,
        "cosine": _cosine,
        "onecycle": _cosine,
    }[name]

    def factor(step: int, total: int) -> float:
        warmup_steps = round(warmup * total)
        if step >= warmup_steps:
            return decay(min(1.0, (step - warmup_steps) / max(1, total - warmup_steps)))
        if name == "onecycle":
            return 1 - 24 / 25 * _cosine(step / warmup_steps)
        return (step + 1) / warmup_steps

    def factor_of(group: dict[str, Any]) -> Callable[[int], float]:
        ends = group.get("lr_ends", 1.0)
        total = max(1, round(ends * total_steps))
        return lambda step: 0.0 if ends < 1 and step >= total else factor(step, total)

    return Schedule(optimizer, [factor_of(group) for group in optimizer.param_groups])


def _cosine(t: float) -> float:
    """Falls from 1 to 0 as t goes from 0 to 1."""
    return (1 + math.cos(math.pi * t)) / 2
