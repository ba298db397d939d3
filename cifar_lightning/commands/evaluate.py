"""validate and test: measure a checkpoint on the validation or the test images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from cifar_lightning.commands.lightning_cli import TrainingCLI, build_evaluator
from cifar_lightning.commands.session import is_rank_zero, say_once, session
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import hash_file
from cifar_lightning.io.text import percent
from cifar_lightning.reporting.evaluation import EvaluationResult
from cifar_lightning.reporting.robustness import measure_corruptions
from cifar_lightning.reporting.run_reporter import RunReporter, find_test_folder
from cifar_lightning.reporting.tables import class_table, corruption_table, coverage_table
from cifar_lightning.training.calibration import calibrate, calibration_error, store_calibration
from cifar_lightning.training.chosen_metrics import MEASURED
from cifar_lightning.training.network_check import check_network


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
        cli = parse(command, words)
        result = measure(cli, _print_result)
    if folder := result.folder:
        say_once(f"written: {folder / 'report.html'}, {folder / 'test.json'}, {folder / 'figures'}/test_*.png")
    return 0


def parse(command: str, words: Sequence[str], **given: Any) -> TrainingCLI:
    """Parse the options of ``validate`` or ``test``.

    Args:
        command: The command.
        words: Its arguments.
        **given: What Python passes to ``TrainingCLI``: settings and callbacks.

    Raises:
        UsageError: If an option is unknown or its value impossible.
    """
    if command == "test":
        return TrainingCLI("test", words, training=False, add_options=add_test_options, **given)
    return TrainingCLI("validate", words, training=False, add_options=add_validate_options, **given)


def add_test_options(parser: Any) -> None:
    """Add the options that only ``test`` has."""
    parser.add_argument("--corruptions", action="store_true", help="Also measure the accuracy on corrupted images.")


def add_validate_options(parser: Any) -> None:
    """Add the options that only ``validate`` has."""
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="Store in the checkpoint a temperature, for honest probabilities, and the accuracy by confidence.",
    )


def measure(
    cli: TrainingCLI, on_measured: Callable[[EvaluationResult], object] = lambda result: None
) -> EvaluationResult:
    """Measure a checkpoint: for ``validate`` and ``test``, and for ``cifar_lightning.evaluate``.

    Args:
        cli: The parsed options. With those of ``test``, figures and records are written to the run's folder.
        on_measured: Called with the result, and again when corruptions are measured, too, which takes longer.

    Raises:
        UsageError: If the user made a mistake, or the result could not be written.
    """
    assert cli.checkpoint is not None
    path, data = cli.checkpoint.path, cli.datamodule
    if cli.command == "validate":
        if not data.hparams["val_size"]:
            raise UsageError("validation is off (data.val_size 0). Measure the test images: cifar-lightning test")
        before = hash_file(path) if cli.config.calibrate else ""
        if before and find_test_folder(cli.checkpoint, data) != path.parent:
            raise UsageError("--calibrate needs the run's own validation images: leave out the options of data.")
        result = _evaluate(cli, "val", build_evaluator(cli))
        on_measured(result)
        if before:
            _calibrate(cli, before)
        return result
    folder = find_test_folder(cli.checkpoint, data)
    if folder != path.parent:
        say_once(
            f"note: the network was trained on {cli.checkpoint.data_settings['dataset']}, so this test of "
            f"{data.description} is written to a folder of its own, and the run keeps its own test"
        )
    reporter = RunReporter(folder, path, cli.checkpoint.steps)
    trainer = build_evaluator(cli, callbacks=[reporter])
    result = replace(_evaluate(cli, "test", trainer), folder=folder)
    on_measured(result)
    if cli.config.corruptions and result.is_known:
        result = replace(result, corruptions=measure_corruptions(trainer, cli.model, data))
        on_measured(result)
        if is_rank_zero() and not reporter.error:
            reporter.add_corruptions(data, result.corruptions)
    if reporter.error:
        raise UsageError(f"the result above could not be written to {folder}: {reporter.error}")
    return result


def _evaluate(cli: TrainingCLI, split: str, trainer: Trainer) -> EvaluationResult:
    model, data = cli.model, cli.datamodule
    check_network(model, data)
    assert cli.checkpoint is not None
    path = cli.checkpoint.path
    run = trainer.test if split == "test" else trainer.validate
    run(model, datamodule=data, ckpt_path=str(path), weights_only=True, verbose=False)
    evaluation = (model.test_metrics if split == "test" else model.val_metrics).evaluation
    if evaluation is None:
        raise UsageError(f"no images were measured: trainer.limit_{split}_batches is 0.")
    means = {name: float(value) for name, value in trainer.callback_metrics.items()}
    counts = evaluation.confusion.cpu().numpy()
    per_class = {name: values.tolist() for name, values in evaluation.per_class.items()}
    return EvaluationResult(path, data.description, split, tuple(data.classes), counts, means, class_metrics=per_class)


def _calibrate(cli: TrainingCLI, before: str) -> None:
    """Calibrate the checkpoint on the validation images that were just measured, and print what it gives.

    Args:
        cli: The parsed options.
        before: The SHA-256 of the checkpoint before they were measured.

    Raises:
        UsageError: If only some images were measured, the network's output is not a number, or the checkpoint can't be
            written or has been overwritten since.
    """
    model, evaluation = cli.model, cli.model.val_metrics.evaluation
    assert evaluation is not None
    assert cli.checkpoint is not None
    every = evaluation.gather()
    if len(every.labels) < (all_images := len(cli.datamodule.sets["val"])):
        raise UsageError(
            f"--calibrate needs all {all_images:,} validation images, and {len(every.labels):,} were measured: leave "
            "out trainer.limit_val_batches."
        )
    # On the CPU, since Apple's GPUs have no float64; and as if it had never been calibrated.
    logits, labels = every.logits.cpu() * model.temperature, every.labels.cpu()
    calibration = calibrate(logits, labels, model.hparams["tta"])
    if not is_rank_zero():
        return
    if hash_file(cli.checkpoint.path) != before:
        raise UsageError(f"{cli.checkpoint.path} was overwritten meanwhile. Wait until its training has ended.")
    store_calibration(cli.checkpoint.path, calibration)
    after = logits / calibration["temperature"]
    errors = [calibration_error(one, labels) for one in (logits, after)]
    losses = [float(cross_entropy(one, labels)) for one in (logits, after)]
    say_once(
        f"\ncalibrated on {len(labels):,} validation images: temperature {calibration['temperature']:.3f}, val/loss "
        f"{losses[0]:.4f} → {losses[1]:.4f}, ece {percent(errors[0], 2)} → {percent(errors[1], 2)}"
    )
    _print(coverage_table(calibration["curve"]))
    say_once(f"written: {cli.checkpoint.path}. A test or an export from before is of the earlier file: repeat it")


def _print_result(result: EvaluationResult) -> None:
    split, means = result.split, result.metrics
    if result.corruptions:  # The rest is printed already.
        _print(corruption_table(result.corruptions, f"{result.dataset}, test: accuracy by severity"))
        return
    if not result.is_known:
        say_once(f"{split}/acc unknown: the network's output is not a number ({result.dataset}, {result.checkpoint})")
        return
    _print(class_table(result.confusion, result.classes, f"{result.dataset}, {split}", result.class_metrics))
    further = [f"{split}/{name}" for name in ("ece", "top2", "top3") if f"{split}/{name}" in means]
    say_once(
        f"{split}/acc {percent(result.accuracy, 2)} of {result.images:,} images, {split}/loss {result.loss:.4f} "
        f"({result.dataset}, {result.checkpoint})\n"
        f"{', '.join(f'{name} {percent(means[name], 2)}' for name in further)}; the loss is the negative log-likelihood"
    )
    measured = {f"{split}/{name}" for name in MEASURED}
    chosen = [name for name in means if name.startswith(f"{split}/") and name not in measured]
    if chosen:
        say_once(", ".join(f"{name} {means[name]:.4f}" for name in chosen))


def _print(table: Table) -> None:
    if is_rank_zero():
        Console().print(table)
