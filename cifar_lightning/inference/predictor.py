"""Predictor: class probabilities for images in any form, by a checkpoint or an exported file.

An ONNX file needs only onnxruntime, numpy and pillow: nothing here imports PyTorch before it is needed.

B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning.errors import UsageError
from cifar_lightning.inference.card import Card, choose_confidence
from cifar_lightning.io.checkpoint_path import SHORTCUTS
from cifar_lightning.io.files import EXPORTED
from cifar_lightning.transforms.decode import ImageError, decode_image

if TYPE_CHECKING:
    from torch import Tensor, device, nn

ImageInput: TypeAlias = "str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor"
"""An image of any size: a file's path or bytes, a PIL image, an array (H, W, 3) or a tensor (3, H, W), uint8 RGB."""

Run: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Computes the probabilities (B, K) of a batch (B, H, W, C); several threads may call it at once."""


@dataclass(frozen=True)
class ClassProbability:
    """A class and its probability, in [0, 1]."""

    label: str
    probability: float


Guess = ClassProbability
"""The name in release 0.1.0."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        top: The most probable classes, best first.
        is_sure: Whether the first of them is as probable as the ``Predictor`` was told to require.
    """

    top: tuple[ClassProbability, ...]
    is_sure: bool = True

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """The probability of ``label``."""
        return self.top[0].probability


def top_classes(probabilities: NDArray[np.float32], classes: Sequence[str], top_k: int) -> tuple[ClassProbability, ...]:
    """Return the most probable classes of one image, best first.

    Args:
        probabilities: (K,).
        classes: The K classes' names.
        top_k: Number of classes to return; all if there are fewer.

    Raises:
        UsageError: If a probability is not finite: the model is broken then.
    """
    if not np.isfinite(probabilities).all():
        raise UsageError("the model is broken: its probabilities are not finite (NaN), so no class can be named.")
    best = (-probabilities).argsort(kind="stable")[:top_k]
    return tuple(ClassProbability(classes[k], float(probabilities[k])) for k in best)


class Predictor:
    """Classifies images with a checkpoint or an exported file; threads may share one predictor.

    Args:
        file: A checkpoint of ``fit``, or a file that ``export`` wrote (.onnx or .pt2). Checkpoints and ONNX files are
            read as plain data. A .pt2 file is a program.
        device: "cpu", "cuda", "cuda:1" or "mps"; "auto" uses an accelerator where there is one.
        arch: The network of a checkpoint, if it is your own code ("package.module:Class").
        allow_custom_code: Whether to run any code that a checkpoint names, or that a .pt2 file holds.
        allow_custom_arch: An older name of ``allow_custom_code``.
        batch_size: Most images to classify at once, >= 1.
        tta: Test-time augmentation of a checkpoint: "none", "flip" or "flip_translate"; None uses the checkpoint's
            setting. Exported files contain the setting of their checkpoint.
        min_confidence: The probability, in [0, 1], below which a prediction is not sure.
        min_accuracy: Instead of it, the accuracy in [0, 1) that the sure predictions should have: the confidence from
            which validation images had it. It needs a checkpoint that ``validate --calibrate`` has calibrated.

    Attributes:
        card: Facts about the model.
        batch_size: Most images to classify at once.
        min_confidence: The probability below which a prediction is not sure; 0 if none was asked for.

    Raises:
        UsageError: If the file can't be used, or the device is not available.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        device: str = "auto",
        arch: str | None = None,
        allow_custom_code: bool = False,
        allow_custom_arch: bool = False,
        batch_size: int = 64,
        tta: str | None = None,
        min_confidence: float | None = None,
        min_accuracy: float | None = None,
    ) -> None:
        path = Path(file)
        if not path.is_file():
            hint = (
                f" Predictor takes the path of a file, such as runs/demo/version_0/best.ckpt; for predict and the "
                f"commands, {file} is that of the newest run."
            )
            raise UsageError(f"there is no model {path} (in {Path.cwd()}).{hint * (str(file) in SHORTCUTS)}")
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
        if tta is not None and path.suffix in EXPORTED:
            raise UsageError(f"{path} contains its test-time augmentation: leave out tta, or name the checkpoint.")
        allow_custom_code |= allow_custom_arch
        self.batch_size = batch_size
        self._run: Run
        if path.suffix == ".onnx":
            self._run, self.card = _open_onnx(path, device)
        elif path.suffix == ".pt2":
            if not allow_custom_code:
                raise UsageError(
                    f"{path} is a program, and opening it runs whatever code is in it. If you trust whoever made it: "
                    "--allow_custom_code (in Python: allow_custom_code=True). An ONNX file is only data."
                )
            self._run, self.card = _open_pt2(path, device)
        else:
            self._run, self.card = _open_checkpoint(path, device, arch, allow_custom_code, tta)
        self.min_confidence = choose_confidence(self.card.calibration, min_confidence, min_accuracy)
        self._try(path)

    def _try(self, path: Path) -> None:
        """Classify two blank images to check that the model does what its card says."""
        size, expected = self.card.image_size, (2, len(self.card.classes))
        try:
            made = self._run(np.zeros((2, size, size, 3), np.uint8))
        except Exception as error:  # Networks and onnxruntime raise exceptions of any type.
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"{path} can't be used: it does not classify two images: {reason}") from error
        if not isinstance(made, np.ndarray) or made.dtype != np.float32 or made.shape != expected:
            kind = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise UsageError(
                f"{path} can't be used: for two images it returns {kind}; it must return float32 {expected}, a "
                f"probability for each of its {expected[1]} classes."
            )
        if not np.isfinite(made).all():
            raise UsageError(
                f"{path} can't be used: its probabilities are not finite (NaN). Did its training diverge? Take an "
                "earlier checkpoint, or train again with a smaller model.lr."
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The K classes' names."""
        return self.card.classes

    def __call__(self, images: ImageInput | Sequence[ImageInput], top_k: int = 3) -> list[Prediction]:
        """Classify images of any size.

        Args:
            images: One or several: paths, bytes of a file, PIL images, uint8 RGB arrays (H, W, 3), or uint8 RGB
                tensors (3, H, W), as torchvision decodes them. Also an array (B, H, W, 3) or a tensor (B, 3, H, W).
            top_k: Number of classes to name for each image, >= 1; all if there are fewer.

        Returns:
            A list with one prediction for each image, also for a single image.

        Raises:
            ImageError: If an image can't be read; the message says which.
            UsageError: If an argument is not an image, or ``top_k`` is less than 1.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; it must be at least 1.")
        listed = list_images(images)
        predictions = []
        for first in range(0, len(listed), self.batch_size):  # At most one batch is in memory.
            decoded = []
            for number, image in enumerate(listed[first : first + self.batch_size], first):
                try:
                    decoded.append(self.decode(image))
                except ImageError as error:
                    name = f" ({image})" if isinstance(image, str | Path) else ""
                    raise ImageError(f"image {number}{name}: {error}") from error
            rows = self.probabilities(np.stack(decoded))
            for row in rows:
                top = top_classes(row, self.classes, top_k)
                predictions.append(Prediction(top, top[0].probability >= self.min_confidence))
        return predictions

    def decode(self, image: ImageInput) -> NDArray[np.uint8]:
        """Decode one image as for training.

        Returns:
            (H, W, 3) uint8, RGB; H and W are ``card.image_size``.

        Raises:
            ImageError: If the image can't be read.
            UsageError: If it is an array or a tensor that is not an image, or of another type.
        """
        if isinstance(image, np.ndarray) or _is_tensor(image):
            image = _from_array(image)
        if not isinstance(image, str | Path | bytes | Image.Image):
            raise UsageError(
                f"a {type(image).__name__} is no image; give a path, bytes, a PIL image, an array or a tensor."
            )
        return decode_image(image, self.card.image_size)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the class probabilities of decoded images.

        Args:
            images: (B, H, W, 3) uint8 RGB, H and W ``card.image_size``; B may be 0.

        Returns:
            (B, K) float32; each row adds up to 1.

        Raises:
            UsageError: If the images have another type or shape.
        """
        size = self.card.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise UsageError(f"images are {images.dtype} {images.shape}; they must be uint8 (B, {size}, {size}, 3).")
        starts = range(0, len(images), self.batch_size)
        batches = [self._run(images[first : first + self.batch_size]) for first in starts]
        return np.concatenate(batches) if batches else np.empty((0, len(self.classes)), np.float32)


def list_images(images: Any) -> Sequence[ImageInput]:
    """Return one or several images, in any form that ``Predictor`` takes, as a sequence of images."""
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | Path | bytes | Image.Image):
        return [images]
    return list(images)


def _is_tensor(image: Any) -> bool:
    torch = sys.modules.get("torch")  # A caller with a tensor has already imported PyTorch.
    return torch is not None and isinstance(image, torch.Tensor)


def _from_array(image: Any) -> Image.Image:
    pixels = image if isinstance(image, np.ndarray) else image.numpy(force=True)
    channels = -1 if isinstance(image, np.ndarray) else 0
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[channels] != 3 or not pixels.size:
        raise UsageError(
            f"a {type(image).__name__} of {pixels.dtype} {pixels.shape} is no image; arrays must be uint8 "
            "(H, W, 3), tensors uint8 (3, H, W), in RGB."
        )
    return Image.fromarray(np.moveaxis(pixels, channels, -1))


def _open_onnx(path: Path, device: str) -> tuple[Run, Card]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{path} needs onnxruntime: pip install onnxruntime (or cifar-lightning[onnx]).") from error
    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if providers["cuda"] in onnxruntime.get_available_providers() else "cpu"
    if providers.get(kind) not in onnxruntime.get_available_providers():
        raise UsageError(
            f"the device {device} is not available: this onnxruntime offers "
            f"{', '.join(onnxruntime.get_available_providers())}. NVIDIA's GPUs need onnxruntime-gpu."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Log errors only.
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=[(providers[kind], {"device_id": number or "0"} if kind == "cuda" else {})]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base class.
        raise UsageError(f"{path} can't be read as ONNX: {' '.join(str(error).split())[:300]}") from error
    if (
        providers[kind] not in session.get_providers()
    ):  # onnxruntime falls back to the CPU when CUDA's libraries are missing.
        raise UsageError(f"the device {device} can't be used by onnxruntime: are CUDA's libraries installed?")

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (probabilities,) = session.run(["probabilities"], {"images": images})
        return probabilities  # type: ignore[no-any-return]

    return run, _read_card(path, session.get_modelmeta().custom_metadata_map)


def _open_pt2(path: Path, device: str) -> tuple[Run, Card]:
    place = _find_device(device)
    import torch
    from torch.export.passes import move_to_device_pass

    metadata = dict.fromkeys(Card.__dataclass_fields__, "")
    try:
        program = torch.export.load(path, extra_files=metadata)
    except Exception as error:  # torch.export does not document its exceptions.
        raise UsageError(f"{path} can't be read as a .pt2 file: {' '.join(str(error).split())[:300]}") from error
    card = _read_card(path, metadata)
    return _torch_run(move_to_device_pass(program, place).module(), place), card


def _open_checkpoint(
    path: Path, device: str, arch: str | None, allow_custom_code: bool, tta: str | None
) -> tuple[Run, Card]:
    place = _find_device(device)
    from cifar_lightning.inference.pipeline import load_pipeline

    pipeline, card = load_pipeline(path, arch, allow_custom_code, tta)
    return _torch_run(pipeline.to(place), place), card


def _read_card(path: Path, metadata: dict[str, str]) -> Card:
    try:
        return Card.from_metadata(metadata)
    except UsageError as error:
        raise UsageError(f"{path} can't be used: {error}") from error


def _find_device(name: str) -> device:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UsageError(
            "checkpoints and .pt2 files need PyTorch, which is not installed: pip install cifar-lightning, or use an "
            ".onnx file, which needs onnxruntime only."
        ) from error
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device  # The only check that works for devices of all types.
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(f"the device {name} is not available: {str(error).splitlines()[0]}") from error


def _torch_run(module: nn.Module, place: device) -> Run:
    import torch

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        writable = np.require(images, requirements=["C", "W"])  # torch warns of read-only arrays.
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = module(torch.from_numpy(writable).to(place)).cpu().numpy()
        return probabilities

    return run
