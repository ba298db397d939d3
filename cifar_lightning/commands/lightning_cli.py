"""The LightningCLI subclass: turns a command line into settings, a network and images.

It builds neither a Trainer nor a run folder, and it runs nothing: ``fit``, ``evaluate`` and ``predict`` do that.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.options.check import check_names
from cifar_lightning.commands.options.parser import Parser, check_finite, refuse_null
from cifar_lightning.commands.options.trainer import TRAINER_DEFAULTS
from cifar_lightning.commands.summary import print_model
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.errors import UsageError
from cifar_lightning.io.config import read_config
from cifar_lightning.io.custom import CODE_USED, CUSTOM_CODE, find_custom_code
from cifar_lightning.io.ranges import Range
from cifar_lightning.models.pretrained import find_official
from cifar_lightning.reporting.record_schema import FIT, read_record
from cifar_lightning.training.checkpoint import Checkpoint
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.launcher import join_processes
from cifar_lightning.training.progress import in_notebook, make_progress_bar
from cifar_lightning.training.resume import plan_resumption
from cifar_lightning.training.trainer import build_trainer, set_default_epochs, settle_precision


class TrainingParser(Parser, LightningArgumentParser):
    """The parser of a command with a network, images and a Trainer."""


class TrainingCLI(LightningCLI):
    """Parses the options of a command that has a network, images and a Trainer, and builds the first two.

    Precedence: defaults < checkpoint < ``--config`` < flags, wherever they stand on the command line.

    Args:
        command: The command's name.
        words: Its arguments, with ``--ckpt_path`` resolved.
        training: Whether it trains, so that a checkpoint is resumed.
        add_options: Adds the command's own options to the parser.
        adjust: Checks and changes the settings after they are parsed and before anything is built.
        settings: Settings given in Python, nested; they take the place of those in ``--config``.
        callbacks: Callbacks given in Python, besides those that the settings name.

    Attributes:
        config: All settings, as jsonargparse's Namespace.
        config_init: The same, with the callbacks and loggers that the user named as objects.
        model: The network.
        datamodule: The images; nothing is loaded yet.
        checkpoint: The one that is resumed or used.
        config_files: The files given with ``--config``.
        notes: What the user should know before the command starts, a sentence each.
        changes: The settings that differ from those at the start of the run.

    Raises:
        UsageError: If an option is unknown or its value impossible.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        *,
        training: bool,
        add_options: Callable[[Parser], None] | None = None,
        adjust: Callable[[Any], None] | None = None,
        settings: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.command, self.training = command, training
        self._add_options, self._adjust, self._callbacks = add_options, adjust, callbacks
        self.notes: list[str] = []
        self.changes: tuple[str, ...] = ()
        self.config_files, options = split_options(words, ("-c", "--config"))
        configs = [read_config(Path(file)) for file in self.config_files]
        self._contents, texts = [content for content, _ in configs], [text for _, text in configs]
        if settings:
            self._contents.append(dict(settings))
            texts.append(json.dumps(settings))
        path = next(reversed(split_options(options, ("--ckpt_path",))[0]), None)
        self.checkpoint = Checkpoint.read(Path(path), resume=training) if path else None
        # Options whose code would be imported, and that the user must name.
        self._untrusted = () if "--allow_custom_code" in options else CODE_USED.get(command, tuple(CUSTOM_CODE))
        # Configs come first, so that flags win wherever they stand.
        self._words = [*(word for text in texts for word in ("--config", text)), *options]
        stored = self.checkpoint and json.dumps(self.checkpoint.settings(resume=training))
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"prog": f"cifar-lightning {command}"},
            args=[*(["--config", stored] if stored else []), *self._words],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that all of these commands share, and the command's own."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        add_shared_options(parser, training=self.training)
        if self._add_options:
            self._add_options(cast(Parser, parser))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without LightningCLI's warning that there are arguments in ``sys.argv``, too."""
        for content in self._contents:
            check_names(content, cast(Parser, parser).option_names())
        self.config = parser.parse_args(args)
        refuse_null("model", self.config.model, ImageClassifier)
        refuse_null("data", self.config.data, ImageDataModule)
        check_finite(self.config.as_dict())
        seed, runs = self.config.seed_everything, self.config.get("runs") or 1
        allowed = Range(0, below=2**32 - runs + 1)
        if seed is None or isinstance(seed, bool):
            raise allowed.error("seed_everything", seed)
        allowed.check("seed_everything", int(seed))
        if self._adjust:
            self._adjust(self.config)

    def before_instantiate_classes(self) -> None:
        """Complete the settings with what they depend on: the data set, pretrained weights, or a resumed run."""
        config = self.config
        set_default_epochs(config.trainer)
        join_processes(config.trainer)
        if self.checkpoint:
            self._check_custom_code(self.checkpoint)
        data = ImageDataModule(**config.data.as_dict())
        config.data.val_size = data.hparams["val_size"]  # Its default depends on the data set.
        if self.checkpoint:
            if self.training:
                resumption = plan_resumption(self.checkpoint, config)
                self.config, self.changes = resumption.settings, resumption.changes
                self.notes += resumption.notes
            return
        config.model.num_classes = data.num_classes
        if self.training and config.model.weights is not None:
            self.notes += use_preprocessing_of_weights(config)
        elif self.training and config.model.freeze != "none":
            self.notes.append(
                f"model.freeze {config.model.freeze} without model.weights: what is frozen keeps its random initial "
                "values. Pretrained ones: --model.weights DEFAULT or a file"
            )

    def _check_custom_code(self, checkpoint: Checkpoint) -> None:
        """Refuse code that only the checkpoint names.

        The parsed settings decide: the parser would make a list of the text "[my_module:MyMetric]".
        """
        found = find_custom_code(self.config.as_dict())
        if used := {option: names for option, names in found.items() if option in self._untrusted}:
            named = find_custom_code(self.parser.parse_args(self._words).as_dict())
            checkpoint.check_custom_code(used, named)

    def instantiate_classes(self) -> None:
        """Build the network, the images, and the callbacks and loggers that the user named; but no Trainer."""
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(error, UsageError) or not isinstance(cause, ModuleNotFoundError):
                raise
            raise UsageError(
                f"a class in the trainer options needs a package that is not installed: {cause}"
            ) from error
        self.model: ImageClassifier = self.config_init.model
        self.datamodule: ImageDataModule = self.config_init.data
        if self.checkpoint:
            self.datamodule.sizes_before = _sizes_before(self.checkpoint, self.config.data.train_size)

    @property
    def user_callbacks(self) -> list[Callback]:
        """The callbacks that the user named."""
        given = self.config_init.trainer.callbacks or []
        return [*(given if isinstance(given, Sequence) else [given]), *self._callbacks]


def add_shared_options(parser: Any, *, training: bool) -> None:
    """Add the options that are in no section and that all commands with a network have."""
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="The checkpoint to resume: a path, or last: that of the newest run."
        if training
        else "The checkpoint to use: a path, or best or last: that of the newest run.",
    )
    parser.add_argument(
        "--allow_custom_code", action="store_true", help="Run the code that the checkpoint names, such as a network."
    )


def _sizes_before(checkpoint: Checkpoint, train_size: int | None) -> dict[str, int]:
    """Return the sizes of the splits of a finished run, as far as they must be the same now."""
    record, _ = read_record(checkpoint.path.parent / "fit.json", FIT, ())
    sizes = {"val": record.get("validation_images")}
    if checkpoint.data_settings.get("train_size") == train_size:
        sizes["train"] = record.get("training_images")
    return {split: size for split, size in sizes.items() if size is not None}


def build_evaluator(
    cli: TrainingCLI,
    callbacks: Sequence[Callback] = (),
    precision: tuple[str, str] | None = None,
    **fixed: Any,
) -> Trainer:
    """Build the Trainer of a command that trains nothing, and print the network and the device.

    Args:
        cli: The parsed options.
        callbacks: More callbacks.
        precision: The precision if the user names none, and why; by default, what suits the machine.
        **fixed: Arguments of the Trainer that take the place of the user's.

    Raises:
        UsageError: If options do not fit each other or this machine.
    """
    settings = cli.config_init.trainer
    fixed["precision"], reason = settle_precision(settings, precision)
    if settings.logger in (None, True):
        fixed["logger"] = False
    given = [*cli.user_callbacks, *callbacks]
    if in_notebook() and settings.enable_progress_bar is not False:
        given += [make_progress_bar()] * (not any(isinstance(callback, ProgressBar) for callback in given))
    trainer = build_trainer(settings, enable_checkpointing=False, callbacks=given, **fixed)
    print_model(trainer, cli.model, cli.datamodule, reason)
    return trainer


def use_preprocessing_of_weights(settings: Any) -> list[str]:
    """Give the data the mean, standard deviation and image size that pretrained weights were trained with.

    Args:
        settings: The sections "model" and "data", which is changed.

    Returns:
        What the user should know, a sentence each.
    """
    model, data, notes = settings.model, settings.data, []
    official = find_official(model.arch, model.weights)
    if official and data.mean is None:
        data.mean, data.std = official.mean, official.std
    elif data.mean is None and Path(model.weights).expanduser().is_file():
        notes.append(
            f"{model.weights} is no official file, so the images are normalised by their own mean and standard "
            "deviation; if the weights need others, set data.mean and data.std"
        )
    built_for_a_size = {"img_size", "image_size"} & set(model.arch_options or {})  # Transformers are.
    if official and not (built_for_a_size or model.stem == "cifar" or data.resize) and data.image_size < official.size:
        data.resize = official.size
        notes.append(
            f"images are enlarged to {official.size} × {official.size}, the size {model.weights} was trained with. "
            f"Faster: --data.resize 64, or --model.stem cifar for {data.image_size} × {data.image_size}"
        )
    return notes
