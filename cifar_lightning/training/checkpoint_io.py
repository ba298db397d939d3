"""Writing checkpoints whole or not at all. What they hold is in ``checkpoint``."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from cifar_lightning.errors import UsageError
from cifar_lightning.io.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint so that its path holds the previous file or the new one at any moment, each complete.

    Lightning first writes it to the system's folder for temporary files and does not flush it: if that folder is on
    another disk, a process that is killed while it moves the file leaves a truncated one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file beside the checkpoint, flush it to the disk, and rename it.

        Raises:
            UsageError: If it can't be written, as on a full disk; the previous file is complete then.
        """
        path = Path(path)
        content = io.BytesIO()  # If torch wrote to the file itself, its error would not say why it could not.
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getbuffer())
        except OSError as error:
            before = "the previous one is intact" if path.exists() else "there is no previous one"
            raise UsageError(
                f"{path} could not be written ({content.tell():,} bytes): {error.strerror}; {before}."
            ) from error
