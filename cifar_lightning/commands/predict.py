"""predict: classify people's own images with a checkpoint, or with an exported file, which may need no PyTorch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar_lightning.commands.options.arguments import ArgumentParser, add_confidence_options, split_options
from cifar_lightning.commands.options.help import TEXTS
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import choose_confidence
from cifar_lightning.inference.predictor import Predictor
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.io.text import printable, say


def main(argv: Sequence[str]) -> int:
    """Classify images, print the first predictions, and write all of them to a table.

    Args:
        argv: "predict" and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status: 0 if all images have a prediction, 3 if some have none.

    Raises:
        UsageError: If the user made a mistake.
    """
    model = next(reversed(split_options(argv, ("--ckpt_path",))[0]), "")
    if Path(model).suffix not in EXPORTED:
        return _predict_with_trainer(argv[1:])
    try:
        return _predict_exported(argv[1:])
    except ModuleNotFoundError as error:
        raise UsageError(f"predict needs {error.name}, which is not installed: pip install rich matplotlib.") from error


def add_options(parser: Any) -> None:
    """Add the options of both ways, to a parser of argparse or of jsonargparse."""
    parser.add_argument("images", nargs="+", type=str, help="Image files, and folders of them.")
    parser.add_argument(
        "--output", type=str, default="predictions.csv", help="The table, .csv or .json; beside it, a contact sheet."
    )
    parser.add_argument(
        "--top_k", type=int, help="Number of classes to name for each image; 3 by default, or all if there are fewer."
    )
    parser.add_argument(
        "--explain", action="store_true", help="Draw where in each image the evidence for its class lies (Grad-CAM)."
    )
    add_confidence_options(parser)


def _predict_with_trainer(words: Sequence[str]) -> int:
    from lightning.pytorch.callbacks import ProgressBar

    from cifar_lightning.commands.lightning_cli import TrainingCLI, build_evaluator
    from cifar_lightning.commands.session import session
    from cifar_lightning.inference.prediction_table import print_summary
    from cifar_lightning.inference.trainer_prediction import predict_with_trainer
    from cifar_lightning.training.network_check import check_network

    with session(training=False):
        cli = TrainingCLI("predict", words, training=False, add_options=add_options)
        checkpoint, model, data = cli.checkpoint, cli.model, cli.datamodule
        assert checkpoint is not None
        fixed: dict[str, Any] = {}
        if not (sys.stdout.isatty() or any(isinstance(callback, ProgressBar) for callback in cli.user_callbacks)):
            fixed["enable_progress_bar"] = False
        trainer = build_evaluator(cli, precision=("32-true", "as Predictor and exported files compute"), **fixed)
        data.load_state_dict(checkpoint.data_state)
        check_network(model, data)
        model.load_state_dict(checkpoint.weights)
        calibration = model.use_calibration(checkpoint.content)
        min_confidence = choose_confidence(calibration, cli.config.min_confidence, cli.config.min_accuracy)
        summary = predict_with_trainer(
            trainer,
            model,
            data,
            cli.config.images,
            Path(cli.config.output),
            top_k=cli.config.top_k,
            title=str(checkpoint.path),
            explain=cli.config.explain,
            min_confidence=min_confidence,
        )
        return print_summary(summary, checkpoint.data_settings["dataset"]) if summary else 0


def _predict_exported(words: Sequence[str]) -> int:
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from cifar_lightning.inference.image_files import predict_files
    from cifar_lightning.inference.prediction_table import print_summary

    parser = ArgumentParser("predict", TEXTS["predict"].note, add_help=False)
    parser.add_argument("--ckpt_path", required=True)
    add_options(parser)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--allow_custom_code", action="store_true")
    options = parser.parse_intermixed_args(words)
    if options.explain:
        raise UsageError(
            f"--explain needs gradients, and {options.ckpt_path} has none. Name the checkpoint it was exported from: "
            "--ckpt_path best.ckpt"
        )
    predictor = Predictor(
        options.ckpt_path,
        device=options.device,
        allow_custom_code=options.allow_custom_code,
        min_confidence=options.min_confidence,
        min_accuracy=options.min_accuracy,
    )
    say(printable(f"{predictor.card.arch}, trained on {predictor.card.dataset}"))
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("Predicting", total=None)
        summary = predict_files(
            predictor,
            options.images,
            Path(options.output),
            top_k=options.top_k,
            title=options.ckpt_path,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return print_summary(summary, predictor.card.dataset)
