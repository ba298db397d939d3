"""The Python functions that do what the commands do: ``train``, ``evaluate``, ``predict`` and ``explain``.

They go the same way as the commands, so they write the same files and the same bytes. They raise ``UsageError`` where a
command would print a message and exit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning.pytorch import Callback

from cifar_lightning.commands import evaluate as evaluate_command
from cifar_lightning.commands import fit as fit_command
from cifar_lightning.commands.session import free_memory, session
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import ImageInput, Prediction, Predictor
from cifar_lightning.io.checkpoint_path import find_checkpoint
from cifar_lightning.io.config import ONLY_FLAGS, nest
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.io.recipes import name_recipe, require_recipe
from cifar_lightning.io.text import say
from cifar_lightning.reporting.evaluation import EvaluationResult
from cifar_lightning.reporting.figures import Figure
from cifar_lightning.reporting.run import Run

Settings: TypeAlias = Mapping[str, Any]
"""Settings by dotted name, {"model.lr": 0.1}, or nested, {"model": {"lr": 0.1}}; the names are those of recipes."""


Model: TypeAlias = Run | str | os.PathLike[str]
"""A run, its folder, or a file: a checkpoint or, for ``predict``, an exported file."""


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a training, such as Ctrl+C or a notebook's "interrupt"; a checkpoint of it is kept.

    Args:
        run: The training so far.
        signal: The number of the signal.

    Attributes:
        run: The training so far: ``train(resume=error.run)`` resumes it.
        signal: The number of the signal.
    """

    def __init__(self, run: Run, signal: int) -> None:
        super().__init__(f"the training was interrupted. To resume it: train(resume={str(run.last)!r})")
        self.run, self.signal = run, signal


def train(
    recipe: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    resume: Model | None = None,
    allow_custom_code: bool = False,
) -> Run:
    """Train a network, or resume a run, as ``cifar-lightning fit`` does.

    Args:
        recipe: The name of a built-in recipe, such as "cnn", or a YAML file; None begins with the defaults.
        settings: Settings that differ from the recipe's, such as {"model.lr": 0.1}.
        callbacks: Lightning callbacks, besides those that the settings name.
        resume: The run to resume, or its last.ckpt.
        allow_custom_code: Whether to run the code that the resumed checkpoint names.

    Returns:
        The run, with its checkpoints, metrics and figures.

    Raises:
        UsageError: If a setting is unknown or its value impossible, or the training fails for a reason that the user
            can remove.
        TrainingInterrupted: If a signal ended it; ``run`` and how to resume it are in the exception.
    """
    words = []
    if recipe is not None:
        path = require_recipe(os.fspath(recipe))
        if path != Path(recipe):
            say(f"recipe: {name_recipe(path)}")
        words += ["--config", str(path)]
    if resume is not None:
        words += _checkpoint_words(_resumable(resume), allow_custom_code)
    try:
        with session(training=True):
            cli = fit_command.parse(words, command="train", settings=_nested(settings), callbacks=callbacks)
            result = fit_command.train_run(cli)
        result.check_report()
        folder, interrupted = result.folder, result.interrupted
    finally:
        cli = result = None  # type: ignore[assignment]
        free_memory()
    if not interrupted:
        return Run(folder)
    try:
        run = Run(folder)
    except UsageError:
        raise KeyboardInterrupt("the training was interrupted before anything was saved") from None
    raise TrainingInterrupted(run, interrupted)


def evaluate(
    model: Model,
    split: Literal["test", "val"] = "test",
    settings: Settings | None = None,
    *,
    corruptions: bool = False,
    calibrate: bool = False,
    allow_custom_code: bool = False,
) -> EvaluationResult:
    """Measure a checkpoint, as ``cifar-lightning test`` and ``validate`` do.

    On the test images, test.json, figures and report.html are written to the run's folder.

    Args:
        model: A run, whose best checkpoint is measured, or a checkpoint.
        split: "test" or "val".
        settings: Settings that differ from the run's, such as {"model.tta": "flip"}.
        corruptions: Whether to measure the accuracy on corrupted test images, too.
        calibrate: Whether to store in the checkpoint what the validation images tell: a temperature, for honest
            probabilities, and the accuracy by confidence, which ``predict(min_accuracy=…)`` needs.
        allow_custom_code: Whether to run the code that the checkpoint names.

    Raises:
        UsageError: If the checkpoint can't be used, a setting is unknown or its value impossible, or the result could
            not be written.
    """
    if split not in ("test", "val"):
        raise UsageError(f"split is {split!r}; it must be 'test' or 'val'.")
    if corruptions and split == "val":
        raise UsageError("corruptions are measured on the test images: split='test'.")
    if calibrate and split == "test":
        raise UsageError("a network is calibrated on validation images: split='val'.")
    path = _checkpoint(model)
    if path.suffix in EXPORTED:
        raise UsageError(f"{path} is an exported file; evaluate needs the checkpoint that it was exported from.")
    words = _checkpoint_words(path, allow_custom_code) + ["--corruptions"] * corruptions + ["--calibrate"] * calibrate
    try:
        with session(training=False):
            command = "test" if split == "test" else "validate"
            cli = evaluate_command.parse(command, words, settings=_nested(settings))
            return evaluate_command.measure(cli)
    finally:
        cli = None  # type: ignore[assignment]
        free_memory()


def predict(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    *,
    top_k: int = 3,
    device: str = "auto",
    min_confidence: float | None = None,
    min_accuracy: float | None = None,
    allow_custom_code: bool = False,
) -> list[Prediction]:
    """Classify images. To classify more of them later, keep a ``Predictor``, which this function makes each time.

    Args:
        model: A run, whose best checkpoint is used; a checkpoint; or an exported file.
        images: One or several, of any size, in any form that ``Predictor`` takes: paths, PIL images, arrays, ….
        top_k: Number of classes to name for each image, >= 1.
        device: "cpu", "cuda" or "mps"; "auto" uses an accelerator where there is one.
        min_confidence: The probability, in [0, 1], below which a prediction is not sure: its ``is_sure`` is False.
        min_accuracy: Instead of it, the accuracy in [0, 1) that the sure predictions should have; see ``Predictor``.
        allow_custom_code: Whether to run any code that a checkpoint names, or that a .pt2 file holds.

    Returns:
        A prediction for each image.

    Raises:
        ImageError: If an image can't be read.
        UsageError: If the model can't be used or an argument is no image.
    """
    predictor = Predictor(
        _checkpoint(model),
        device=device,
        allow_custom_code=allow_custom_code,
        min_confidence=min_confidence,
        min_accuracy=min_accuracy,
    )
    return predictor(images, top_k)


def explain(model: Model, images: ImageInput | Sequence[ImageInput], *, allow_custom_code: bool = False) -> Figure:
    """Classify images, and draw beside each where the evidence for its class lies (Grad-CAM).

    Args:
        model: A run, whose best checkpoint is used, or a checkpoint.
        images: One or several, as for ``predict``.
        allow_custom_code: Whether to run the code that the checkpoint names.

    Returns:
        The figure, which a notebook shows; elsewhere, ``figure.savefig("heat.png")`` writes it.

    Raises:
        ImageError: If an image can't be read.
        UsageError: If captum is not installed, the model can't be used, or an argument is no image.
    """
    path = _checkpoint(model)
    if path.suffix in EXPORTED:
        raise UsageError(f"{path} is an exported file, without gradients; explain needs its checkpoint.")
    from cifar_lightning.inference.explain import draw_explanation  # captum is an optional dependency.
    from cifar_lightning.inference.pipeline import load_pipeline

    predictor = Predictor(path, allow_custom_code=allow_custom_code)
    pipeline, _ = load_pipeline(path, allow_custom_code=allow_custom_code)
    return draw_explanation(predictor, pipeline, images, str(path))


def _checkpoint(model: Model) -> Path:
    return Run(model).checkpoint if Path(model).is_dir() else find_checkpoint(os.fspath(model))


def _resumable(run: Model) -> Path:
    if not Path(run).is_dir():
        return find_checkpoint(os.fspath(run))
    opened = Run(run)
    if opened.last is None:
        raise UsageError(f"{opened.folder} has no last.ckpt, so it can't be resumed.")
    return opened.last


def _checkpoint_words(path: Path, allow_custom_code: bool) -> list[str]:
    return ["--ckpt_path", str(path), *(["--allow_custom_code"] if allow_custom_code else [])]


def _nested(settings: Settings | None) -> dict[str, Any]:
    nested = nest(settings or {})
    for name in {*ONLY_FLAGS, "runs", "test"} & set(nested):
        raise UsageError(f"{name} is no setting in Python; see the arguments of the function.")
    return nested
