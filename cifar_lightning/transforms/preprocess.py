"""Preprocessing: the only place where uint8 images become a network's input, in training, prediction and exports.

Decoding files is in ``decode``, augmentation in ``augment``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """Resize and normalise uint8 images.

    It is a module so that it is part of an exported network and moves with it between devices.

    Args:
        mean: Mean of each of the C channels, in [0, 1].
        std: Standard deviation of each channel, in (0, 1].
        size: Height and width that the images are resized to, in pixels, bilinearly with antialiasing; None keeps their
            size.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        super().__init__()
        self.size = size
        # This is (pixel / 255 - mean) / std as one multiplication and one addition.
        scale = 1 / (255 * torch.tensor(std))
        self.scale = nn.Buffer(scale.view(1, -1, 1, 1))
        self.shift = nn.Buffer((-255 * torch.tensor(mean) * scale).view(1, -1, 1, 1))

    def forward(self, images: Tensor, size: int | None = None) -> Tensor:
        """Resize and normalise a batch.

        Args:
            images: (B, C, H, W) uint8.
            size: Another size for this batch than the module's. Without antialiasing, which would take longer than
                such small images save; down to half the size, bilinear interpolation uses nearly all pixels anyway.

        Returns:
            (B, C, H, W) float32, channels-last; H and W are the size, or those of the images if there is none.
        """
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        if final := size or self.size:
            pixels = F.interpolate(pixels, (final, final), mode="bilinear", antialias=size is None)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        # Expanded to a row: otherwise a CPU's inner loop would run over the few channels of one pixel.
        scale, shift = (
            channels.expand(-1, -1, -1, pixels.shape[-1]).contiguous(memory_format=torch.channels_last)
            for channels in (self.scale, self.shift)
        )
        return pixels.mul_(scale).add_(shift)

    def restore(self, images: Tensor) -> Tensor:
        """Undo the normalisation, to show images as the network sees them.

        Args:
            images: (B, C, H, W) float, normalised.

        Returns:
            (B, C, H, W) uint8.
        """
        return ((images.float() - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
