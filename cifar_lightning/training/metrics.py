"""Metrics of an epoch, summed over all processes, and what an evaluation found image by image."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities.distributed import gather_all_tensors

_EXACT = torch.float32 if torch.backends.mps.is_available() else torch.float64  # which mps has not


class ExactSum(Metric):
    """A sum of float32 numbers in so many digits that it is the same however they are split; torchmetrics' rounds."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=_EXACT), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Adds numbers of any shape."""
        self.total += values.to(_EXACT).sum()

    def compute(self) -> Tensor:
        """Returns the sum () so far, over all processes."""
        return self.total


@dataclass(frozen=True)
class Evaluation:
    """What validation or test found, image by image.

    Attributes:
        confusion: (K, K) int64, rows the true classes; of all processes together, unlike the rest.
        logits: (n, K) float32, of the n images that this process was given.
        labels: (n,) int64.
        indices: (n,) int64, the images' indices in their source.
    """

    confusion: Tensor
    logits: Tensor
    labels: Tensor
    indices: Tensor

    def gather(self) -> "Evaluation":
        """Returns that of all processes' images; all of them must ask for it."""
        if not torch.distributed.is_initialized():
            return self
        parts = [torch.cat(gather_all_tensors(t)) for t in (self.logits, self.labels, self.indices)]
        return Evaluation(self.confusion, *parts)


class EpochMetrics(nn.Module):
    """Means over an epoch, over all processes.

    Each step keeps its predictions, labels and loss, and torchmetrics is given an epoch of them at once: its update
    takes longer than all else that a step of a small network has to do beside the network.

    Args:
        num_classes: Number of classes K.
        evaluation: Whether to keep what was found of each image too.
    """

    def __init__(self, num_classes: int, *, evaluation: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.evaluation: Evaluation | None = None
        """Of the newest epoch."""
        self.loss, self.images = ExactSum(), ExactSum()
        # labels are known to be in range: checking would wait for the device
        self.acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False) if evaluation else None
        self.of_probabilities = nn.ModuleDict()
        if evaluation:
            self.of_probabilities["ece"] = MulticlassCalibrationError(num_classes, 15, validate_args=False)
            for k in range(2, min(num_classes, 4)):
                top = MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
                self.of_probabilities[f"top{k}"] = top
        self._steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, indices: Tensor) -> None:
        """Takes in a batch: logits (B, K), labels (B,) int64, its mean loss () and the images' indices (B,)."""
        kept = logits.argmax(1) if self.confusion is None else logits
        self._steps.append((kept, labels, loss.detach(), indices))

    @property
    def started(self) -> bool:
        """Whether there is anything that ``finish`` has not seen."""
        return bool(self._steps) or self.images.update_called

    def finish(self, *, probabilities: bool) -> dict[str, Tensor]:
        """Computes the means by name, keeps the evaluation, and begins anew.

        Args:
            probabilities: Whether to compute what depends on more than the most probable class, too: the expected
                calibration error "ece" and, with enough classes, the accuracies "top2" and "top3".
        """
        logits, labels, indices = self._count()
        means = {"loss": (self.loss.compute() / self.images.compute()).float(), "acc": self.acc.compute()}
        if probabilities:
            for name, metric in cast(dict[str, Metric], dict(self.of_probabilities.items())).items():
                if len(labels):
                    # torchmetrics has a bin of its own for a probability of exactly 1
                    metric.update(logits.softmax(1).clamp_max(1 - 2**-24), labels)
                means[name] = metric.compute()
        if self.confusion is not None:
            self.evaluation = Evaluation(self.confusion.compute(), logits, labels, indices)
        self.discard()
        return means

    def discard(self) -> None:
        """Begins anew without what ``finish`` has not seen."""
        self._steps = []
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def _count(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gives torchmetrics the steps so far, and returns what was kept of them: logits, labels and indices."""
        device = self.acc.device
        if not self._steps:
            none = torch.empty(0, dtype=torch.int64, device=device)
            return torch.empty(0, self.num_classes, device=device), none, none
        parts, all_labels, losses, all_numbers = zip(*self._steps, strict=True)
        self._steps = []
        logits, labels, indices = torch.cat(parts), torch.cat(all_labels), torch.cat(all_numbers)
        self.loss.update(torch.stack(losses) * torch.tensor([len(some) for some in all_labels], device=device))
        self.images.update(torch.tensor(len(labels), device=device))
        for count in filter(None, (self.acc, self.confusion)):
            count.update(logits if self.confusion is None else logits.argmax(1), labels)
        return logits, labels, indices

    def partial(self) -> dict[str, float]:
        """Returns the sums so far of an epoch that is not finished, over all processes, for ``resume``."""
        self._count()
        if not self.images.update_called:
            return {}
        images = int(self.images.compute())
        return {
            "loss": self.loss.compute().item(),
            "images": images,
            "correct": round(self.acc.compute().item() * images),
        }

    def resume(self, sums: dict[str, float]) -> None:
        """Takes in what ``partial`` returned; in all processes but one, with zeros for the sums."""
        if sums:
            self.loss.update(torch.tensor(sums["loss"], dtype=_EXACT, device=self.acc.device))
            self.images.update(torch.tensor(sums["images"], device=self.acc.device))
            labels = torch.zeros(int(sums["images"]), dtype=torch.int64, device=self.acc.device)
            self.acc.update((torch.arange(len(labels), device=labels.device) >= sums["correct"]).long(), labels)


def wilson_interval(
    correct: NDArray[np.integer], total: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Compute the 95% Wilson score interval of an accuracy (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        correct: Numbers of correct predictions, of any shape.
        total: Numbers of predictions, of the same shape.

    Returns:
        The lower and the upper bounds, of that shape, in [0, 1]: 0 and 1 where there are no predictions.
    """
    z, n = 1.959964, np.maximum(total, 1e-9)
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (centre - spread).clip(0, 1), (centre + spread).clip(0, 1)
