"""``fit --test``: tests the best checkpoint of a run once it is trained, exactly as the command ``test`` does."""

import sys
from collections.abc import Sequence

from cifar_lightning.commands import evaluate
from cifar_lightning.errors import UsageError
from cifar_lightning.io.text import command_line, say
from cifar_lightning.training.fit import FitResult, Training, next_words


def check_test(training: Training) -> None:
    """Check, before anything is trained, that the run can be tested in this process.

    Raises:
        UsageError: If it can't.
    """
    trainer, data = training.trainer, training.data
    if trainer.world_size > 1:
        raise UsageError(
            f"--test tests on one device, but {trainer.world_size} processes are to train. Leave out --test, and test "
            "the run when it is trained: cifar-lightning test --ckpt_path best"
        )
    if not (data.source.has("test") or data.hparams["test_size"]):
        raise UsageError(f"--test: {data.description} has no test images. --data.test_size 0.2 holds some out.")
    if training.last is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UsageError("--test needs a checkpoint, and this training writes none. Leave out --test.")


def find_test(result: FitResult) -> list[str]:
    """Return the arguments of ``test`` for a run: for its best checkpoint, or the last one where none is the best."""
    best, last = result.folder / "best.ckpt", result.folder / "last.ckpt"
    return next_words(result.training, "test", best if best.exists() else last)


def run_test(words: Sequence[str], *, one_of_several: bool) -> int:
    """Test a run and print the result.

    Args:
        words: "test" and its arguments.
        one_of_several: Whether other runs are to be trained, so that an error must not end the command.

    Returns:
        The exit status.

    Raises:
        UsageError: If there is no more than this run and it can't be tested.
    """
    say(f"\n$ {command_line('cifar-lightning', *words)}")
    try:
        return evaluate.main(words)
    except UsageError as error:
        if not one_of_several:
            raise
        say(f"cifar-lightning: {error}", sys.stderr)
        return 2
