"""The network of the CIFAR-10 speedruns (airbench94, https://arxiv.org/abs/2404.00498), and its layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Whitening(nn.Conv2d):
    """A convolution whose fixed filters decorrelate the patches of the training images.

    Its filters are the eigenvectors of the patches' covariance, each scaled to unit variance, and their negatives:
    (B, C, H, W) → (B, 2·C·k², H - k + 1, W - k + 1). They are random until ``init_from_data`` is called. Only the bias
    is trained, and only at the beginning of training (https://arxiv.org/abs/2404.00498, section 3.2).

    Args:
        in_channels: Channels C of the images.
        kernel_size: Height and width k of a patch, in pixels.
    """

    bias_lr_ends = 3 / 8
    """Fraction of training after which the bias is no longer trained; see ``optim.build_schedule``."""

    def __init__(self, in_channels: int = 3, kernel_size: int = 2) -> None:
        super().__init__(in_channels, 2 * in_channels * kernel_size**2, kernel_size)
        self.weight.requires_grad_(False)
        self.initialised = nn.Buffer(torch.tensor(False))

    @torch.no_grad()
    def init_from_data(self, images: Tensor, eps: float = 5e-4) -> None:
        """Compute the filters, unless this has been done before.

        Args:
            images: (B, C, H, W) float, normalised training images.
            eps: Added to the variances, so that the patches' faintest details are not amplified without bound.
        """
        if self.initialised:
            return
        size = self.kernel_size[0]
        patches = F.unfold(images.float(), size).transpose(1, 2).flatten(0, 1)
        # The matrix is small, and not every accelerator supports eigh.
        variances, directions = torch.linalg.eigh((patches.T @ patches / len(patches)).cpu())
        filters = (directions / (variances + eps).sqrt()).T.view(-1, images.shape[1], size, size)
        self.weight.copy_(torch.cat([filters, -filters]))
        self.initialised.fill_(True)


class DiracConv(nn.Conv2d):
    """A 3×3 convolution whose first output channels are initially the unchanged inputs.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels; those beyond C have torch's default initialisation.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.dirac_(self.weight.data[:in_channels])


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation without a trained scale, whose statistics follow the latest batches closely.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class ScaledHead(nn.Linear):
    """A linear classifier without bias, and with a small factor on the logits, which sets how fast it learns.

    Args:
        in_features: Number of features.
        num_classes: Number of classes K.
        std: Standard deviation of the initial weights, including the factor.
        scale: The factor; with it, a gradient step changes the logits scale² times as much as without.
    """

    def __init__(self, in_features: int, num_classes: int, std: float, scale: float) -> None:
        super().__init__(in_features, num_classes, bias=False)
        self.scale = scale
        nn.init.normal_(self.weight, std=std / scale)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (B, K) of features (B, in_features)."""
        return super().forward(features) * self.scale


class GlobalMaxPool(nn.Module):
    """Take the maximum over each feature map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 1, 1)."""
        return F.max_pool2d(x, x.shape[-2:])


class SpeedNet(nn.Sequential):
    """Whitening, groups of convolutions, and a scaled head; see ``speednet``."""

    def init_from_data(self, images: Tensor) -> None:
        """Compute the filters of the first layer; called before the first training step.

        Args:
            images: (B, 3, H, W) float, the normalised images of that step.
        """
        whitening = self[0]
        assert isinstance(whitening, Whitening)
        whitening.init_from_data(images)


def speednet(
    num_classes: int = 10, widths: Sequence[int] = (64, 256, 256), depth: int = 2, whitening: int = 2
) -> SpeedNet:
    """Build the network of airbench94, meant for ``model.optimizer: muon`` and 32 × 32 images.

    Shapes, for B images: (B, 3, 32, 32) → (B, 24, 31, 31) → (B, 64, 15, 15) → (B, 256, 7, 7) → (B, 256, 3, 3) →
    (B, 256) → logits (B, num_classes); 1,971,352 trained parameters. Images may be of another size, from about
    18 × 18.

    Args:
        num_classes: Number of classes K, >= 1.
        widths: Number of channels of each group.
        depth: Number of convolutions in each group; the first one is followed by a max-pool.
        whitening: Height and width of the whitened patches, in pixels.
    """
    layers: list[nn.Module] = [Whitening(3, whitening), nn.GELU()]
    channels = 2 * 3 * whitening**2
    for width in widths:
        for convolution in range(depth):
            layers.append(DiracConv(channels, width))
            if convolution == 0:
                layers.append(nn.MaxPool2d(2))
            layers += [BatchNorm(width), nn.GELU()]
            channels = width
    head = ScaledHead(channels, num_classes, std=1 / channels, scale=1 / 72)
    return SpeedNet(*layers, GlobalMaxPool(), nn.Flatten(), head)
