"""``fit`` of configs/cnn.yaml against the same training in a bare PyTorch loop, written by hand.

    python -m benchmarks.bare_loop

Both sides train the same network with the same batches of whole images, precision, augmentation, optimizer and
schedule. The bare loop runs over tensors that are on the device from the beginning; it counts, logs, shows and saves
nothing. They alternate every 50 steps because the machine's speed fluctuates; a round is
an epoch of both, from the end of its first batch to the end of its last, so neither start nor validation counts.
"""

import sys
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F

from benchmarks._results import CNN, WHOLE_SIZE, parse, ratio, record
from cifar_lightning.commands.bench import AlternatingTimer, temporary_training
from cifar_lightning.models import create_model
from cifar_lightning.reporting.record import get_model_and_data
from cifar_lightning.training.optim import build_optimizer, build_schedule
from cifar_lightning.transforms.augment import augment
from cifar_lightning.transforms.preprocess import Preprocess


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the row."""
    options = parse(argv, __doc__, rounds=7)
    flags = ["--config", CNN, WHOLE_SIZE, *options.flags]
    timer = AlternatingTimer(bare_epoch)
    for _ in range(options.rounds + 1):
        with temporary_training([*flags, "--trainer.max_epochs", "1"], timer) as training:
            training.trainer.fit(training.model, datamodule=training.data)
    rounds = timer.rounds[1:]  # The first one warms up.
    record(
        options,
        "bare_loop",
        result=f"overhead of fit {ratio([a / b - 1 for a, b in rounds], '.1%')}",
        this_project=f"fit of cnn.yaml, {1 / median(a for a, _ in rounds):,.0f} images/s",
        reference=f"bare loop, {1 / median(b for _, b in rounds):,.0f} images/s",
        device=training.trainer.strategy.root_device,
    )
    return 0


def bare_epoch(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Iterator[int]:
    """Train a new network for one epoch as ``fit`` does, and yield the number of images after each step."""
    fitted, datamodule = get_model_and_data(trainer, pl_module)
    model, data, device = fitted.hparams, datamodule.hparams, fitted.device
    assert datamodule.normalisation is not None
    train_set = datamodule.sets["train"]
    images, labels = train_set.images[train_set.indices].to(device), train_set.labels[train_set.indices].to(device)
    indices = train_set.indices.to(device)
    batches = torch.split(torch.randperm(len(train_set), device=device), data["batch_size"])
    batches = batches[: int(trainer.num_training_batches)]

    net = create_model(model["arch"], model["num_classes"], model["arch_options"])
    net.to(device).to(memory_format=torch.channels_last)
    preprocess = Preprocess(*datamodule.normalisation).to(device)
    optimizer = build_optimizer(
        net,
        model["optimizer"],
        lr=model["lr"],
        weight_decay=model["weight_decay"],
        momentum=model["momentum"],
        sgd_lr=model["sgd_lr"],
        sgd_momentum=model["sgd_momentum"],
        muon_linear=model["muon_linear"],
    )
    schedule = build_schedule(optimizer, model["schedule"], total_steps=len(batches), warmup=model["warmup"])
    mixed = trainer.precision == "bf16-mixed"

    for step, chosen in enumerate(batches):
        inputs = images.index_select(0, chosen).permute(0, 3, 1, 2)
        inputs = augment(inputs, indices[chosen], seed=0, epoch=0, flip=data["flip"], translate=data["translate"])
        inputs = preprocess(inputs)
        if step == 0 and hasattr(net, "init_from_data"):
            net.init_from_data(inputs)  # type: ignore[operator]
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = F.cross_entropy(net(inputs), labels[chosen], label_smoothing=model["label_smoothing"])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield len(chosen)


if __name__ == "__main__":
    sys.exit(main())
