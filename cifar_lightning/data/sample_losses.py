"""The latest loss of each training image, which decides what ``data.skip_easy`` leaves out of an epoch.

N images in the source, n positions of an epoch, B batch.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class SampleLosses(Metric):
    """Collects the losses of an epoch's images, over all processes.

    A checkpoint within an epoch holds the losses at its beginning, which its order depends on, and those since.

    Args:
        count: Number of images N in the source.
    """

    total: Tensor
    seen: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(count), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(count, dtype=torch.int32), dist_reduce_fx="sum")
        self.epoch = 0
        self.latest = torch.full((count,), math.inf)
        """The latest loss of each image before this epoch; infinite for those that were not trained on."""

    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Add a batch.

        Args:
            indices: (B,) int64, the images' indices in their source.
            losses: (B,) float.
        """
        indices = indices.to(self.total.device)
        self.total.index_add_(0, indices, losses.to(self.total))
        self.seen.index_add_(0, indices, torch.ones_like(indices, dtype=self.seen.dtype))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the sums of the losses in this epoch (N,), and how many losses they are of (N,)."""
        return self.total, self.seen

    def begin(self, epoch: int) -> None:
        """Begin an epoch, unless it has begun; all processes must call this."""
        if epoch != self.epoch and self.update_called:
            total, seen = (value.cpu() for value in self.compute())
            self.latest = torch.where(seen > 0, total / seen, self.latest)
            self.reset()
        self.epoch = epoch

    def leave_out(self, order: Tensor, indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Leave images out of an epoch: at random from the half whose latest losses are lowest.

        Args:
            order: (n,) int64, positions in the order of the epoch.
            indices: (n,) int64, the indices of the images at these positions in their source.
            count: How many to leave out, at most n / 2.
            generator: Draws them.

        Returns:
            (n - count,) int64, the positions that are left.
        """
        easy = self.latest[indices].argsort(stable=True)[: len(order) // 2]
        left_out = easy[torch.randperm(len(easy), generator=generator)[:count]]
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[left_out] = False
        return order[kept]

    def position(self) -> dict[str, Any]:
        """Return what a checkpoint must hold; all processes must call this."""
        total, seen = (value.cpu() for value in self.compute()) if self.update_called else (self.total, self.seen)
        return {"epoch": self.epoch, "latest": self.latest, "total": total.cpu(), "seen": seen.cpu()}

    def resume(self, position: dict[str, Any], *, first: bool) -> None:
        """Continue from the position in a checkpoint.

        Args:
            position: The value of ``position``.
            first: Whether this is the first process; the others begin with zeros, as the sums are of all processes.

        Raises:
            ValueError: If it is of another number of images.
        """
        values = [position[name] for name in ("latest", "total", "seen")]
        if any(not isinstance(value, Tensor) or value.shape != self.latest.shape for value in values):
            raise ValueError("the losses are of another number of images")
        self.epoch, self.latest = int(position["epoch"]), values[0]
        self.reset()
        self.update(torch.empty(0, dtype=torch.int64), torch.empty(0))  # torchmetrics must know that there are values.
        if first:
            self.total += values[1].to(self.total.device)
            self.seen += values[2].to(self.seen.device)
