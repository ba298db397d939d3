"""Optimisers and learning-rate schedules by name, in pure torch.

A parameter group's keys ``lr_ends`` (the fraction of training after which its rate is 0) and ``lr_factor`` (what its
peak rate is multiplied by) are set by ``build_optimizer``; ``build_schedule`` and ``classifier`` read them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.sgd import sgd


class Muon(Optimizer):
    """Momentum with orthogonalised updates for the weights of some layers, and Nesterov SGD for all other parameters.

    In each step, the weights of such a layer, as a matrix (out, in), or (out, in · height · width) of a convolution,
    are scaled to a norm of √out and moved by lr times their momentum, whose singular values have been brought close
    to 1. Sources: Keller Jordan et al., https://kellerjordan.github.io/posts/muon/, and
    https://github.com/KellerJordan/cifar10-airbench for the scaling.

    Args:
        params: Parameter groups with the keys ``orthogonal`` (bool), ``lr`` and ``momentum``, and ``weight_decay`` if
            they are not orthogonal.
        fused: Whether a single kernel does a step of SGD.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, fused: bool = True) -> None:
        super().__init__(params, {"fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; ``closure``, if given, is called before, computes the gradients and returns the loss."""
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
    """Bring the singular values of a matrix (M, N) close to 1, to between about 0.5 and 1.5.

    This is the Newton–Schulz iteration with the coefficients of https://kellerjordan.github.io/posts/muon/.
    """
    # Half precision is enough, but slow without hardware support.
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
    muon_linear: bool = False,
    lr_factors: Mapping[nn.Parameter, float] | None = None,
    fused: bool = True,
) -> Optimizer:
    """Build an optimizer.

    A module's attribute ``bias_lr_ends`` is the fraction of training after which its bias is no longer trained.

    Args:
        model: The network to train.
        name: "adam", "adamw", "sgd" (with Nesterov momentum), or "muon" (for convolutions, with Nesterov SGD for all
            other parameters).
        lr: Peak learning rate, > 0.
        weight_decay: Weight decay, >= 0: decoupled for adamw, added to the gradient for the others. It does not apply
            to biases and normalisation layers; with muon, it applies to all but the weights that muon trains.
        momentum: Momentum of sgd and muon, in [0, 1); ignored by the others.
        sgd_lr: Peak learning rate of the SGD used with muon, > 0.
        sgd_momentum: Momentum of the SGD used with muon, in [0, 1).
        muon_linear: Whether muon also trains the weights of all linear layers but the last one.
        lr_factors: Factors on the peak rate of some parameters, such as those of a pretrained backbone.
        fused: Whether a single kernel does a whole step.

    Raises:
        KeyError: If the name is unknown.
    """
    hidden = [m.weight for m in model.modules() if isinstance(m, nn.Linear)][:-1] if muon_linear else []
    orthogonal = {*hidden, *(p for p in model.parameters() if p.ndim == 4)}
    ends = {m.bias: m.bias_lr_ends for m in model.modules() if hasattr(m, "bias_lr_ends")}

    def settings(p: nn.Parameter) -> dict[str, Any]:
        factor = (lr_factors or {}).get(p, 1.0)
        common = {"lr_ends": ends.get(p, 1.0), "lr_factor": factor, "lr": lr * factor}
        if name != "muon":
            # Two groups even without weight decay, since a resumed run may have another value.
            return common | {"decays": p.ndim > 1, "weight_decay": weight_decay if p.ndim > 1 else 0.0}
        if p in orthogonal:
            return common | {"orthogonal": True, "momentum": momentum}
        sgd_settings = {"momentum": sgd_momentum, "weight_decay": weight_decay, "lr": sgd_lr * factor}
        return common | {"orthogonal": False} | sgd_settings

    groups = _group(model.parameters(), settings)
    # The defaults apply to groups that are added later, for example when a backbone is unfrozen.
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


def _group(
    parameters: Iterable[nn.Parameter], settings: Callable[[nn.Parameter], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Put the trainable parameters into groups of equal settings, in the order of the parameters."""
    groups: list[dict[str, Any]] = []
    for parameter in parameters:
        if parameter.requires_grad:
            own = settings(parameter)
            same = next((group for group in groups if own.items() <= group.items()), None)
            if same is None:
                groups.append(same := {"params": [], **own})
            same["params"].append(parameter)
    return groups


def _check_state(optimizer: Optimizer, loaded: dict[str, Any]) -> None:
    """Reject a state that does not fit this optimizer; torch only compares the numbers of groups and parameters.

    With a state tensor that is smaller than its parameter, a fused step would read beyond it.

    Raises:
        ValueError: If a value has another type, or a tensor has another shape.
    """
    for own, group in zip(optimizer.param_groups, loaded["param_groups"], strict=False):
        for name in own.keys() - {"params"}:
            usual = own[name]
            # A switch that an earlier version of torch lacked is filled in by torch.
            value = group.get(name, usual if isinstance(usual, bool) else None)
            if not _alike(value, None if name in ("fused", "foreach") else usual):
                raise ValueError(f"{name} is {value!r} instead of a value like {usual!r}")
    params = [param for group in optimizer.param_groups for param in group["params"]]
    kinds = {frozenset((name, value is None) for name, value in values.items()) for values in loaded["state"].values()}
    if len(kinds) > 1:
        raise ValueError("the parameters' states differ in their keys")
    for number, values in loaded["state"].items():
        for name, value in values.items():
            if value is not None and not (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and value.layout is torch.strided
                and not value.is_meta
                and value.shape in (torch.Size(), params[number].shape)
            ):
                raise ValueError(f"{name} of parameter {number} is not a tensor of its shape")


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
    """A LambdaLR that ignores groups that are added later, for which torch would raise an error."""

    def get_lr(self) -> list[float | Tensor]:
        """Return the next rate of each group."""
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*super().get_lr(), *(group["lr"] for group in added)]


def build_schedule(optimizer: Optimizer, name: str, *, total_steps: int, warmup: float) -> LRScheduler:
    """Build a learning-rate schedule that is stepped once an optimizer step.

    Args:
        optimizer: The optimizer whose rates are scheduled. A group with ``lr_ends`` goes through the whole schedule in
            that fraction of training, and has a rate of 0 afterwards.
        name: "constant", "linear" (to 0), "cosine" (to 0), each after a linear warm-up, or "onecycle": along a
            cosine up from 1/25 of the peak and down to 0 (https://arxiv.org/abs/1708.07120, without the cycle of the
            momentum).
        total_steps: Length of the training in optimizer steps, >= 1.
        warmup: Fraction of training in which the rate rises, in [0, 1).

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
    """Return a value that falls from 1 to 0 as t goes from 0 to 1."""
    return (1 + math.cos(math.pi * t)) / 2
