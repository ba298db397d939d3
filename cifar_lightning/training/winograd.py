"""Gradients of convolutions with fewer multiplications, for training on CPUs.

Winograd's minimal filtering (https://arxiv.org/abs/1509.09308) computes t × t outputs of a 3 × 3 convolution from
(t + 2)² products instead of 9·t². An image is cut into tiles that overlap by two pixels; tiles, filters and outputs go
through small constant matrices, and what remains is (t + 2)² products of matrices, summed over the channels. The same
matrices, transposed, give the gradients, where it pays most: PyTorch computes those of the filters on CPUs at little
more than half the speed of the convolution itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MIN_CHANNELS = 128 * 128
"""Input times output channels from which it is faster; measured on a processor with AVX2."""
CHUNK_BYTES = 12e6
"""Size of the transformed images that are processed at a time, which should stay in the last-level cache."""
MIN_SIZE = 3
"""Height and width of the images from which it is faster; a tile of smaller ones is mostly padding."""


class Winograd(TorchFunctionMode):
    """Computes the gradients of convolutions that are called in this context by Winograd's minimal filtering.

    It applies to 3 × 3 convolutions of many channels, with stride 1 and padding 1, of images of 3 × 3 or more pixels,
    in float32 on a CPU. Others, and those under autocast, are computed as usual. All outputs stay the same to the last
    bit; the gradients have the rounding errors of another order of operations, about 10⁻⁵ of their norm.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d and _applies(*args, **(kwargs or {})):
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _applies(
    input: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    one = (1, (1, 1), [1, 1])
    return (
        weight.shape[2:] == (3, 3)
        and math.prod(weight.shape[:2]) >= MIN_CHANNELS
        and groups == 1
        and all(size in one for size in (stride, padding, dilation))
        and input.ndim == 4
        and min(input.shape[2:]) >= MIN_SIZE
        and input.is_cpu
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def find_accelerated(network: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a network on the CPU that ``Winograd`` applies to, given large enough images."""
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    blank = torch.empty(1, 1, MIN_SIZE, MIN_SIZE)
    return [
        c
        for c in found
        if c.padding_mode == "zeros" and _applies(blank, c.weight, None, c.stride, c.padding, c.dilation, c.groups)
    ]


def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    return cast(Tensor, _Convolution.apply(input, weight, bias))


class _Convolution(torch.autograd.Function):
    """Images (B, C, H, W), filters (O, C, 3, 3) and a bias (O,) or none to (B, O, H, W)."""

    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, filters)
        return F.conv2d(images, filters, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, filters = ctx.saved_tensors
        needs_image_grad, needs_filter_grad, needs_bias_grad = ctx.needs_input_grad
        image_grad, filter_grad = None, None
        if needs_image_grad or needs_filter_grad:
            tiles = _Tiles(filters, *images.shape[2:])
            transposed = tiles.transform_filters(filters).mT.contiguous()
            product_grad_sum = transposed.new_zeros(transposed.mT.shape)
            image_grad = torch.empty_like(images) if needs_image_grad else None
            for start in range(0, len(images), tiles.chunk):
                chunk = slice(start, start + tiles.chunk)
                product_grad = _multiply(tiles.from_output, tiles.cut(gradient[chunk].permute(0, 2, 3, 1)))
                if needs_filter_grad:
                    factors = tiles.transform(images[chunk].permute(0, 2, 3, 1)).mT, product_grad
                    torch.baddbmm(product_grad_sum, *factors, out=product_grad_sum)
                if image_grad is not None:
                    tile_grad = _multiply(tiles.from_input, product_grad @ transposed)
                    image_grad[chunk] = tiles.add(tile_grad).permute(0, 3, 1, 2)
            filter_grad = tiles.gradient_of_filters(product_grad_sum) if needs_filter_grad else None
        return image_grad, filter_grad, gradient.sum((0, 2, 3)) if needs_bias_grad else None


class _Tiles:
    """How images of a size are cut into tiles, and the transformations of tiles, filters and gradients.

    All images are (b, H, W, C): their last dimension is the channels. Transformed tiles are ((t + 2)², b·tiles, C).

    Args:
        filters: (O, C, 3, 3).
        height: Height H of the images.
        width: Width W of the images.
    """

    def __init__(self, filters: Tensor, height: int, width: int) -> None:
        self.height, self.width = height, width
        # The size that computes the fewest pixels beyond the images' borders.
        area = {size: math.prod(-(-side // size) * size for side in (height, width)) for size in MATRICES}
        self.size = min(area, key=lambda size: (area[size], -size))
        self.from_output, self.to_input, self.from_input, self.to_filters = MATRICES[self.size]
        self.rows, self.columns = -(-height // self.size), -(-width // self.size)
        numbers = len(self.to_input) * self.rows * self.columns * sum(filters.shape[:2])
        self.chunk = max(1, int(CHUNK_BYTES / 4 / numbers))
        """Number of images that are transformed at a time."""

    def transform_filters(self, filters: Tensor) -> Tensor:
        """Turn filters (O, C, 3, 3) into ((t + 2)², C, O)."""
        return _multiply(self.to_filters, filters.permute(2, 3, 1, 0).flatten(0, 1))

    def gradient_of_filters(self, gradient: Tensor) -> Tensor:
        """Turn the gradient of transformed filters into that of the filters (O, C, 3, 3)."""
        return _multiply(self.to_filters.T, gradient).view(3, 3, *gradient.shape[1:]).permute(3, 2, 0, 1)

    def transform(self, images: Tensor) -> Tensor:
        """Cut images (b, H, W, C) into overlapping tiles, and transform them."""
        size, overlapping = self.size, self.size + 2
        right, bottom = self.columns * size - self.width, self.rows * size - self.height
        padded = F.pad(images, (0, 0, 1, right + 1, 1, bottom + 1))
        tiles = padded.unfold(1, overlapping, size).unfold(2, overlapping, size)  # (b, rows, columns, C, t + 2, t + 2)
        return _multiply(self.to_input, tiles.permute(4, 5, 0, 1, 2, 3).reshape(overlapping**2, -1, images.shape[-1]))

    def add(self, tiles: Tensor) -> Tensor:
        """Add up overlapping tiles ((t + 2)², b·tiles, C) to images (b, H, W, C)."""
        size, overlapping = self.size, self.size + 2
        tiles = tiles.view(overlapping, overlapping, -1, self.rows, self.columns, tiles.shape[-1])
        images = tiles.new_zeros(tiles.shape[2], self.rows + 1, size, self.columns + 1, size, tiles.shape[-1])
        inner = images.permute(2, 4, 0, 1, 3, 5)
        inner[:, :, :, :-1, :-1] = tiles[:size, :size]
        inner[:2, :, :, 1:, :-1] += tiles[size:, :size]
        inner[:, :2, :, :-1, 1:] += tiles[:size, size:]
        inner[:2, :2, :, 1:, 1:] += tiles[size:, size:]
        return images.flatten(3, 4).flatten(1, 2)[:, 1 : 1 + self.height, 1 : 1 + self.width]

    def cut(self, outputs: Tensor) -> Tensor:
        """Cut outputs (b, H, W, O) into tiles (t², b·tiles, O) that do not overlap."""
        size = self.size
        padded = F.pad(outputs, (0, 0, 0, self.columns * size - self.width, 0, self.rows * size - self.height))
        tiles = padded.view(-1, self.rows, size, self.columns, size, outputs.shape[-1])
        return tiles.permute(2, 4, 0, 1, 3, 5).reshape(size**2, -1, outputs.shape[-1])


def _multiply(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Multiply tiles (n, …) by a matrix (m, n): (m, …)."""
    return (matrix @ tiles.flatten(1)).view(-1, *tiles.shape[1:])


def _matrices(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the matrices from outputs, to and from tiles, and to filters, by the algorithm of Cook and Toom.

    A product of polynomials is determined by its values at ``size + 1`` points and at infinity; the convolution is its
    transpose. Each matrix acts on rows and columns at once, so it is the Kronecker product of one for a line.
    """
    points = torch.tensor([0, 1, -1, 2, -2][: size + 1], dtype=torch.float64)
    outputs, inputs, filters = (torch.zeros(size + 2, n, dtype=torch.float64) for n in (size, size + 2, 3))
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        outputs[row] = point ** torch.arange(size)
        inputs[row, :-1] = _polynomial(others)
        filters[row] = point ** torch.arange(3) / (point - others).prod()
    outputs[-1, -1] = filters[-1, -1] = 1
    inputs[-1] = _polynomial(points)
    output, tile, kernel = (torch.kron(m, m).float() for m in (outputs, inputs, filters))
    return output, tile, tile.T.contiguous(), kernel


def _polynomial(roots: Tensor) -> Tensor:
    """Return the coefficients of the polynomial with some roots, from the lowest to the highest power, which is 1."""
    coefficients = roots.new_ones(1)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


MATRICES = {size: _matrices(size) for size in (3, 4)}
"""The matrices of tiles of 3 × 3 and of 4 × 4 outputs."""
