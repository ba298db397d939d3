"""demo: train, test and predict on the built-in images, as the three commands do one after the other."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cifar_lightning.commands import evaluate, predict
from cifar_lightning.commands.fit import parse, train_run
from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.session import free_memory, session
from cifar_lightning.commands.summary import print_interrupted
from cifar_lightning.data.sources.drawings import CLASSES, draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.io.recipes import name_recipe, require_recipe
from cifar_lightning.io.text import command_line, say
from cifar_lightning.training.launcher import refuse_processes

IMAGES = Path("demo-images")
"""The folder of the sample images, in the current one."""


def main(argv: Sequence[str]) -> int:
    """Run the demo and say where to look.

    Args:
        argv: "demo" and options of ``fit``.

    Returns:
        The exit status: that of the first command that fails.

    Raises:
        UsageError: If the user made a mistake.
    """
    words = list(argv[1:])
    refuse_processes("demo")
    if given := [option for option in ("--config", "--ckpt_path") if split_options(words, (option,))[0]]:
        raise UsageError(f"demo trains its own recipe, without {given[0]}. Train another one with cifar-lightning fit.")
    return run_demo(words)


def run_demo(options: Sequence[str] = (), images: Path = IMAGES) -> int:
    """Train the recipe ``demo``, test its best checkpoint and classify sample images, printing each command.

    Args:
        options: Options of ``fit`` that change the training.
        images: The folder that the sample images are written to.

    Returns:
        The exit status: that of the first command that fails.

    Raises:
        UsageError: If an option is wrong, or a file can't be written.
    """
    recipe = require_recipe("demo")
    _announce("fit", "--config", "demo", *options)
    say(f"recipe: {name_recipe(recipe)}")
    with session(training=True):
        result = train_run(parse(["--config", str(recipe), *options], command="demo"))
    if result.interrupted:
        print_interrupted(result)
        return 128 + result.interrupted
    result.check_report()
    folder, best = result.folder, str(result.folder / "best.ckpt")
    del result
    free_memory()
    write_sample_images(images)
    table = folder / "predictions.csv"
    for command, *words in (
        ("test", "--ckpt_path", best),
        ("predict", "--ckpt_path", best, str(images), "--output", str(table)),
    ):
        _announce(command, *words)
        if status := (evaluate.main if command == "test" else predict.main)([command, *words]):
            return status
    say(_describe_next_steps(folder, images))
    return 0


def write_sample_images(folder: Path) -> None:
    """Write a drawing of each of CIFAR-10's classes to a folder, as a JPEG file with the class's name.

    Args:
        folder: The folder, which is created if need be.

    Raises:
        OSError: If it can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = draw_images(len(CLASSES), seed=2, image_size=96)  # Seeds 0 and 1 draw the built-in data set.
    for image, label in zip(images, labels, strict=True):
        Image.fromarray(image.numpy()).save(folder / f"{CLASSES[label]}.jpg", quality=95)


def _announce(*words: str) -> None:
    say(f"\n$ {command_line('cifar-lightning', *words)}")


def _describe_next_steps(folder: Path, images: Path) -> str:
    looks = {
        str(folder / "report.html"): "settings, curves, results and errors",
        str(folder / "predictions.png"): f"the images in {images}, classified",
        command_line("tensorboard", "--logdir", folder.parent.parent): "the curves, in a browser",
    }
    commands = {
        "cifar-lightning recipes": "what else can be trained",
        "cifar-lightning fit --config cnn": "train on CIFAR-10 (170 MB)",
        "cifar-lightning predict --ckpt_path best.ckpt YOUR_IMAGES": "",
    }
    lines = [f"  {what:<38}  {why}".rstrip() for what, why in (*looks.items(), *commands.items())]
    return "\n".join(["\nThe demo is done. Look at:", *lines[: len(looks)], "Next:", *lines[len(looks) :]])
