"""predict with a checkpoint, through the Trainer; ``predict`` does it with exported files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ProgressBar

from cifar_lightning.commands.lightning_cli import TrainingCLI, build_evaluator
from cifar_lightning.commands.parser import Parser
from cifar_lightning.commands.session import session
from cifar_lightning.inference.prediction_table import print_summary
from cifar_lightning.inference.trainer_prediction import predict_with_trainer
from cifar_lightning.training.network_check import check_network


def main(argv: Sequence[str]) -> int:
    """Classify the user's own images.

    Args:
        argv: "predict" and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status: 0 if all images have a prediction, 3 if some have none.

    Raises:
        UsageError: If the user made a mistake.
    """
    with session(training=False):
        cli = TrainingCLI("predict", argv[1:], training=False, add_options=_add_options)
        return _predict(cli)


def _add_options(parser: Parser) -> None:
    parser.add_argument("images", nargs="+", type=str, help="Image files, and folders of them.")
    parser.add_argument("--output", type=str, default="predictions.csv", help="The table's file: .csv or .json.")
    parser.add_argument(
        "--top_k", type=int | None, default=None, help="How many classes to name for each image; 3, or all."
    )
    parser.add_argument(
        "--explain", action="store_true", help="Show beside each image what speaks for its class (Grad-CAM)."
    )


def _predict(cli: TrainingCLI) -> int:
    checkpoint, model, data = cli.checkpoint, cli.model, cli.datamodule
    assert checkpoint is not None
    given = cli.config_init.trainer.callbacks or []
    given = list(given) if isinstance(given, Sequence) else [given]
    settled: dict[str, Any] = {}
    if not (sys.stdout.isatty() or any(isinstance(callback, ProgressBar) for callback in given)):
        settled["enable_progress_bar"] = False
    trainer = build_evaluator(cli, precision=("32-true", "as Predictor and exported files compute"), **settled)
    data.load_state_dict(checkpoint.data_state)
    check_network(model, data)
    model.load_state_dict(checkpoint.weights)
    summary = predict_with_trainer(
        trainer,
        model,
        data,
        cli.config.images,
        Path(cli.config.output),
        top_k=cli.config.top_k,
        title=str(checkpoint.path),
        explain=cli.config.explain,
    )
    return print_summary(summary) if summary else 0
