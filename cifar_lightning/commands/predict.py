"""predict with an exported file, which may need no PyTorch; ``predict_checkpoint`` does it with a checkpoint."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_lightning.commands.arguments import ArgumentParser
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import EXPORTED, Predictor
from cifar_lightning.io.text import printable, say

HINT = """\
With an exported file, predict takes images, --output, --top_k, --device and --allow_custom_arch: \
cifar-lightning predict --ckpt_path model.onnx cat.jpg"""


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The command and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status: 0 if all images have a prediction, 3 if some have none.

    Raises:
        UsageError: For an error that the user can mend.
    """
    parser = ArgumentParser("predict", HINT, add_help=False)
    parser.add_argument("--ckpt_path", default="")
    if Path(parser.parse_known_args(argv)[0].ckpt_path).suffix not in EXPORTED:
        from cifar_lightning.commands import predict_checkpoint

        return predict_checkpoint.main(argv)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--output", default="predictions.csv")
    parser.add_argument("--top_k", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--allow_custom_arch", action="store_true")
    try:
        return _predict_exported(parser, argv)
    except ModuleNotFoundError as error:
        raise UsageError(f"predict needs {error.name}, which is not installed: pip install rich matplotlib.") from error


def _predict_exported(parser: ArgumentParser, argv: Sequence[str]) -> int:
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from cifar_lightning.inference.image_files import predict_files
    from cifar_lightning.inference.prediction_table import print_summary

    options = parser.parse_intermixed_args(argv[1:])
    if options.explain:
        raise UsageError(
            f"--explain needs gradients, and {options.ckpt_path} has none. Name the checkpoint it was exported from: "
            "--ckpt_path best.ckpt"
        )
    predictor = Predictor(options.ckpt_path, device=options.device, allow_custom_arch=options.allow_custom_arch)
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
    return print_summary(summary)
