"""Residual networks with stems for small images."""

import torchvision
from torch import Tensor, nn


def resnet18(num_classes: int = 10) -> nn.Module:
    """Build ResNet-18 with a stem for small images; 11,173,962 parameters for 10 classes.

    torchvision's network (He et al. 2015, https://arxiv.org/abs/1512.03385) with a 3×3 convolution of stride 1 and no
    max-pool at its start, as in https://github.com/kuangliu/pytorch-cifar.

    Shapes, for B images: (B, 3, 32, 32) → (B, 64, 32, 32) → (B, 128, 16, 16) → (B, 256, 8, 8) → (B, 512, 4, 4)
    → logits (B, num_classes). Images may be of any size.

    Args:
        num_classes: Number of classes K, >= 1.
    """
    network = torchvision.models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # torchvision's initialisation
    network.maxpool = nn.Identity()
    return network  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Add the output of a branch to its input."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.branch(x)  # type: ignore[no-any-return]


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return self.factor * x


def resnet9(num_classes: int = 10) -> nn.Sequential:
    """Build David Page's fast-training network; 6,573,120 parameters for 10 classes.

    Eight convolutions and a linear layer, of which two pairs are residual
    (https://github.com/davidcpage/cifar10-fast, the "ResNet-9" of the DAWNBench entries).

    Shapes, for B images: (B, 3, 32, 32) → (B, 64, 32, 32) → (B, 128, 16, 16) → (B, 256, 8, 8) → (B, 512, 4, 4)
    → (B, 512) → logits (B, num_classes). Images must be at least 8 × 8.

    Args:
        num_classes: Number of classes K, >= 1.
    """
    return nn.Sequential(
        _convolution(3, 64),
        _convolution(64, 128),
        nn.MaxPool2d(2),
        Residual(nn.Sequential(_convolution(128, 128), _convolution(128, 128))),
        _convolution(128, 256),
        nn.MaxPool2d(2),
        _convolution(256, 512),
        nn.MaxPool2d(2),
        Residual(nn.Sequential(_convolution(512, 512), _convolution(512, 512))),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(512, num_classes, bias=False),
        Scale(0.125),  # Max-pooled features are large and would saturate the softmax from the first step.
    )


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) → (B, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class PreActivationBlock(nn.Module):
    """Two 3×3 convolutions, each after normalisation and ReLU, with a shortcut.

    The shortcut is a 1×1 convolution of the activated input if the shape changes, and the input itself otherwise.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the first convolution, by which height and width are divided.
        dropout: Fraction of the features set to 0 between the convolutions, in [0, 1].
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        activated = self.activate(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.branch(activated)  # type: ignore[no-any-return]


def wide_resnet(num_classes: int = 10, depth: int = 28, widen_factor: int = 10, dropout: float = 0.0) -> nn.Sequential:
    """Build a wide residual network, WRN-depth-widen_factor; 36,479,194 parameters for WRN-28-10 and 10 classes.

    Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146. Smaller ones: WRN-28-2 has 1,467,610 parameters,
    WRN-16-4 has 2,748,890.

    Shapes, for B images and widen_factor k: (B, 3, 32, 32) → (B, 16, 32, 32) → (B, 16 k, 32, 32)
    → (B, 32 k, 16, 16) → (B, 64 k, 8, 8) → (B, 64 k) → logits (B, num_classes). Images may be of any size.

    Args:
        num_classes: Number of classes K, >= 1.
        depth: Number of convolutions, 6 n + 4 with n >= 1 blocks in each of the three groups.
        widen_factor: Width relative to the original ResNet, >= 1.
        dropout: Fraction of the features set to 0 inside each block, in [0, 1]; 0.3 in the paper.

    Raises:
        ValueError: If an option is out of its range.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise ValueError(f"depth must be 10, 16, 22, 28 or another 6 n + 4, not {depth}")
    if widen_factor < 1:
        raise ValueError(f"widen_factor must be at least 1, not {widen_factor}")
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    channels = 16
    for width, first_stride in [(16, 1), (32, 2), (64, 2)]:
        for block in range(blocks):
            stride = 1 if block else first_stride
            layers.append(PreActivationBlock(channels, width * widen_factor, stride, dropout))
            channels = width * widen_factor
    network = nn.Sequential(
        *layers,
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network
