"""The training step against Lightning's own, which a profiler asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback

from cifar_lightning.commands import lightning_cli as train
from cifar_lightning.commands.bench import TemporaryFit
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.loop import HOOKS, TrainingEpochLoop
from tests.conftest import FAST

LIGHTNINGS = "--trainer.profiler=simple"


class Recorder(Callback):
    """Notes what it is called for, with all counters, and what ``self.log`` would take the place for."""

    def __init__(self) -> None:
        self.seen: list[Any] = []


def recording(name: str) -> Callable[..., None]:
    def hook(self: Recorder, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        progress = loop.batch_progress, loop.automatic_optimization.optim_progress, loop.scheduler_progress
        counters = [each.state_dict() for each in progress]
        shapes = torch.utils._pytree.tree_map(lambda x: getattr(x, "shape", x), args[:3])
        self.seen.append((name, trainer.global_step, pl_module._current_fx_name, counters, repr(shapes)[:99]))
        if name == "on_train_batch_end":
            pl_module.log("mean_of_losses", args[0]["loss"], on_epoch=True, on_step=False, batch_size=1)

    return hook


for method in dir(Callback):
    if method.startswith("on_") and not method.endswith("_checkpoint"):
        setattr(Recorder, method, recording(method))


def fit(data_root: Path, callback: Callback, *words: str) -> TemporaryFit:
    argv = ["fit", *FAST, "--data.dataset=synthetic", f"--data.root={data_root}", *words]
    return train.run(argv, lambda argv: TemporaryFit(argv, callback))


@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
@pytest.mark.parametrize("words", [[], ["--model.optimizer=muon", "--model.ema=0.5", "--trainer.precision=32-true"]])
def test_hooks_counters_and_weights_are_those_of_lightning(words: list[str], here: Path, data_root: Path) -> None:
    ours, theirs = Recorder(), Recorder()
    one, other = fit(data_root, ours, *words), fit(data_root, theirs, *words, LIGHTNINGS)
    for fitted, plain in ((one, True), (other, False)):
        loop = fitted.trainer.fit_loop.epoch_loop
        assert isinstance(loop, TrainingEpochLoop)
        assert (loop._hooks is not None) == plain
    assert set(HOOKS) <= {name for name, *_ in ours.seen}
    assert ours.seen == theirs.seen
    assert one.trainer.callback_metrics.keys() == other.trainer.callback_metrics.keys()
    for name in ("train/loss", "train/acc", "val/loss", "mean_of_losses"):
        assert one.trainer.callback_metrics[name] == other.trainer.callback_metrics[name]
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_gradients_that_no_hook_asks_for_are_freed_before_the_forward_pass(here: Path, data_root: Path) -> None:
    freed = []

    class Watcher(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            parameters = list(pl_module.parameters())
            net = pl_module.get_submodule("net")
            net.register_forward_pre_hook(lambda *_: freed.append(all(p.grad is None for p in parameters)))

    one, other = fit(data_root, Watcher()), fit(data_root, Callback(), LIGHTNINGS)
    assert freed[:4] == [True] * 4
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_hook_may_be_an_attribute_of_the_callback(here: Path, data_root: Path) -> None:
    steps: list[int] = []
    fit(data_root, LambdaCallback(on_train_batch_end=lambda trainer, *_: steps.append(trainer.global_step)))
    assert steps == list(range(1, 9))


def test_overfit_batches_trains_on_the_same_images_in_each_epoch(here: Path, data_root: Path) -> None:
    seen: list[list[int]] = []
    watcher = LambdaCallback(on_train_batch_end=lambda trainer, module, loss, batch, _: seen.append(batch[2].tolist()))
    with pytest.warns(UserWarning, match="turning off the .* dataloader shuffling"):
        fit(data_root, watcher, "--trainer.overfit_batches=2", "--data.batch_size=64")
    assert [len(batch) for batch in seen] == [64] * 4
    assert seen[:2] == seen[2:]


def test_what_a_module_does_in_lightnings_place_is_done(
    here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def optimizer_step(self: ImageClassifier, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        steps.append(batch_idx)
        optimizer.step(closure)

    monkeypatch.setattr(ImageClassifier, "optimizer_step", optimizer_step)
    fit(data_root, Callback())
    assert steps == [0, 1, 2, 3] * 2
