"""Checkpoint files: what they hold, and reading them without trusting them. ``checkpoint_io`` writes them.

A checkpoint is what Lightning writes, plus what hooks add: ``ImageClassifier.on_save_checkpoint`` the format, the seed
and the sums of an epoch that is not finished; ``ImageDataModule.state_dict`` the classes, the normalisation and digests
of the images; ``TrainerSettings`` the Trainer's settings. ``checkpoint_callbacks`` decides which checkpoints a run
keeps, and when; ``resume`` decides how a run resumes from one.
"""

import os
import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import CUSTOM_CODE
from cifar_lightning.io.schema import (
    ANY,
    CALIBRATION,
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    SCALES,
    TEXT,
    Kind,
    check,
    holding,
    mapping,
    nullable,
    number,
    optional,
    several,
    whole,
)
from cifar_lightning.io.strict_yaml import MAX_DEPTH, MAX_SIZE, StrictError, check_value
from cifar_lightning.io.text import command_line, printable


def _is_version(value: object) -> bool:
    try:
        return bool(Version(str(value))) and isinstance(value, str)
    except InvalidVersion:
        return False


_TENSOR = Kind("tensors", torch.is_tensor)
_NAMES = Kind("a list of strings", lambda names: isinstance(names, list) and all(map(TEXT.fits, names)))
_LOOPS = {f"{name}_loop": mapping(mapping(ANY)) for name in ("fit", "validate", "test", "predict")}
_SUMS = {
    "loss": Kind("a number", lambda loss: isinstance(loss, float)),  # NaN if the training diverged
    "images": whole(0, 2**31),
    "correct": whole(0, 2**31),
}

FORMAT = 2
"""The format of the checkpoints that are written. Format 1, without this number, is that of release 0.1.0."""

TRAINER_SETTINGS = (
    "max_epochs", "min_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "check_val_every_n_epoch",
    "val_check_interval", "log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "deterministic", "sync_batchnorm", "overfit_batches", "min_steps", "precision",
    "devices", "num_nodes", "strategy",
)  # fmt: skip
"""Arguments of the Trainer that a checkpoint carries and a resumed run takes over."""

KINDS = {
    "format": optional(whole(1)),
    "state_dict": mapping(_TENSOR),
    "hyper_parameters": mapping(ANY),
    "hyper_parameters/arch": TEXT,
    "hyper_parameters/loss": optional(TEXT),
    "hyper_parameters/metrics": optional(nullable(_NAMES)),
    "datamodule_hyper_parameters": mapping(ANY),
    "datamodule_hyper_parameters/dataset": TEXT,
    "datamodule_hyper_parameters/augmentation": optional(nullable(TEXT)),
    "datamodule_hyper_parameters/image_size": IMAGE_SIZE,
    "datamodule_hyper_parameters/resize": optional(nullable(IMAGE_SIZE)),
    "ImageDataModule": mapping(ANY),
    "ImageDataModule/classes": CLASSES,
    "ImageDataModule/mean": CHANNELS,
    "ImageDataModule/std": SCALES,
    "ImageDataModule/digests": optional(mapping(TEXT)),
    "epoch": optional(whole(0)),
    "global_step": optional(whole(0)),
    "pytorch-lightning_version": Kind("a version", _is_version),
    "loops": optional(Kind("the states of Lightning's loops", lambda loops: not any(check(loops, _LOOPS)))),
    "callbacks": optional(mapping(ANY)),
    "trainer_settings": optional(mapping(ANY)),
    "trainer_settings/callbacks": optional(several(TEXT)),
    "trainer_settings/monitor": optional(TEXT),
    "changes": optional(several(TEXT)),
    "calibration": optional(holding(CALIBRATION)),
    "partial_epoch": optional(Kind("the sums of an epoch", lambda sums: sums == {} or not any(check(sums, _SUMS)))),
}
"""What every checkpoint holds; a name after a slash is inside the entry named before it."""

_LIMITED = ("hyper_parameters", "datamodule_hyper_parameters", "ImageDataModule", "trainer_settings", "changes")
"""Entries that are copied and written as text, so their size is limited."""

_PROGRESS = ("epoch_loop.batch_progress", "epoch_progress")
_STEPS = "epoch_loop.automatic_optimization.optim_progress/optimizer/step"
_RATES = several(number(0, 1e30))
_SCHEDULER = {"last_epoch": whole(0), "_step_count": whole(0), "base_lrs": _RATES, "_last_lr": _RATES}
RESUMABLE = {
    "epoch": whole(0),
    "global_step": whole(0),
    "optimizer_states": several(mapping(ANY), (1,)),
    "lr_schedulers": several(Kind("a schedule's state", lambda state: not any(check(state, _SCHEDULER))), (0, 1)),
    **{
        f"loops/fit_loop/{_STEPS}/{when}/{name}": whole(0)
        for when in ("total", "current")
        for name in ("ready", "completed")
    },
    **{
        f"loops/fit_loop/{progress}/{when}/{name}": whole(0)
        for progress in _PROGRESS
        for when in ("total", "current")
        for name in ("ready", "started", "processed", "completed")
    },
}
"""What a checkpoint holds besides, so that its run can be resumed."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, read and checked.

    Attributes:
        path: The file.
        content: Lightning's checkpoint, with the names of this release. It holds what ``KINDS`` says; weights are read
            from the disk when they are used.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path, *, resume: bool = False) -> "Checkpoint":
        """Read a checkpoint of any release; nothing in the file is executed.

        Args:
            path: A file that ``fit`` wrote.
            resume: Whether it must also hold what resuming its run needs (``RESUMABLE``).

        Raises:
            UsageError: If it is no checkpoint, is truncated, holds more than plain data, or is not of this framework.
        """
        content = _load(path)
        if isinstance(number := content.get("format"), int) and number > FORMAT:
            raise UsageError(
                f"{path} was written by a newer release of cifar-lightning (format {number}; this one reads up to "
                f"{FORMAT}): pip install --upgrade cifar-lightning"
            )
        upgrade(content)
        for name in _LIMITED:
            _check_size(path, name, content.get(name))
        missing, wrong = check(content, KINDS)
        if missing:
            raise UsageError(f"{path} is not a checkpoint of cifar-lightning: it has no {', '.join(missing)}.")
        if not wrong:
            classes, outputs = content["ImageDataModule"]["classes"], content["hyper_parameters"].get("num_classes")
            if outputs not in (None, len(classes)):
                wrong = [f"it names {len(classes)} classes, but model.num_classes is {reprlib.repr(outputs)}"]
        if not wrong and resume:
            missing, wrong = check(content, RESUMABLE)
        if missing:
            raise UsageError(
                f"{path} holds the network, but not the state of its training, so it can't be resumed: it has no "
                f"{', '.join(missing[:5])}."
            )
        if wrong:
            raise UsageError(f"{path} can't be used: {'; '.join(wrong[:5])}.")
        return cls(path, content)

    # -- the network -------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The state of the ``ImageClassifier``, by name."""
        return self.content["state_dict"]  # type: ignore[no-any-return]

    @property
    def model_settings(self) -> dict[str, Any]:
        """The arguments of the ``ImageClassifier``."""
        return _public(self.content["hyper_parameters"])

    @property
    def arch(self) -> str:
        """The network's name."""
        return str(self.content["hyper_parameters"]["arch"])

    def check_custom_code(self, used: Mapping[str, Sequence[str]], named: Mapping[str, Sequence[str]]) -> None:
        """Refuse code that the user has not named.

        Args:
            used: The code that would be imported, by option, as ``find_custom_code`` returns it.
            named: The code that the user named.

        Raises:
            UsageError: If a module would be imported that the user did not name.
        """
        for option, names in used.items():
            if set(names) <= set(named.get(option, ())):
                continue
            what, shown = CUSTOM_CODE[option], printable(", ".join(names))
            modules = " and ".join(dict.fromkeys(name.partition(":")[0] for name in names))
            value = command_line(printable(f"[{shown}]" if option == "model.metrics" else names[0]))
            python = f"arch={names[0]!r} or " if option == "model.arch" else ""
            raise UsageError(
                f"the {what} of {self.path} is {shown}: loading it would import the module {printable(modules)} and "
                f"run its code. If you trust that code, name the {what}, --{option} {value}, or allow whatever the "
                f"checkpoint names, --allow_custom_code (in Python: {python}allow_custom_code=True)."
            )

    # -- the data ----------------------------------------------------------------------------------------------------

    @property
    def data_settings(self) -> dict[str, Any]:
        """The ``ImageDataModule``'s arguments without ``url``: a checkpoint must not choose the download server."""
        return {k: v for k, v in _public(self.content["datamodule_hyper_parameters"]).items() if k != "url"}

    @property
    def data_state(self) -> dict[str, Any]:
        """The state of the ``ImageDataModule``: "classes", "mean", "std", and digests of the images of each split."""
        return self.content["ImageDataModule"]  # type: ignore[no-any-return]

    # -- the training ------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps the optimizer had done."""
        return int(self.content.get("global_step", 0))

    @property
    def epoch(self) -> int:
        """The epoch it was written in, from 0."""
        return int(self.content.get("epoch", 0))

    @property
    def epochs_done(self) -> int:
        """How many epochs were complete; of a resumable checkpoint."""
        return int(self.content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])

    @property
    def is_within_epoch(self) -> bool:
        """Whether it was written before the last batch of an epoch; of a resumable checkpoint."""
        return not self.content["loops"]["fit_loop"]["epoch_loop.batch_progress"].get("is_last_batch", True)

    @property
    def trainer_settings(self) -> dict[str, Any]:
        """The arguments of the Trainer that a resumed run takes over, as far as they are plain values."""
        kept = self.content.get("trainer_settings", {})
        return {name: value for name, value in kept.items() if name in TRAINER_SETTINGS and is_plain(value)}

    @property
    def callbacks(self) -> list[str]:
        """Names of the user's callbacks and loggers, which resuming needs and a checkpoint does not contain."""
        return [str(name) for name in self.content.get("trainer_settings", {}).get("callbacks", [])]

    @property
    def monitor(self) -> str:
        """The metric that best.ckpt of its run follows."""
        return str(self.content.get("trainer_settings", {}).get("monitor", "val/acc"))

    @property
    def changes(self) -> list[str]:
        """Settings that differ from those at the start of the run, such as "model.lr 0.1 → 0.2"."""
        return [str(change) for change in self.content.get("changes", [])]

    def settings(self, *, resume: bool) -> dict[str, Any]:
        """Return the settings in the form of a config.

        Args:
            resume: Whether to take over the Trainer's settings, too.
        """
        model, data = self.model_settings, self.data_settings
        settings = {"seed_everything": data.pop("seed", 0), "model": model, "data": data}
        return settings | ({"trainer": self.trainer_settings, "monitor": self.monitor} if resume else {})


def find_calibration(content: Mapping[str, Any], tta: str) -> dict[str, Any] | None:
    """Return the calibration in Lightning's checkpoint, if it was computed with this test-time augmentation."""
    found: Any = content.get("calibration")
    return found if check(found, CALIBRATION) == ([], []) and found["tta"] == tta else None


def is_plain(value: object) -> bool:
    """Tell whether an argument of the Trainer may stand in a checkpoint: it must not name a class to be imported."""
    return value is None or isinstance(value, int | float) or bool(re.fullmatch(r"[\w, -]*", str(value)))


def _public(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those of Lightning's own, such as ``_instantiator``."""
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _load(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns before it raises.
            # Windows can't replace a file that is mapped, and training replaces the one that it resumes from.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name == "posix")
    except UnpicklingError as error:
        raise UsageError(
            f"{path} is not loaded: it is no checkpoint, or it holds code instead of plain data, which a checkpoint of "
            "cifar-lightning never does."
        ) from error
    except Exception as error:  # A broken file makes torch.load raise all kinds of errors.
        raise UsageError(
            f"{path} can't be read: it is no checkpoint, or it was cut short ({_size(path)}). Use another one, such as "
            "last.ckpt of the same run."
        ) from error
    return content if isinstance(content, dict) else {}


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes" if path.is_file() else "there is no such file"


def upgrade(content: dict[str, Any]) -> None:
    """Rename, in place, entries that earlier formats named differently, and set the format.

    Args:
        content: Lightning's checkpoint, written by any release and not checked yet.
    """
    if content.get("format", 1) != 1:
        return
    content["format"] = FORMAT
    for part, renamed in [
        ("partial_epoch", {"pictures": "images", "right": "correct"}),
        ("ImageDataModule", {"pictures_a_step": "images_per_step"}),
    ]:
        values = content.get(part)
        if isinstance(values, dict):
            content[part] = {renamed.get(name, name): value for name, value in values.items()}


def _check_size(path: Path, name: str, value: object) -> None:
    """Refuse nested or shared values that would exhaust memory when they are copied or written as text."""
    size, left = 0, [(value, 0)]
    while left:
        part, depth = left.pop()
        size += 1 + (len(part) if isinstance(part, str | bytes) else 0)
        if isinstance(part, dict):
            left += [(inner, depth + 1) for inner in (*part.keys(), *part.values())]
        elif isinstance(part, list | tuple | set):
            left += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str):
            try:
                check_value(part)  # jsonargparse reads it
            except StrictError:
                size = MAX_SIZE + 1
        if size > MAX_SIZE or depth > MAX_DEPTH:
            raise UsageError(
                f"{path} is not loaded: its {name} is too large (more than {MAX_SIZE:,} values and characters, written "
                f"out) or too deep (more than {MAX_DEPTH} levels) to be what fit wrote."
            )
