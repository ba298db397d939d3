"""Optimisers and learning-rate schedules by name, in pure torch."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def build_optimizer(
    model: nn.Module, name: str, *, lr: float, weight_decay: float, momentum: float, fused: bool = True
) -> Optimizer:
    """Builds an optimiser whose weight decay spares biases and the scales of normalisation layers.

    Args:
        model: The network to train.
        name: "adam", "adamw" or "sgd" (with Nesterov momentum).
        lr: Peak learning rate, > 0.
        weight_decay: Decay of the weights, >= 0: decoupled for adamw, part of the gradient for the others.
        momentum: Momentum of sgd, in [0, 1); ignored by the others.
        fused: Whether one kernel does a whole step.

    Raises:
        KeyError: If the name is unknown.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    builders: dict[str, Callable[[Iterable[dict[str, Any]]], Optimizer]] = {
        "adam": lambda params: torch.optim.Adam(params, lr=lr, fused=fused),
        "adamw": lambda params: torch.optim.AdamW(params, lr=lr, fused=fused),
        "sgd": lambda params: torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused),
    }
    return builders[name]([group for group in groups if group["params"]])


def build_schedule(optimizer: Optimizer, name: str, *, total_steps: int, warmup: float) -> LRScheduler:
    """Builds a learning-rate schedule that is stepped once an optimiser step.

    Args:
        optimizer: The optimiser whose rate is scheduled.
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
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step >= warmup_steps:
            return decay(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))
        if name == "onecycle":
            return 1 - 24 / 25 * _cosine(step / warmup_steps)
        return (step + 1) / warmup_steps

    return LambdaLR(optimizer, factor)


def _cosine(t: float) -> float:
    """Falls from 1 to 0 as t goes from 0 to 1."""
    return (1 + math.cos(math.pi * t)) / 2
