"""Progress bars for a terminal and for a notebook; ``callbacks.EpochLines`` prints the finished epochs."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.callbacks import RichProgressBar

from cifar_lightning.training.callbacks import of_all_epochs


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    return module is not None and hasattr(module.get_ipython(), "kernel")


def make_progress_bar() -> AnyProgressBar:
    """Return the progress bar for where this process prints."""
    return NotebookProgressBar() if in_notebook() else ProgressBar()


class ProgressBar(RichProgressBar):
    """Lightning's progress bar for the running epoch; ``EpochLines`` prints the finished ones."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)  # Per second. At Lightning's 100, a terminal is redrawn in every short step.
        self._shown = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {}  # Each epoch's line already shows the metrics.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._count_from_one(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Skip updates that would not be drawn.
        if trainer.is_last_batch or time.monotonic() - self._shown >= 1 / self.refresh_rate:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._shown = time.monotonic()
            self._count_from_one(trainer)  # A run that resumes inside an epoch has no on_train_epoch_start.

    def _count_from_one(self, trainer: Trainer) -> None:
        """Number the epochs as the printed lines do; Lightning numbers them from 0."""
        if self.progress is not None and self.train_progress_bar_id is not None:
            description = f"Epoch {trainer.current_epoch + 1}{of_all_epochs(trainer)}"
            self.progress.update(self.train_progress_bar_id, description=description)


class NotebookProgressBar(AnyProgressBar):
    """A progress bar that a notebook draws by itself, and that disappears in the end.

    Those of rich and tqdm need a package that draws them, ipywidgets, and leave a line for each epoch.
    """

    REFRESH = 0.25
    """The least time between two updates, in seconds: each is a message to the browser."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._shown, self._enabled = 0.0, True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._show(f"Epoch {trainer.current_epoch + 1}{of_all_epochs(trainer)}", batch_idx, self.total_train_batches)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self.has_dataloader_changed(loader)  # It stores the loader, from which the bar knows its total.
        self._show("Validation", batch_idx, self.total_val_batches_current_dataloader)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self.has_dataloader_changed(loader)
        self._show("Test", batch_idx, self.total_test_batches_current_dataloader)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)
            self._handle = None

    def _show(self, what: str, batch: int, total: float) -> None:
        if not self._enabled or time.monotonic() - self._shown < self.REFRESH:
            return
        from IPython.display import display  # The notebook has imported it.

        self._shown = time.monotonic()
        text = f"{what}: batch {batch + 1} of {total}"
        content = {"text/plain": text, "text/html": f'<progress value="{batch + 1}" max="{total}"></progress> {text}'}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)
