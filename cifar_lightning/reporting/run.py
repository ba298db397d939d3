"""``Run``: what a run's folder holds, for Python and notebooks; each part is read when it is asked for."""

import base64
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cifar_lightning.errors import UsageError
from cifar_lightning.io.strict_yaml import load_yaml, read_text
from cifar_lightning.io.text import describe_seconds, percent
from cifar_lightning.reporting.display import FigureFile, Table, html_summary
from cifar_lightning.reporting.record_schema import FIT, TEST, read_record

MARKS_OF_A_RUN = ("config.yaml", "fit.json", "last.ckpt", "best.ckpt")
"""Files of which a run's folder has at least one."""


class Run:
    """A training: its checkpoints, metrics, figures and results, which are files in one folder.

    Args:
        folder: The run's folder, such as "runs/cnn/version_0", or a file in it.

    Attributes:
        folder: The run's folder.

    Raises:
        UsageError: If there is no run in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        given = Path(folder)
        self.folder = given.parent if given.is_file() else given
        if not any((self.folder / name).is_file() for name in MARKS_OF_A_RUN):
            raise UsageError(
                f"there is no run in {self.folder} (in {Path.cwd()}): it contains neither a config.yaml nor a "
                "checkpoint that fit wrote."
            )

    @property
    def name(self) -> str:
        """The recipe and the number of the run, such as "cnn/version_0"."""
        return "/".join(self.folder.absolute().parts[-2:])

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best epoch; None without validation."""
        return self._file("best.ckpt")

    @property
    def last(self) -> Path | None:
        """The checkpoint from which the run resumes; None if it ended before the first was written."""
        return self._file("last.ckpt")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to use: the best one, or the last one of a run without validation.

        Raises:
            UsageError: If the run has none.
        """
        if path := self.best or self.last:
            return path
        raise UsageError(f"the run {self.folder} has no checkpoint: it ended before the first one was written.")

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> Table:
        """A row for each epoch, numbered from 1, with what was measured: "train/loss", "val/acc", the speed, …."""
        from cifar_lightning.reporting.metrics_log import read_epochs  # It imports PyTorch.

        return Table(read_epochs(self.folder))

    @property
    def fit(self) -> dict[str, Any]:
        """The content of fit.json: images, epochs, seconds, hardware, versions, …; empty while it is trained.

        Raises:
            UsageError: If the file is broken.
        """
        return self._record("fit.json", FIT)

    @property
    def test(self) -> dict[str, Any]:
        """The content of test.json: accuracy, loss, accuracy of each class, …; empty if it was not tested.

        Raises:
            UsageError: If the file is broken.
        """
        return self._record("test.json", TEST)

    @property
    def figures(self) -> dict[str, FigureFile]:
        """The figures by name, such as "curves" and "val_confusion"; a notebook shows them as images."""
        return {path.stem: FigureFile(path) for path in sorted((self.folder / "figures").glob("*.png"))}

    @property
    def report(self) -> Path | None:
        """The page that shows all of this, report.html; None before the training ends."""
        return self._file("report.html")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings, nested as in the run's config.yaml; empty if ``fit`` has not written it.

        Raises:
            UsageError: If the file is broken.
        """
        path = self.folder / "config.yaml"
        if not path.is_file():
            return {}
        try:
            return dict(load_yaml(read_text(path)))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise UsageError(f"{path} can't be read: {error}") from error

    def __fspath__(self) -> str:
        return str(self.folder)

    # -- how it is shown ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"{name}: {value}" for name, value in self._facts() if value)])

    def _repr_html_(self) -> str:
        curves = self.figures.get("curves")
        image = ""
        if curves:
            content = base64.b64encode(curves.path.read_bytes()).decode()
            image = f'<img alt="learning curves" style="max-width: 640px" src="data:image/png;base64,{content}">'
        return html_summary(self.name, self._facts(), image)

    def _facts(self) -> list[tuple[str, str]]:
        fit, test = self.fit, self.test
        epochs, best = fit.get("epochs", len(self.metrics)), fit.get("val_accuracy")
        trained = (
            f"{epochs} epoch{'s' * (epochs != 1)} in {describe_seconds(fit['seconds'])}" if fit else "not finished"
        )
        tested = test.get("accuracy")
        return [
            ("network", f"{fit['network']}, {fit['parameters']:,} parameters" if fit else ""),
            ("data", f"{fit['dataset']}, {fit['training_images']:,} training images" if fit else ""),
            ("training", f"{trained}{' on ' + fit['hardware'] if fit else ''}"),
            ("val/acc", f"{percent(best, 2)} of {fit['validation_images']:,} images" if best is not None else ""),
            ("test/acc", f"{percent(tested, 2)} of {test['images']:,} images" if tested is not None else ""),
            ("best checkpoint", str(self.best or "")),
            ("last checkpoint", str(self.last or "")),
            ("report", str(self.report or "")),
        ]

    def _file(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None

    def _record(self, name: str, kinds: Any) -> dict[str, Any]:
        record, problem = read_record(self.folder / name, kinds)
        if problem:
            raise UsageError(f"{self.folder}: {problem}.")
        return record
