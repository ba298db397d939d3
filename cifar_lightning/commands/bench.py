"""bench: how fast a recipe trains and predicts on this machine, and where the time goes."""

import inspect
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from cifar_lightning.commands import lightning_cli as train
from cifar_lightning.commands.parser import split_options
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.loading import BatchSampler, training_loader
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import to_json, write_output
from cifar_lightning.reporting.record import environment
from cifar_lightning.reporting.run_reporter import RunReporter
from cifar_lightning.training.callbacks import EpochLines
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.duration import AnnounceDuration
from cifar_lightning.training.launcher import refuse_processes

ROUNDS = 5
"""How often each part is measured."""

TURN = 50
"""Steps of one side before it is the next one's turn."""

SECONDS = 2.0
"""About how long the training of one round takes."""

BATCH_SIZES = (1, 32, 512)
"""Those whose inference is measured."""


def main(argv: Sequence[str]) -> int:
    """Runs bench.

    Args:
        argv: The command and its arguments: those of ``fit``, ``--batches``, ``--profile`` and ``--output``.

    Returns:
        The exit status.

    Raises:
        UsageError: For a mistake of the user's.
    """
    refuse_processes("bench")
    return train.run(argv, Bench).status


class TemporaryFit(train.CLI):
    """``fit`` in a run folder that does not outlive it, without the figures and the lines of epochs, which are short.

    Args:
        argv: A command, which makes no difference, and the arguments of ``fit``.
        callbacks: More callbacks for the Trainer.
    """

    def __init__(self, argv: list[str], *callbacks: Callback) -> None:
        if split_options(argv, ("--ckpt_path",))[0]:
            raise UsageError("a training is measured from its beginning: leave out --ckpt_path.")
        self.callbacks = callbacks
        with TemporaryDirectory(prefix="cifar-lightning-") as folder:
            self._root = Path(folder)
            try:
                super().__init__(["fit", *argv[1:]])
            except SIGTERMException as error:  # any signal's; there is nothing to go on from
                if self.signal == signal.SIGINT:
                    raise KeyboardInterrupt from error
                sys.exit(128 + self.signal)

    def _claim_folder(self, root: Path) -> None:
        super()._claim_folder(self._root)

    def _fit_callbacks(self, settings: Any, chosen: dict[str, Any]) -> list[Callback]:
        callbacks = super()._fit_callbacks(settings, chosen)
        return [c for c in callbacks if not isinstance(c, RunReporter | EpochLines | AnnounceDuration)] + list(
            self.callbacks
        )

    def fit(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Trains."""
        self.trainer.fit(model, datamodule=datamodule)


Side = Callable[[Trainer, LightningModule, Any], Iterator[int]]
"""What is timed beside ``fit``: given an epoch's first batch, it yields how many images each of its steps had."""


class Turns(Callback):
    """Times ``fit`` and other sides in turn, since a machine's speed wanders from one second to the next.

    A round is an epoch of ``fit`` without its validation, from the end of the first step to the end of the last. The
    sides do as many steps; their first one isn't counted either.

    Args:
        sides: What else is timed.

    Attributes:
        rounds: Seconds an image, of ``fit`` and of each side, for each epoch.
    """

    def __init__(self, *sides: Side) -> None:
        self.sides = sides
        self.rounds: list[list[float]] = []
        self._running: list[Iterator[int]] = []
        self._seconds: list[float] = []
        self._images: list[int] = []
        self._steps, self._started = 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the turn of ``fit``, if it is time, and gives the others theirs."""
        if batch_idx == 0:
            self._running = [side(trainer, pl_module, batch) for side in self.sides]
            self._seconds, self._images = [0.0] * (1 + len(self.sides)), [0] * (1 + len(self.sides))
            for side in self._running:
                next(side)
            self._steps, self._started = 0, now()
            return
        self._steps += 1
        self._images[0] += len(batch[1])
        last = batch_idx + 1 == trainer.num_training_batches
        if self._steps < TURN and not last:
            return
        times = [self._started, now()]
        for number, side in enumerate(self._running, 1):
            self._images[number] += sum(islice(side, self._steps))
            times.append(now())
        self._seconds = [seconds + times[i + 1] - times[i] for i, seconds in enumerate(self._seconds)]
        if last:
            self.rounds.append([s / n for s, n in zip(self._seconds, self._images, strict=True)])
            self._running.clear()
        self._steps, self._started = 0, now()


def load(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Iterator[int]:
    """Loads, augments and normalises; in an order of its own, as the loader of ``fit`` knows what it has done."""
    data = cast(Any, trainer).datamodule
    for loaded in training_loader(BatchSampler(data.sets["train"], data.hparams["batch_size"])):
        ready = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(loaded))
        yield len(ready[1])


def step(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Iterator[int]:
    """Does forward, backward, optimiser and schedule on one batch; neither weights nor rates are of further use."""
    images, labels, _ = batch
    precision = trainer.precision_plugin
    scaler = getattr(precision, "scaler", None) or torch.amp.GradScaler(enabled=False)
    for number in count(1):
        with precision.forward_context():
            smoothing = pl_module.hparams["label_smoothing"]
            loss = F.cross_entropy(pl_module(images), labels, label_smoothing=smoothing)
        scaler.scale(loss).backward()
        if number % trainer.accumulate_grad_batches == 0:
            for optimizer in trainer.optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            for schedule in cast(Any, trainer).lr_scheduler_configs:
                schedule.scheduler.step()
        yield len(labels)


class Parts(Turns):
    """Times loading and the bare step beside ``fit``, and inference at the end.

    Attributes:
        inference: Seconds from uint8 images in memory to probabilities in memory, of each run, by batch size.
    """

    def __init__(self) -> None:
        super().__init__(load, step)
        self.inference: dict[int, list[float]] = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Times inference, while the network is still on the device."""
        data, precision = cast(Any, trainer).datamodule, trainer.precision_plugin
        side = data.hparams["image_size"]
        pl_module.eval()
        for size in BATCH_SIZES:
            images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            seconds: list[float] = []
            try:
                while len(seconds) < 8 or (sum(seconds) < SECONDS / 2 and len(seconds) < 1000):
                    started = now()
                    # predict compiles nothing
                    with torch.inference_mode(), precision.forward_context(), torch.compiler.set_stance("force_eager"):
                        ready = precision.convert_input(data.normalise(images.to(pl_module.device)))
                        pl_module.predict_step((ready, None, None), 0).cpu()
                    seconds.append(now() - started)
            except torch.OutOfMemoryError:
                print(f"inference of {size} images at once: the device is out of memory")
            else:
                self.inference[size] = seconds[3:]  # the first ones warm up
        pl_module.train()


class Bench(TemporaryFit):
    """Measures instead of training to the end."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.description = (
                "Measures loading, the bare training step, fit and inference on this machine. It takes the options "
                "of fit; how long to train and to validate it decides itself. The test images are not read."
            )
            parser.add_argument(
                "--batches", type=int | None, default=None, help="Batches a round; 2 s worth by default."
            )
            parser.add_argument("--profile", action="store_true", help="Print torch's profile of fit, by operation.")
            parser.add_argument("--output", type=str | None, default=None, help="A JSON file for the figures.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and sets what the measurement decides itself."""
        self._subcommand_parsers["fit"].prog = "cifar-lightning bench"
        super().parse_arguments(parser, args)
        options = self.config["fit"]
        if options.batches is not None and options.batches < 2:
            raise UsageError(f"--batches is {options.batches}; it must be at least 2.")
        output = Path(options.output).absolute() if options.output else None
        if output and not output.parent.is_dir():
            raise UsageError(f"--output is {options.output}; there is no such folder.")
        if output and output.is_dir():
            raise UsageError(f"--output is {options.output}, a folder; name a file in it: {options.output}/bench.json.")
        defaults = inspect.signature(Trainer).parameters
        ends = ("max_steps", "min_steps", "min_epochs", "max_time", "overfit_batches", "fast_dev_run")
        for name in (*ends, "check_val_every_n_epoch", "val_check_interval"):
            options.trainer[name] = defaults[name].default
        options.trainer.limit_val_batches = 1

    def fit(self, model: ImageClassifier, datamodule: ImageDataModule, ckpt_path: str | None) -> None:
        """Measures, prints the figures, and writes them where the user wants them."""
        if self.trainer.world_size > 1:
            raise UsageError("bench measures one process: leave out --trainer.devices and --trainer.num_nodes.")
        options = self.config["fit"]
        warm_up, parts = Turns(), Parts()
        self._train(5, 1, warm_up)
        if not warm_up.rounds:
            raise UsageError("there is but one batch of training images: name a smaller --data.batch_size.")
        batches = options.batches or 2 + math.ceil(SECONDS / (warm_up.rounds[0][0] * datamodule.hparams["batch_size"]))
        self._train(batches, 1 + ROUNDS, parts)
        result = self._result(parts)
        _print(result)
        if options.profile:
            with torch.profiler.profile() as profiler:
                self._train(batches, 1, Callback())
            place = "cpu" if self.trainer.strategy.root_device.type == "cpu" else "device"
            table = profiler.key_averages().table(f"self_{place}_time_total", row_limit=20, max_name_column_width=40)
            print(table)
        if options.output:
            write_output(Path(options.output), to_json(result))
            print(f"written: {options.output}")

    def _train(self, batches: int, epochs: int, callback: Callback) -> None:
        """Trains some more, on the first so many batches of each epoch."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        self.trainer.limit_train_batches = batches
        self.trainer.fit_loop.max_epochs = self.trainer.current_epoch + epochs
        callbacks.append(callback)
        self.trainer.fit(self.model, datamodule=self.datamodule)
        callbacks.remove(callback)

    def _result(self, parts: Parts) -> dict[str, Any]:
        """Returns what ``--output`` holds."""
        # the first round warms up; all figures of the one in the middle fit together, as medians of each would not
        rounds = sorted(parts.rounds[1:], key=_overhead)
        middle = rounds[ROUNDS // 2]
        return {
            "model": dict(self.model.hparams),
            "data": dict(self.datamodule.hparams),
            **environment(self.trainer),
            "rounds": ROUNDS,
            "batches": int(self.trainer.num_training_batches),
            "training": {
                name: {
                    "images_per_second": {
                        "typical": 1 / middle[side],
                        "min": 1 / max(seconds[side] for seconds in rounds),
                        "max": 1 / min(seconds[side] for seconds in rounds),
                    },
                    "share_of_fit": middle[side] / middle[0],
                }
                for side, name in enumerate(("fit", "loading", "step"))
            },
            "overhead": spread([_overhead(seconds) for seconds in rounds]),
            "inference": {
                size: {
                    "median_ms": 1e3 * median(runs),
                    "p90_ms": 1e3 * quantiles(runs, n=10, method="inclusive")[-1],
                    "images_per_second": size / median(runs),
                }
                for size, runs in parts.inference.items()
            },
        }


def _overhead(seconds: Sequence[float]) -> float:
    """Returns by what share ``fit`` takes longer than loading and the bare step together."""
    fit, loading, step = seconds
    return fit / (loading + step) - 1


def _print(result: dict[str, Any]) -> None:
    rounds = f"{result['rounds']} rounds of {result['batches']} batches of {result['data']['batch_size']}"
    over = result["overhead"]
    note = "images/s and shares are of the round with the median overhead"
    table = Table("training", "images/s", "lowest – highest", "share of fit", title=rounds, caption=note)
    for label, name in (("loading, augmentation", "loading"), ("bare step", "step"), ("fit", "fit")):
        part = result["training"][name]
        speed, share = part["images_per_second"], part["share_of_fit"]
        if name == "fit":
            table.add_row("all else", "", "", f"{over['median'] / (1 + over['median']):.1%}")
        table.add_row(label, f"{speed['typical']:,.0f}", f"{speed['min']:,.0f} – {speed['max']:,.0f}", f"{share:.1%}")
    precision = f"inference in {result['precision']}"
    inference = Table("batch size", "median", "90 % within", "images/s", title=precision)
    for size, row in result["inference"].items():
        times = (f"{row[name]:.2f} ms" for name in ("median_ms", "p90_ms"))
        inference.add_row(str(size), *times, f"{row['images_per_second']:,.0f}")
    for column in (*table.columns[1:], *inference.columns[1:]):
        column.justify = "right"
    console = Console(highlight=False)
    console.print(
        result["hardware"],
        table,
        f"overhead of fit over loading and bare step: {over['median']:+.1%} ({over['min']:+.1%} to {over['max']:+.1%})",
        inference,
        sep="\n",
    )


def now() -> float:
    """Reads the clock, in seconds, once the device has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the lowest and the highest value."""
    return {"median": median(values), "min": min(values), "max": max(values)}
