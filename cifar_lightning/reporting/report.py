"""When figures, reports, hyperparameters and throughput are written; what they show is computed elsewhere."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.files import hash_file, write_atomically, write_json
from cifar_lightning.reporting import figures
from cifar_lightning.reporting.record import Record, commit, hardware, is_trial, ours, read_history, versions
from cifar_lightning.reporting.run_report import write_report
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.metrics import Evaluation
from cifar_lightning.transforms.corruptions import SEVERITIES, corrupt

SAMPLES = 24
"""Images in a figure of sample predictions or mistakes."""


class Report(Callback):
    """Writes figures, results and ``report.html`` to the run's folder, and figures and results to TensorBoard.

    When training begins: what augmentation does. When it has ended: figures of the validation images, the learning
    curves, and the hyperparameters with the final ``val/acc``. After testing: the same figures of the
    test images, and ``test.json``.

    Args:
        folder: The run's folder.
        checkpoint: The checkpoint that is tested.
        step: The training step it was written at.
        record: Of the training that is reported.

    Attributes:
        error: Why something could not be written.
    """

    def __init__(
        self, folder: Path, checkpoint: Path | None = None, step: int = 0, record: Record | None = None
    ) -> None:
        self.folder, self.checkpoint, self.step, self.record = folder, checkpoint, step, record
        self.error: OSError | None = None
        self._trained, self._validated = False, 0
        self._sha256: str | None = None
        self._result: dict[str, Any] = {}

    # -- when it is written ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, data = ours(trainer, pl_module)
        self._trained = True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):  # it is given them with the result, for its HParams tab
                logger.log_hyperparams({**model.hparams, **data.hparams})
        for writer in _writers(trainer):
            curves = {name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]] for name in ("loss", "acc")}
            writer.add_custom_scalars({"training and validation": curves})
        if trainer.is_global_zero and not is_trial(trainer):
            with self._writing():
                self._write_figures({"train/augmentation": draw_augmentation(data)}, _writers(trainer), 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = trainer.current_epoch + 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # an average of the weights is in now
        model, data = ours(trainer, pl_module)
        if is_trial(trainer):
            return
        evaluation = None
        if "val/acc" in trainer.callback_metrics:  # not if max_steps ended an epoch before its validation
            evaluation = _gather(model.val_metrics.evaluation)
        elif not self._trained and "val" in data.sets:  # resumed since it was killed between its last epoch and this
            evaluation = _gather(_validate(trainer, model, data))
            self._validated = trainer.current_epoch
        if trainer.is_global_zero and self.record:
            fit = self.record.result(trainer, model)
            try:
                with self._writing():
                    self._write_fit(trainer, model, data, evaluation)
                    write_report(self.folder, fit)
            finally:
                write_json(self.record.path, fit)  # comes last: a run without it is not complete

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.checkpoint and trainer.is_global_zero:
            self._sha256 = hash_file(self.checkpoint)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, data = ours(trainer, pl_module)
        evaluation = _gather(model.test_metrics.evaluation)
        if evaluation is not None and trainer.is_global_zero and not is_trial(trainer):
            with self._writing():
                self._write_test(trainer, model, data, evaluation)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # what was computed must not be lost with it: it can still be printed
            self.error = error

    # -- what is written ---------------------------------------------------------------------------------------------

    def _write_fit(
        self, trainer: Trainer, model: ImageClassifier, data: ImageDataModule, evaluation: Evaluation | None
    ) -> None:
        history = read_history(self.folder)
        settings = {**model.hparams, **data.hparams}
        # the last validation may have been before the training was resumed
        means = {name: mean for epoch in history for name, mean in epoch.items()} | trainer.callback_metrics
        final = "val/acc" if "val/acc" in means else "train/acc"  # without any, TensorBoard would not list the run
        metrics = {final: float(means[final])} if final in means else {}
        drawn = {"curves": figures.learning_curves(history, f"{model.hparams['arch']} on {data.description}")}
        if evaluation:
            drawn |= _draw(data, "val", evaluation, f"after epoch {self._validated}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, metrics, trainer.global_step)
        self._write_figures(drawn, _writers(trainer), trainer.global_step)

    def _write_test(
        self, trainer: Trainer, model: ImageClassifier, data: ImageDataModule, evaluation: Evaluation
    ) -> None:
        means = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        self._result = self._describe(trainer, model, data, evaluation, means)
        write_json(self.folder / "test.json", self._result)
        drawn = _draw(data, "test", evaluation, str(self.checkpoint or ""))
        # not the Trainer's logger, which would put the results of a test at step 0 of the curves
        with SummaryWriter(str(self.folder)) as writer:
            self._write_figures(drawn, [writer], self.step)
            for name, value in means.items():
                writer.add_scalar(name, value, self.step)
        write_report(self.folder)

    def _describe(
        self,
        trainer: Trainer,
        model: ImageClassifier,
        data: ImageDataModule,
        evaluation: Evaluation,
        means: Mapping[str, float],
    ) -> dict[str, Any]:
        """Returns what ``test.json`` holds: the same to the last bit for the same file on the same machine."""
        known = math.isfinite(means["test/loss"])  # of an output that is not a number no class can be told
        right, total = evaluation.confusion.diagonal().cpu().numpy(), evaluation.confusion.sum(1).cpu().numpy()
        intervals = np.stack(figures.wilson_interval(right, total), 1).tolist()
        return {
            "dataset": data.description,
            "dataset_sha256": data.sets["test"].digest,
            "split": "test",
            "images": int(total.sum()),
            "of": len(data.sets["test"]),
            "accuracy": right.sum() / max(total.sum(), 1) if known else None,
            "loss": means["test/loss"],  # the mean negative log-likelihood, in nats
            **{name: means[f"test/{name}"] for name in ("ece", "top2", "top3") if f"test/{name}" in means},
            "classes": {
                name: {
                    "images": n,
                    "accuracy": r / n if n and known else None,
                    "interval": interval if n and known else None,
                }
                for name, r, n, interval in zip(data.classes, right.tolist(), total.tolist(), intervals, strict=True)
            },
            "checkpoint": self.checkpoint.name if self.checkpoint else None,
            "checkpoint_sha256": self._sha256,
            "model": dict(model.hparams),
            "data": dict(data.hparams),
            **_environment(trainer),
        }

    def add_corruptions(self, data: ImageDataModule, accuracy: Mapping[str, Sequence[float]]) -> None:
        """Adds what was measured on corrupted test images to the results of the test.

        Args:
            data: With the test images as they are.
            accuracy: By corruption, the accuracy at severities 1 to 5.
        """
        with self._writing():
            result, mean = self._result, float(np.mean(list(accuracy.values())))
            further = {"corruptions": dict(accuracy), "corrupted_accuracy": mean}
            write_json(self.folder / "test.json", {**result, **further})
            image = data.sets["test"].images[:1].cpu().numpy()
            examples = [[corrupt(image, name, severity)[0] for severity in SEVERITIES] for name in accuracy]
            title = f"{data.description}, test: {result['accuracy']:.2%} right; {mean:.2%} of corrupted ones"
            drawn = figures.corruption_curves(accuracy, result["accuracy"], np.array(examples), title)
            with SummaryWriter(str(self.folder)) as writer:
                self._write_figures({"test/corruptions": drawn}, [writer], self.step)
                for name, values in accuracy.items():
                    writer.add_scalar(f"test/{name}", np.mean(values), self.step)
            write_report(self.folder)

    def _write_figures(self, drawn: Mapping[str, Figure], writers: Sequence[SummaryWriter], step: int) -> None:
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            pixels = figures.to_pixels(figure)  # drawn once for all
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "png")
            write_atomically(self.folder / "figures" / f"{name.replace('/', '_')}.png", content.getbuffer())
            for writer in writers:
                writer.add_image(name, pixels, step, dataformats="HWC")


def _draw(data: ImageDataModule, split: str, evaluation: Evaluation, when: str) -> dict[str, Figure]:
    """Draws what validation or test found."""
    held, order = data.sets[split], evaluation.indices.argsort()  # the same however many processes there were
    indices, labels = evaluation.indices[order].to(held.images.device), evaluation.labels[order].cpu().numpy()
    # a network that has diverged predicts no probabilities at all
    probabilities = evaluation.logits[order].softmax(1).nan_to_num().cpu().numpy()
    counts = evaluation.confusion.cpu().numpy()
    title = f"{data.description}, {split}: {counts.trace() / max(counts.sum(), 1):.2%} of {len(labels):,} images right"
    # the same images each time, so that runs can be compared, and in no order that could flatter
    some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:SAMPLES].numpy()
    hard = figures.hardest_mistakes(probabilities, labels, SAMPLES)

    def fetch(chosen: NDArray[np.integer]) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = held.images[indices[torch.from_numpy(chosen)]].cpu().numpy()
        return images

    return {
        f"{split}/predictions": figures.prediction_grid(
            fetch(some),
            probabilities[some],
            data.classes,
            labels[some],
            title=f"{title}\n{when}: {len(some)} of them, drawn at random",
        ),
        f"{split}/mistakes": figures.mistake_grid(
            fetch(hard),
            probabilities[hard],
            labels[hard],
            data.classes,
            title=f"{title}\n{when}: the {len(hard)} mistakes with the highest loss",
        ),
        f"{split}/confusion": figures.confusion_matrix(counts, data.classes, title),
        f"{split}/classes": figures.class_accuracy(counts.diagonal(), counts.sum(1), data.classes, title),
        f"{split}/reliability": figures.reliability_diagram(probabilities, labels, title),
    }


def _validate(trainer: Trainer, model: ImageClassifier, data: ImageDataModule) -> Evaluation | None:
    """Measures the validation images as ``fit`` does, without the loggers and callbacks that have seen it before."""
    device, loader, limit = trainer.strategy.root_device, data.val_dataloader(), trainer.limit_val_batches
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for average in averages:  # which swaps the weights, and swaps them back
        average.on_validation_epoch_start(trainer, model)
    model.to(device).eval()
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for number, batch in enumerate(islice(loader, limit if isinstance(limit, int) else int(limit * len(loader)))):
            images, labels, indices = data.transfer_batch_to_device(batch, device, 0)
            model.validation_step((data.normalise(images), labels, indices), number)
    model.val_metrics.finish(probabilities=False)
    for average in averages:
        average.on_validation_epoch_end(trainer, model)
    return model.val_metrics.evaluation


def draw_augmentation(data: ImageDataModule) -> Figure:
    """Draws some training images as the network will see them; this draws no random numbers."""
    train = data.sets["train"]
    # a folder's images are in the order of the classes
    batch = train.__getitems__(sorted({len(train) * quarter // 4 for quarter in range(4)}))
    data.normalise(batch[0])
    assert data.preprocess is not None
    seen = [data.preprocess.restore(data.augment(batch, epoch)[0]) for epoch in range(8)]
    images = torch.stack(seen, 1).permute(0, 1, 3, 4, 2).cpu().numpy()
    title = f"{data.description}: training images as the network sees them"
    return figures.augmentation_grid(batch[0].permute(0, 2, 3, 1).cpu().numpy(), images, title)


def _environment(trainer: Trainer) -> dict[str, Any]:
    return {
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "hardware": hardware(trainer.strategy.root_device),
        "versions": versions(),
        "commit": commit(),
    }


def _gather(evaluation: Evaluation | None) -> Evaluation | None:
    return None if evaluation is None else evaluation.gather()


def _writers(trainer: Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
