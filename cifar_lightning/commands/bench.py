"""bench: how fast a recipe trains and predicts on this machine, and where the time goes."""

import inspect
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.commands.build_training import build
from cifar_lightning.commands.fit import parse
from cifar_lightning.commands.options.arguments import split_options
from cifar_lightning.commands.session import session
from cifar_lightning.data.loading import BatchSampler, training_loader
from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import prepare_output, to_json, write_output
from cifar_lightning.reporting.record import environment
from cifar_lightning.training.classifier import ImageClassifier, main_output
from cifar_lightning.training.fit import Training
from cifar_lightning.training.launcher import refuse_processes

ROUNDS = 5
"""How often each part is measured."""

STEPS = 50
"""How many steps one side does before the next one takes over."""

SECONDS = 2.0
"""About how long one round of training takes."""

BATCH_SIZES = (1, 32, 512)
"""Batch sizes whose inference is measured."""


def main(argv: Sequence[str]) -> int:
    """Measure, print the figures, and write them where the user wants them.

    Args:
        argv: "bench" and its arguments: those of ``fit``, ``--batches``, ``--profile`` and ``--output``.

    Returns:
        The exit status.

    Raises:
        UsageError: If the user made a mistake.
    """
    refuse_processes("bench")
    with temporary_training(argv[1:], command="bench", add_options=add_options, adjust=_adjust) as training:
        options = training.settings
        result = measure(training, options.batches)
        _print(result)
        if options.profile:
            print(profile(training, result["batches"]))
        if options.output:
            write_output(Path(options.output), to_json(result))
            print(f"written: {options.output}")
    return 0


def add_options(parser: Any) -> None:
    """Add the options that ``fit`` does not have."""
    parser.add_argument(
        "--batches", type=int | None, default=None, help="Batches a round; by default as many as take 2 s."
    )
    parser.add_argument("--profile", action="store_true", help="Print torch's profile of fit, by operation.")
    parser.add_argument("--output", type=str | None, default=None, help="Write the results to this JSON file.")


def _adjust(options: Any) -> None:
    """Check bench's own options, and reset those that it decides itself."""
    if options.batches is not None and options.batches < 2:
        raise UsageError(f"--batches is {options.batches}; it must be at least 2.")
    if options.output:
        prepare_output(Path(options.output))
    defaults = inspect.signature(Trainer).parameters
    ends = ("max_steps", "min_steps", "min_epochs", "max_time", "overfit_batches", "fast_dev_run")
    for name in (*ends, "check_val_every_n_epoch", "val_check_interval"):
        options.trainer[name] = defaults[name].default
    options.trainer.limit_val_batches = 1
    if options.data.size_schedule:
        print("note: images of the whole size are measured, without data.size_schedule")
        options.data.size_schedule = None


@contextmanager
def temporary_training(words: Sequence[str], *callbacks: Callback, **parsing: Any) -> Iterator[Training]:
    """Build a training in a run folder that does not outlive it, without figures and lines for epochs, which are short.

    Args:
        words: The arguments of ``fit``.
        *callbacks: More callbacks for the Trainer.
        **parsing: Passed to ``commands.fit.parse``.

    Raises:
        UsageError: If the user made a mistake.
    """
    if split_options(words, ("--ckpt_path",))[0]:
        raise UsageError("a training is measured from its beginning: leave out --ckpt_path.")
    with session(training=True), TemporaryDirectory(prefix="cifar-lightning-") as folder:
        training = build(parse(words, **parsing), Path(folder) / "run", callbacks, reports=False)
        try:
            yield training
        except SIGTERMException as error:  # LastCheckpoint raises it for any signal; there is nothing to resume.
            if training.signal == signal.SIGINT:
                raise KeyboardInterrupt from error
            sys.exit(128 + training.signal)


Side = Callable[[Trainer, LightningModule, Any], Iterator[int]]
"""What is timed beside ``fit``: given the first batch of an epoch, it yields the number of images of each step."""


class AlternatingTimer(Callback):
    """Times ``fit`` and other sides in alternation, since a machine's speed changes from one second to the next.

    A round is an epoch of ``fit`` without its validation, from the end of the first step to the end of the last. The
    other sides do as many steps; their first step is not counted either.

    Args:
        *sides: What else is timed.

    Attributes:
        rounds: For each epoch, the seconds an image takes in ``fit`` and in each side.
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
        """After some steps of ``fit``, let the other sides do as many."""
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
        if self._steps < STEPS and not last:
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
    """Load, augment and normalise batches, in an order of its own."""
    data = cast(Any, trainer).datamodule
    for loaded in training_loader(BatchSampler(data.sets["train"], data.hparams["batch_size"])):
        ready = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(loaded))
        yield len(ready[1])


def step(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Iterator[int]:
    """Repeat forward, backward, optimizer and schedule on one batch; the weights are of no use afterwards."""
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


class PartsTimer(AlternatingTimer):
    """Times loading and the bare step in alternation with ``fit``, and at the end inference and matrix multiplication.

    Attributes:
        inference: By batch size, the seconds that each repetition takes from uint8 images to probabilities in memory.
        flops_per_image: Floating-point operations of a training step of the network, for each image.
        flops_limit: Operations a second that a product of two large matrices reaches in the precision of the training.
    """

    def __init__(self) -> None:
        super().__init__(load, step)
        self.inference: dict[int, list[float]] = {}
        self.flops_per_image, self.flops_limit = 0.0, 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure this while the network is still on the device."""
        side = cast(Any, trainer).datamodule.input_size
        with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            self.flops_per_image = count_flops(cast(ImageClassifier, pl_module), side)
            self.flops_limit = measure_matmul(pl_module.device)
        self._time_inference(trainer, pl_module)

    def _time_inference(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data, precision = cast(Any, trainer).datamodule, trainer.precision_plugin
        side = data.hparams["image_size"]
        pl_module.eval()
        for size in BATCH_SIZES:
            images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            seconds: list[float] = []
            try:
                while len(seconds) < 8 or (sum(seconds) < SECONDS / 2 and len(seconds) < 1000):
                    started = now()
                    # predict does not compile the network.
                    with torch.inference_mode(), precision.forward_context(), torch.compiler.set_stance("force_eager"):
                        ready = precision.convert_input(data.normalise(images.to(pl_module.device)))
                        pl_module.predict_step((ready, None, None), 0).cpu()
                    seconds.append(now() - started)
            except torch.OutOfMemoryError:
                print(f"inference of {size} images at once: the device is out of memory")
            else:
                self.inference[size] = seconds[3:]  # The first ones warm up.
        pl_module.train()


def count_flops(model: ImageClassifier, side: int) -> float:
    """Count the floating-point operations of a forward and backward pass, for each image (3, side, side).

    Only matrix multiplications and convolutions are counted.
    """
    images = torch.randn(2, 3, side, side, device=model.device)
    with FlopCounterMode(display=False) as counter:
        # Not by the model's forward, which may save multiplications.
        main_output(model.net(images)).float().sum().backward()
    model.zero_grad()
    return float(counter.get_total_flops() / len(images))


def measure_matmul(device: torch.device) -> float:
    """Return how many floating-point operations a second a product of two large matrices reaches on a device."""
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device)
    matrix = matrix.to((matrix[:1] @ matrix).dtype)  # of a mixed precision, the one that it multiplies in
    seconds = []
    for _ in range(8):
        started = now()
        matrix @ matrix
        seconds.append(now() - started)
    return float(2 * side**3 / min(seconds))


def measure(training: Training, batches: int | None = None) -> dict[str, Any]:
    """Measure how fast a network trains and predicts on this machine, and where the time goes.

    Args:
        training: What ``temporary_training`` built; it is trained meanwhile.
        batches: How many batches a round has; by default as many as take about two seconds.

    Returns:
        What ``--output`` holds: the throughput of loading, of the bare step and of ``fit``, and the time of inference.

    Raises:
        UsageError: If there are several processes, or only one batch.
    """
    if training.trainer.world_size > 1:
        raise UsageError("bench measures one process: leave out --trainer.devices and --trainer.num_nodes.")
    warm_up, parts = AlternatingTimer(), PartsTimer()
    _train(training, 5, 1, warm_up)
    if not warm_up.rounds:
        raise UsageError("there is only one batch of training images: name a smaller --data.batch_size.")
    size = training.data.hparams["batch_size"]
    batches = batches or 2 + math.ceil(SECONDS / (warm_up.rounds[0][0] * size))
    _train(training, batches, 1 + ROUNDS, parts)
    return _describe(training, parts)


def profile(training: Training, batches: int) -> str:
    """Return torch's profile of some batches of a training, as a table of operations."""
    with torch.profiler.profile() as profiler:
        _train(training, batches, 1, Callback())
    place = "cpu" if training.trainer.strategy.root_device.type == "cpu" else "device"
    return str(profiler.key_averages().table(f"self_{place}_time_total", row_limit=20, max_name_column_width=40))


def _train(training: Training, batches: int, epochs: int, callback: Callback) -> None:
    """Train some more epochs, on the first batches of each."""
    trainer = training.trainer
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.limit_train_batches = batches
    trainer.fit_loop.max_epochs = trainer.current_epoch + epochs
    callbacks.append(callback)
    trainer.fit(training.model, datamodule=training.data)
    callbacks.remove(callback)


def _describe(training: Training, parts: "PartsTimer") -> dict[str, Any]:
    """Return what ``--output`` holds."""
    # The first round warms up. The figures of the median round add up; the medians of each figure would not.
    rounds = sorted(parts.rounds[1:], key=_overhead)
    middle = rounds[ROUNDS // 2]
    return {
        "model": dict(training.model.hparams),
        "data": dict(training.data.hparams),
        **environment(training.trainer),
        "rounds": ROUNDS,
        "batches": int(training.trainer.num_training_batches),
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
        "flops_per_image": parts.flops_per_image,
        "matmul_flops_per_second": parts.flops_limit,
        "share_of_matmul": parts.flops_per_image / middle[0] / parts.flops_limit,
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
    """Return the fraction by which ``fit`` takes longer than loading and the bare step together."""
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
    inference = Table("batch size", "median", "90 % within", "images/s", title=f"inference in {result['precision']}")
    for size, row in result["inference"].items():
        times = (f"{row[name]:.2f} ms" for name in ("median_ms", "p90_ms"))
        inference.add_row(str(size), *times, f"{row['images_per_second']:,.0f}")
    for column in (*table.columns[1:], *inference.columns[1:]):
        column.justify = "right"
    console, megaflops = Console(highlight=False), result["flops_per_image"] / 1e6
    console.print(
        result["hardware"],
        table,
        f"overhead of fit over loading and bare step: {over['median']:+.1%} ({over['min']:+.1%} to {over['max']:+.1%})",
        f"fit reaches {result['share_of_matmul']:.0%} of the speed at which this machine multiplies large matrices: "
        f"{result['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s; an image takes {megaflops:,.0f} MFLOP",
        inference,
        sep="\n",
    )
    if over["max"] - over["min"] > 0.1:
        print("note: the rounds differ much: let nothing else run, and name more --batches")


def now() -> float:
    """Read the clock, in seconds, after the device has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest value."""
    return {"median": median(values), "min": min(values), "max": max(values)}
