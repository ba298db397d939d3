"""Gradients by Winograd's minimal filtering."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cifar_lightning.cli import main
from cifar_lightning.commands.bench import count_flops
from cifar_lightning.errors import UsageError
from cifar_lightning.training.classifier import ImageClassifier
from cifar_lightning.training.winograd import Winograd, find_accelerated
from tests.conftest import TINY


def gradients(images: Tensor, filters: Tensor, bias: Tensor | None, downstream: Tensor) -> tuple[Tensor, ...]:
    """Return the output of a convolution, and the gradients of all that it is computed from."""
    output = F.conv2d(images, filters, bias, padding=1)
    inputs = [tensor for tensor in (images, filters, bias) if tensor is not None and tensor.requires_grad]
    return output, *torch.autograd.grad(output, inputs, downstream)


@pytest.mark.parametrize("count", [1, 7, 40])  # The last one is more than a chunk of the larger sizes.
@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 8), (7, 7), (15, 15), (31, 6)])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_convolution(
    count: int, height: int, width: int, format: torch.memory_format
) -> None:
    draw = torch.Generator().manual_seed(count)
    images = torch.randn(count, 64, height, width, generator=draw).contiguous(memory_format=format).requires_grad_()
    filters = (torch.randn(256, 64, 3, 3, generator=draw) / 24).contiguous(memory_format=format).requires_grad_()
    bias = torch.randn(256, generator=draw).requires_grad_()
    downstream = torch.randn(count, 256, height, width, generator=draw)
    expected = gradients(images, filters, bias, downstream)
    with Winograd():
        actual = gradients(images, filters, bias, downstream)
    assert torch.equal(actual[0], expected[0])
    exact = gradients(images.double(), filters.double(), bias.double(), downstream.double())
    for one, other in zip(actual[1:], exact[1:], strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() < 1e-4 * other.norm()


@pytest.mark.parametrize("trained", ["images", "filters"])
def test_only_the_gradients_that_are_needed(trained: str) -> None:
    draw = torch.Generator().manual_seed(0)
    images, filters = torch.randn(5, 128, 7, 7, generator=draw), torch.randn(128, 128, 3, 3, generator=draw)
    (images if trained == "images" else filters).requires_grad_()
    downstream = torch.randn(5, 128, 7, 7, generator=draw)
    _, expected = gradients(images, filters, None, downstream)
    with Winograd():
        _, actual = gradients(images, filters, None, downstream)
    assert (actual - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, groups=4),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 5, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1).double(),
    ],
)
def test_all_other_convolutions_are_computed_as_ever(convolution: nn.Conv2d) -> None:
    images = torch.randn(2, convolution.in_channels, 8, 8, dtype=convolution.weight.dtype)
    expected = torch.autograd.grad(convolution(images).square().sum(), convolution.weight)
    with Winograd():
        actual = torch.autograd.grad(convolution(images).square().sum(), convolution.weight)
    assert torch.equal(actual[0], expected[0])


def test_what_it_does_not_apply_to() -> None:
    convolution = nn.Conv2d(128, 128, 3, padding=1)
    for images, enabled in ((torch.randn(2, 128, 2, 8), False), (torch.randn(2, 128, 8, 8), True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            expected = torch.autograd.grad(convolution(images).square().sum(), convolution.weight)
            with Winograd():
                actual = torch.autograd.grad(convolution(images).square().sum(), convolution.weight)
        assert torch.equal(actual[0], expected[0])


def test_the_operations_of_a_network_are_counted_without_it() -> None:
    counts = [count_flops(ImageClassifier("speednet", winograd=winograd), 32) for winograd in (False, True)]
    assert counts[0] == counts[1]


def test_fit_takes_fewer_operations(data_root: Path, here: Path) -> None:
    words = [
        "fit",
        "--model.arch=speednet",
        "--model.lr=1e-4",
        f"--data.root={data_root}",
        "--trainer.max_steps=2",
        *TINY,
    ]
    operations = []
    for winograd in ("false", "true"):
        with FlopCounterMode(display=False) as counter:
            assert main([*words, f"--model.winograd={winograd}"]) == 0
        operations.append(counter.get_total_flops())
    assert operations[1] < 0.85 * operations[0]


def test_not_with_a_compiled_network() -> None:
    with pytest.raises(UsageError, match=r"model\.compile and model\.winograd are true; one of them must be false\."):
        ImageClassifier(winograd=True, compile=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.arch=cnn"], ["model.winograd has no effect on cnn: it has no 3 × 3 convolutions of many channels"]),
        (["--model.arch=speednet"], []),
        (
            ["--model.winograd=false", "--model.muon_linear=true", "--model.optimizer=adamw"],
            ["model.muon_linear has no effect with model.optimizer adamw"],
        ),
    ],
)
def test_it_is_said_what_has_no_effect(
    options: list[str], said: list[str], fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*fit, "--trainer.max_steps=1", "--data.val_size=0", "--model.winograd=true", *options]
    assert main(words) == 0
    assert main(["test", "--ckpt_path=last.ckpt"]) == 0
    notes = [line.removeprefix("note: ") for line in capsys.readouterr().out.splitlines() if "no effect" in line]
    assert notes == said


def test_convolutions_that_are_accelerated_are_found() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(256, 128, 3, stride=2, padding=1)
    )
    assert find_accelerated(network) == [network[1]]
