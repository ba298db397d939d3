"""validate and test: measure a checkpoint on the validation or the test images."""

import math
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from cifar_lightning.commands.lightning_cli import TrainingCLI, build_evaluator
from cifar_lightning.commands.session import is_rank_zero, say_once, session
from cifar_lightning.errors import UsageError
from cifar_lightning.reporting.robustness import measure_corruptions
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.reporting.tables import class_table, corruption_table
from cifar_lightning.training.network_check import check_network

VALIDATE = "Measure a checkpoint on the validation images, per class."
TEST = "Measure a checkpoint on the test images, and write figures, test.json and report.html to the run's folder."


def main(argv: Sequence[str]) -> int:
    """Measure a checkpoint and print the result; ``test`` also writes figures and records to the run's folder.

    Args:
        argv: "validate" or "test" and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    command, words = argv[0], argv[1:]
    with session(training=False):
        if command == "test":
            _test(TrainingCLI("test", words, training=False, description=TEST, add_options=add_test_options))
        else:
            _validate(TrainingCLI("validate", words, training=False, description=VALIDATE))
    return 0


def add_test_options(parser: Any) -> None:
    """Add the options that only ``test`` has."""
    parser.add_argument("--corruptions", action="store_true", help="Also measure the accuracy on corrupted images.")


def _validate(cli: TrainingCLI) -> None:
    if not cli.datamodule.hparams["val_size"]:
        raise UsageError("validation is off (data.val_size 0). Measure the test images: cifar-lightning test")
    _evaluate(cli, "val", build_evaluator(cli))


def _test(cli: TrainingCLI) -> None:
    assert cli.checkpoint is not None
    path, data = cli.checkpoint.path, cli.datamodule
    trained_on = cli.checkpoint.data_settings["dataset"]
    if data.hparams["dataset"] != trained_on:
        say_once(
            f"note: the network was trained on {trained_on}; the run's test.json and figures will be those of "
            f"{data.description}"
        )
    reporter = RunReporter(path.parent, path, cli.checkpoint.steps)
    trainer = build_evaluator(cli, callbacks=[reporter])
    is_known = _evaluate(cli, "test", trainer)
    if cli.config.corruptions and is_known:
        accuracy = measure_corruptions(trainer, cli.model, data)
        _print(corruption_table(accuracy, f"{data.description}, test: accuracy by severity"))
        if is_rank_zero() and not reporter.error:
            reporter.add_corruptions(data, accuracy)
    if reporter.error:
        raise UsageError(f"the result above could not be written to {path.parent}: {reporter.error}")
    folder = path.parent
    say_once(f"written: {folder / 'report.html'}, {folder / 'test.json'}, {folder / 'figures'}/test_*.png")


def _evaluate(cli: TrainingCLI, split: str, trainer: Trainer) -> bool:
    """Measure a split and print the result; return whether the network's output is a number."""
    model, data = cli.model, cli.datamodule
    check_network(model, data)
    assert cli.checkpoint is not None
    path = str(cli.checkpoint.path)
    run = trainer.test if split == "test" else trainer.validate
    run(model, datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
    evaluation = (model.test_metrics if split == "test" else model.val_metrics).evaluation
    if evaluation is None:
        raise UsageError(f"no images were measured: trainer.limit_{split}_batches is 0.")
    counts = evaluation.confusion
    means = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not math.isfinite(means[f"{split}/loss"]):
        say_once(f"{split}/acc unknown: the network's output is not a number ({data.description}, {path})")
        return False
    _print(class_table(counts, data.classes, f"{data.description}, {split}"))
    further = [f"{split}/{name}" for name in ("ece", "top2", "top3") if f"{split}/{name}" in means]
    correct, total = int(counts.trace()), int(counts.sum())
    say_once(
        f"{split}/acc {correct / total:.2%} of {total:,} images, {split}/loss {means[f'{split}/loss']:.4f} "
        f"({data.description}, {path})\n"
        f"{', '.join(f'{name} {means[name]:.2%}' for name in further)}; the loss is the negative log-likelihood"
    )
    return True


def _print(table: Table) -> None:
    if is_rank_zero():
        Console().print(table)
