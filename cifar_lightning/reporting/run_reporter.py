"""The callback that writes a run's figures, records, ``report.html`` and hyperparameters when fit and test end."""

import re
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
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.io.files import hash_file, write_atomically, write_json
from cifar_lightning.reporting import figures
from cifar_lightning.reporting.figures import Figure, to_png
from cifar_lightning.reporting.metrics_log import read_history
from cifar_lightning.reporting.record import FitRecorder, describe_test, get_model_and_data, is_fast_dev_run
from cifar_lightning.reporting.run_figures import draw_augmentation, draw_corruptions, draw_evaluation
from cifar_lightning.reporting.run_report import write_report
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.metrics import Evaluation


def find_test_folder(checkpoint: Checkpoint, data: ImageDataModule) -> Path:
    """Return where the results of a test belong: the run's folder, or one in it for images of another data set.

    The run's ``test.json`` stays the test of the data set that the network was trained on, which the leaderboard and
    the model's card show. Folders of images are another data set if their path is another.

    Args:
        checkpoint: The checkpoint that is tested.
        data: The images.
    """
    now, before = data.hparams, checkpoint.data_settings
    name, same = str(now["dataset"]), now["dataset"] == before["dataset"]
    if name == "folder":
        root = Path(now["root"]).resolve()
        name, same = root.name, same and root == Path(before.get("root", root)).resolve()
    run = checkpoint.path.parent
    return run if same else run / ("test-" + re.sub(r"[^\w.-]+", "-", name))


class RunReporter(Callback):
    """Writes figures, results and ``report.html`` to the run's folder, and figures and results to TensorBoard.

    When training begins: examples of augmented images. When it has ended: figures of the validation images, the
    learning curves, the hyperparameters with the final ``val/acc``, and ``fit.json``. After testing: the same figures
    of the test images, and ``test.json``.

    Args:
        folder: The run's folder.
        checkpoint: The checkpoint that is tested.
        step: The training step at which that checkpoint was written.
        recorder: Gathers the content of ``fit.json``; None if nothing is trained.

    Attributes:
        error: Why something could not be written; None if all was.
    """

    def __init__(
        self, folder: Path, checkpoint: Path | None = None, step: int = 0, recorder: FitRecorder | None = None
    ) -> None:
        self.folder, self.checkpoint, self.step, self.recorder = folder, checkpoint, step, recorder
        self.error: OSError | None = None
        self._trained, self._validated_epoch = False, 0
        self._checkpoint_sha256: str | None = None
        self._test_record: dict[str, Any] = {}

    # -- when it is written ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, data = get_model_and_data(trainer, pl_module)
        self._trained = True
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):  # Its HParams tab needs the result, too, which comes last.
                logger.log_hyperparams({**model.hparams, **data.hparams})
        for writer in _writers(trainer):
            curves = {name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]] for name in ("loss", "acc")}
            writer.add_custom_scalars({"training and validation": curves})
        if trainer.is_global_zero and not is_fast_dev_run(trainer):
            with self._keeping_error():
                self._write_figures({"train/augmentation": draw_augmentation(data)}, _writers(trainer), 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_epoch = trainer.current_epoch + 1

    # Not on_train_end: only after it does WeightAveraging put the averaged weights into the model.
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, data = get_model_and_data(trainer, pl_module)
        if is_fast_dev_run(trainer):
            return
        evaluation = None
        if "val/acc" in trainer.callback_metrics:  # It is missing if max_steps ended an epoch before its validation.
            evaluation = _gather(model.val_metrics.evaluation)
        elif not self._trained and "val" in data.sets:
            # The process that trained the last epoch was killed before it came here, and the run was resumed.
            evaluation = _gather(_validate(trainer, model, data))
            self._validated_epoch = trainer.current_epoch
        if trainer.is_global_zero and self.recorder:
            fit = self.recorder.result(trainer, model)
            try:
                with self._keeping_error():
                    self._write_fit(trainer, model, data, evaluation)
                    write_report(self.folder, fit)
            finally:
                write_json(self.recorder.path, fit)  # This comes last: a run without fit.json counts as unfinished.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.checkpoint and trainer.is_global_zero:
            self._checkpoint_sha256 = hash_file(self.checkpoint)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, data = get_model_and_data(trainer, pl_module)
        evaluation = _gather(model.test_metrics.evaluation)
        if evaluation is not None and trainer.is_global_zero and not is_fast_dev_run(trainer):
            with self._keeping_error():
                self._write_test(trainer, model, data, evaluation)

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """Keep an error of the disk until the command ends, so that results are still printed."""
        try:
            yield
        except OSError as error:
            self.error = error

    # -- what is written ---------------------------------------------------------------------------------------------

    def _write_fit(
        self, trainer: Trainer, model: ImageClassifier, data: ImageDataModule, evaluation: Evaluation | None
    ) -> None:
        history = read_history(self.folder)
        settings = {**model.hparams, **data.hparams}
        # The last validation may have been before the training was resumed.
        means = {name: mean for epoch in history for name, mean in epoch.items()} | trainer.callback_metrics
        final = "val/acc" if "val/acc" in means else "train/acc"  # TensorBoard lists no run without a metric.
        metrics = {final: float(means[final])} if final in means else {}
        drawn = {"curves": figures.learning_curves(history, f"{model.hparams['arch']} on {data.description}")}
        if evaluation:
            drawn |= draw_evaluation(data, "val", evaluation, f"after epoch {self._validated_epoch}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, {})  # hparams.yaml
        for writer in _writers(trainer):
            _write_hparams(writer, settings, metrics, trainer.global_step)
        self._write_figures(drawn, _writers(trainer), trainer.global_step)

    def _write_test(
        self, trainer: Trainer, model: ImageClassifier, data: ImageDataModule, evaluation: Evaluation
    ) -> None:
        means = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        checkpoint = self.checkpoint.name if self.checkpoint else None
        source = {"checkpoint": checkpoint, "checkpoint_sha256": self._checkpoint_sha256}
        self._test_record = describe_test(trainer, model, evaluation, means) | source
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / "test.json", self._test_record)
        drawn = draw_evaluation(data, "test", evaluation, str(self.checkpoint or ""))
        # The Trainer's logger would put the results of a test at step 0 of the curves.
        with SummaryWriter(str(self.folder)) as writer:
            self._write_figures(drawn, [writer], self.step)
            for name, value in means.items():
                writer.add_scalar(name, value, self.step)
        write_report(self.folder)

    def add_corruptions(self, data: ImageDataModule, accuracy: Mapping[str, Sequence[float]]) -> None:
        """Add the results on corrupted test images to those of the test.

        Args:
            data: With the test images, uncorrupted.
            accuracy: By corruption, the accuracy in [0, 1] at severities 1 to 5.
        """
        with self._keeping_error():
            self._test_record |= {
                "corruptions": dict(accuracy),
                "corrupted_accuracy": float(np.mean(list(accuracy.values()))),
            }
            write_json(self.folder / "test.json", self._test_record)
            drawn = draw_corruptions(data, accuracy, self._test_record["accuracy"])
            with SummaryWriter(str(self.folder)) as writer:
                self._write_figures({"test/corruptions": drawn}, [writer], self.step)
                for name, values in accuracy.items():
                    writer.add_scalar(f"test/{name}", np.mean(values), self.step)
            write_report(self.folder)

    def _write_figures(self, drawn: Mapping[str, Figure], writers: Sequence[Any], step: int) -> None:
        (self.folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            pixels = figures.to_pixels(figure)
            png = to_png(pixels)  # once: add_image would compress it again
            write_atomically(self.folder / "figures" / f"{name.replace('/', '_')}.png", png)
            image = Summary.Image(height=len(pixels), width=pixels.shape[1], colorspace=3, encoded_image_string=png)
            for writer in writers:
                writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def _validate(trainer: Trainer, model: ImageClassifier, data: ImageDataModule) -> Evaluation | None:
    """Evaluate the validation images as ``fit`` does, without its loggers and callbacks, which saw the result before.

    Returns:
        The predictions of this process; None if there are none.
    """
    device, loader, limit = trainer.strategy.root_device, data.val_dataloader(), trainer.limit_val_batches
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    for average in averages:  # These hooks swap the averaged weights in, and out again.
        average.on_validation_epoch_start(trainer, model)
    model.to(device).eval()
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for number, batch in enumerate(islice(loader, limit if isinstance(limit, int) else int(limit * len(loader)))):
            images, labels, indices = data.transfer_batch_to_device(batch, device, 0)
            model.validation_step((data.normalise(images), labels, indices), number)
    model.val_metrics.finish(further=False)
    for average in averages:
        average.on_validation_epoch_end(trainer, model)
    return model.val_metrics.evaluation


def _gather(evaluation: Evaluation | None) -> Evaluation | None:
    return None if evaluation is None else evaluation.gather()


def _write_hparams(writer: Any, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
    """Write a run's row for TensorBoard's HPARAMS page.

    The page shows the metrics that are named in the first such record. Those of the test are named here, too, so that
    `test` need only add them as scalars.
    """
    for name, value in metrics.items():
        writer.add_scalar(name, value, step)
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in settings.items()
    }
    for summary in hparams(plain, dict.fromkeys([*metrics, "test/acc", "test/loss"], 0)):  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(summary)


def _writers(trainer: Trainer) -> list[Any]:
    """Return TensorBoard's writers of a trainer."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
