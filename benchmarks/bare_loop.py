"""``fit`` of configs/cnn.yaml against the same training in a bare PyTorch loop, written by hand.

    python -m benchmarks.bare_loop

Both sides train the same network for one epoch in turn, with the same batches of 128 (unless --data.batch_size says
otherwise), precision, augmentation, optimiser and schedule. The bare loop runs over tensors that are on the device
from the beginning; it counts, logs, shows and saves nothing. Both are timed from the end of an epoch's first batch to
the end of its last, so neither start nor validation counts.
"""

import sys
from collections.abc import Sequence
from statistics import median

import torch
from torch.nn import functional as F

from benchmarks._results import CNN, in_turn, parse, ratio, record
from cifar_lightning.augment import augment
from cifar_lightning.commands.bench import TemporaryFit, now
from cifar_lightning.models import create_model
from cifar_lightning.optim import build_optimizer, build_schedule
from cifar_lightning.preprocess import Preprocess


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and writes the row."""
    options = parse(argv, __doc__, rounds=5)
    flags = ["--config", CNN, "--data.batch_size", "128", *options.flags]
    rounds, fitted = in_turn(flags, bare_epoch, options.rounds)
    record(
        options,
        "bare_loop",
        result=f"overhead of fit {ratio([a / b - 1 for a, b in rounds], '.1%')}",
        ours=f"fit of cnn.yaml, {1 / median(a for a, _ in rounds):,.0f} pictures/s",
        theirs=f"bare loop, {1 / median(b for _, b in rounds):,.0f} pictures/s",
        device=fitted.trainer.strategy.root_device,
    )
    return 0


def bare_epoch(fitted: TemporaryFit) -> float:
    """Trains a new network for one epoch as ``fitted`` was trained, and returns the seconds a picture."""
    model, data, device = fitted.model.hparams, fitted.datamodule.hparams, fitted.trainer.strategy.root_device
    train = fitted.datamodule.sets["train"]
    images, labels = train.images[train.numbers].to(device), train.labels[train.numbers].to(device)
    numbers = train.numbers.to(device)
    batches = torch.split(torch.randperm(len(train), device=device), data["batch_size"])
    batches = batches[: int(fitted.trainer.num_training_batches)]

    net = create_model(model["arch"], model["num_classes"], model["arch_options"])
    net.to(device).to(memory_format=torch.channels_last)
    preprocess = Preprocess(*fitted.datamodule.normalisation).to(device)
    optimizer = build_optimizer(
        net,
        model["optimizer"],
        lr=model["lr"],
        weight_decay=model["weight_decay"],
        momentum=model["momentum"],
        sgd_lr=model["sgd_lr"],
        sgd_momentum=model["sgd_momentum"],
    )
    schedule = build_schedule(optimizer, model["schedule"], total_steps=len(batches), warmup=model["warmup"])
    mixed = fitted.trainer.precision == "bf16-mixed"

    started, pictures = now(), 0
    for step, chosen in enumerate(batches):
        batch = images.index_select(0, chosen).permute(0, 3, 1, 2)
        batch = augment(batch, numbers[chosen], seed=0, epoch=0, flip=data["flip"], translate=data["translate"])
        batch = preprocess(batch)
        if step == 0 and hasattr(net, "init_from_data"):
            net.init_from_data(batch)  # type: ignore[operator]
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = F.cross_entropy(net(batch), labels[chosen], label_smoothing=model["label_smoothing"])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step == 0:
            started = now()
        else:
            pictures += len(chosen)
    return (now() - started) / pictures


if __name__ == "__main__":
    sys.exit(main())
