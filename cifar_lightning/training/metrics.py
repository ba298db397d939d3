"""Metrics of an epoch over all processes, and the outputs of an evaluation for each image.

``classifier`` updates and logs them; ``reporting`` draws and writes them.

B batch, n images of a process, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.utilities.distributed import gather_all_tensors

from cifar_lightning.training.chosen_metrics import ChosenMetrics
from cifar_lightning.training.scores import BINARY_SCORES, MACRO_SCORES, binary_scores, class_scores, macro_scores

JOINED = 8
"""Number of steps whose outputs are joined. Small tensors that are kept for an epoch lie between the large ones of the
batches, whose memory could then not be used again when they are freed."""

_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64  # MPS has no float64.


class ExactSum(Metric):
    """Sums float32 values in float64, so the result does not depend on how the values are batched.

    torchmetrics' SumMetric accumulates in float32.
    """

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values of any shape."""
        self.total += values.to(_SUM_DTYPE).sum()

    def compute(self) -> Tensor:
        """Return the sum () over all processes."""
        return self.total


@dataclass(frozen=True)
class Evaluation:
    """The outputs of validation or test for each image.

    Attributes:
        confusion: (K, K) int64, the confusion matrix of all processes together; rows are true classes, columns are
            predicted classes.
        logits: (n, K) float32, of the n images of this process.
        labels: (n,) int64, the true classes.
        indices: (n,) int64, the images' indices in their source.
        per_class: By name, the scores and the chosen metrics of each class, (K,), of all processes together.
    """

    confusion: Tensor
    logits: Tensor
    labels: Tensor
    indices: Tensor
    per_class: dict[str, Tensor] = field(default_factory=dict)

    def gather(self) -> "Evaluation":
        """Return the evaluation of all processes' images; every process must call this."""
        if not torch.distributed.is_initialized():
            return self
        parts = [torch.cat(gather_all_tensors(t)) for t in (self.logits, self.labels, self.indices)]
        logits, labels, indices = parts
        return replace(self, logits=logits, labels=labels, indices=indices)


class EpochMetrics(nn.Module):
    """Loss, accuracy and other means over an epoch and all processes.

    A step only stores its predictions, labels and loss, and torchmetrics is updated once an epoch: in each step, its
    updates would take longer than everything else around a small network.

    Args:
        num_classes: Number of classes K.
        evaluation: Whether to store the outputs for each image, too.
    """

    def __init__(self, num_classes: int, *, evaluation: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.evaluation: Evaluation | None = None
        """Of the latest epoch that was finished."""
        self.chosen: ChosenMetrics | None = None
        """The metrics that the user chose, if any."""
        self.loss, self.images = ExactSum(), ExactSum()
        # The labels are known to be in range; validating them would wait for the device.
        self.acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False) if evaluation else None
        self.of_probabilities = nn.ModuleDict()
        if evaluation:
            self.of_probabilities["ece"] = MulticlassCalibrationError(num_classes, 15, validate_args=False)
            for k in range(2, min(num_classes, 4)):
                top = MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
                self.of_probabilities[f"top{k}"] = top
        self._steps: list[tuple[Tensor, ...]] = []
        self._joined: list[tuple[Tensor, ...]] = []
        self._sizes: list[int] = []

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, indices: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, K) float.
            labels: (B,) int64, in [0, K).
            loss: (), the mean over the batch.
            indices: (B,) int64, the images' indices in their source.
        """
        outputs = logits.argmax(1) if self.confusion is None else logits
        self._steps.append((outputs, labels, loss.detach()[None], indices))
        self._sizes.append(len(labels))
        if len(self._steps) == JOINED:
            self._joined.append(_join(self._steps))
            self._steps = []
            # Each part is larger than the next one, so that there are few, and no image is copied often.
            while len(self._joined) > 1 and len(self._joined[-2][0]) <= len(self._joined[-1][0]):
                self._joined[-2:] = [_join(self._joined[-2:])]

    @property
    def started(self) -> bool:
        """Whether anything was added since the last ``finish``."""
        return bool(self._steps or self._joined) or self.images.update_called

    def finish(self, *, further: bool, chosen: bool = False) -> dict[str, Tensor]:
        """Compute the means by name, store the evaluation, and reset everything else.

        Args:
            further: Whether to compute the metrics of an evaluation, too: the expected calibration error "ece" (15
                bins, https://arxiv.org/abs/1706.04599); with more than 2 and 3 classes, the accuracies "top2" and
                "top3"; with 2 classes, "auroc" and "average_precision" of the second one; and ``MACRO_SCORES``.
            chosen: Whether to compute the chosen metrics, too; with ``further``, also for each class.

        Returns:
            Each mean (), float32: "loss", "acc" in [0, 1], and the metrics above.
        """
        logits, labels, indices = self._count()
        means = {"loss": (self.loss.compute() / self.images.compute()).float(), "acc": self.acc.compute()}
        if further:
            for name, metric in cast(dict[str, Metric], dict(self.of_probabilities.items())).items():
                if len(labels):
                    # torchmetrics would put a probability of exactly 1 into a bin of its own.
                    metric.update(logits.softmax(1).clamp_max(1 - 2**-24), labels)
                means[name] = metric.compute()
        if self.confusion is not None:
            self.evaluation = self._evaluate(means, logits, labels, indices, further=further, chosen=chosen)
        self.discard()
        return means

    def _evaluate(
        self, means: dict[str, Tensor], logits: Tensor, labels: Tensor, indices: Tensor, *, further: bool, chosen: bool
    ) -> Evaluation:
        """Return the outputs for each image, and add the means that are computed from all of them."""
        assert self.confusion is not None
        confusion: Tensor = self.confusion.compute()
        evaluation, per_class = Evaluation(confusion, logits, labels, indices), {}
        if further:
            counts = confusion.cpu().numpy()
            means |= {
                name: labels.new_tensor(value, dtype=torch.float32) for name, value in macro_scores(counts).items()
            }
            per_class = {name: torch.from_numpy(values) for name, values in class_scores(counts).items()}
        if (further and self.num_classes == 2) or (chosen and self.chosen):
            # Given the images of all processes, any metric is right, whatever its own way to add up processes.
            every = evaluation.gather()
            if further and self.num_classes == 2:
                means |= binary_scores(every.logits, every.labels)
            if chosen and self.chosen:
                means |= self.chosen.compute(every.logits, every.labels)
                if further:
                    per_class |= self.chosen.compute_per_class(every.logits, every.labels)
        return replace(evaluation, per_class=per_class)

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the metrics that ``finish`` computes with ``further``."""
        if self.confusion is None:
            return ()
        return (*self.of_probabilities, *MACRO_SCORES, *(BINARY_SCORES if self.num_classes == 2 else ()))

    def discard(self) -> None:
        """Discard what was added since the last ``finish``."""
        self._steps, self._joined, self._sizes = [], [], []
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def _count(self) -> tuple[Tensor, Tensor, Tensor]:
        """Update torchmetrics with the stored steps, and return their outputs, labels and indices."""
        device = self.acc.device
        if not (self._steps or self._joined):
            empty = torch.empty(0, dtype=torch.int64, device=device)
            return torch.empty(0, self.num_classes, device=device), empty, empty
        outputs, labels, losses, indices = _join([*self._joined, *self._steps])
        self.loss.update(losses * torch.tensor(self._sizes, device=device))
        self._steps, self._joined, self._sizes = [], [], []
        self.images.update(torch.tensor(len(labels), device=device))
        for metric in filter(None, (self.acc, self.confusion)):
            metric.update(outputs if self.confusion is None else outputs.argmax(1), labels)
        return outputs, labels, indices

    def partial(self) -> dict[str, float]:
        """Return the sums of an unfinished epoch over all processes, for ``resume``; {} if nothing was added."""
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
        """Continue with the sums of an unfinished epoch.

        Args:
            sums: The value of ``partial``; in all processes but one, with zeros for the sums.
        """
        if sums:
            self.loss.update(torch.tensor(sums["loss"], dtype=_SUM_DTYPE, device=self.acc.device))
            self.images.update(torch.tensor(sums["images"], device=self.acc.device))
            labels = torch.zeros(int(sums["images"]), dtype=torch.int64, device=self.acc.device)
            self.acc.update((torch.arange(len(labels), device=labels.device) >= sums["correct"]).long(), labels)


def _join(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Join the outputs, labels, losses and indices of some steps with those of later ones."""
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


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
