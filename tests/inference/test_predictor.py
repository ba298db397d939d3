"""Predictor: class probabilities for images in any form, by a checkpoint or an exported file."""

import io
import json
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cifar_lightning import Predictor
from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import CLASSES, draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.predictor import Prediction, top_classes
from cifar_lightning.transforms.decode import ImageError, decode_image
from tests.conftest import WITHOUT_TORCH
from tests.serving.client import write_colours

ONLY = (
    WITHOUT_TORCH
    + """
import json
from cifar_lightning import Predictor
predictor = Predictor(sys.argv[1])
made = predictor(sys.argv[2:], top_k=10)
print(json.dumps([predictor.card.arch, [{each.label: each.probability for each in p.top} for p in made]]))
"""
)


@pytest.fixture
def predictor(trained: Path) -> Predictor:
    return Predictor(trained / "best.ckpt", device="cpu")


def pixels(count: int = 5, size: int = 48) -> NDArray[np.uint8]:
    return draw_images(count, 7, size)[0].numpy()


def shares(predictions: list[Prediction]) -> NDArray[np.float32]:
    """Return the probabilities of all classes, (n, K), which can be compared with a tolerance.

    Batch sizes, threads and programs sum in different orders, so the last digits differ, and with them the order of
    classes of nearly the same probability.
    """
    tables = [{each.label: each.probability for each in prediction.top} for prediction in predictions]
    return np.array([[table[name] for name in CLASSES] for table in tables])


def encoded(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_all_forms_of_an_image_are_the_same_image(predictor: Predictor, here: Path) -> None:
    images = pixels()
    (here / "0.png").write_bytes(encoded(images[0]))
    tensor = torch.from_numpy(images[0]).permute(2, 0, 1)
    forms = ["0.png", here / "0.png", encoded(images[0]), Image.fromarray(images[0]), images[0], tensor]
    (expected,) = predictor(images[0])
    for form in forms:
        assert predictor(form) == [expected]
    np.testing.assert_allclose(shares(predictor(forms, 10)), shares(predictor(images[:1], 10) * len(forms)), atol=1e-5)
    several = predictor(list(images))
    assert predictor(images) == several
    assert predictor(torch.from_numpy(images).permute(0, 3, 1, 2)) == several
    assert predictor([]) == []


def test_probabilities_against_a_plain_loop(predictor: Predictor, trained: Path) -> None:
    from cifar_lightning import ImageClassifier

    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    model = ImageClassifier(**checkpoint["hyper_parameters"]).eval()
    model.load_state_dict(checkpoint["state_dict"])
    images = np.stack([decode_image(Image.fromarray(image), 32) for image in pixels()])
    mean, std = (torch.tensor(checkpoint["ImageDataModule"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model(((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)).softmax(1).numpy()
    made = predictor.probabilities(images)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-5)
    (prediction,) = predictor(pixels()[0], top_k=10)
    np.testing.assert_allclose(shares([prediction]), expected[:1], atol=1e-5)
    probabilities = [each.probability for each in prediction.top]
    assert probabilities == sorted(probabilities, reverse=True)
    assert (prediction.label, prediction.probability) == (prediction.top[0].label, probabilities[0])
    with pytest.raises(FrozenInstanceError):
        prediction.top = ()  # type: ignore[misc]


def test_the_batch_size_makes_no_difference(trained: Path) -> None:
    images = pixels(7, 32)
    one, three = (Predictor(trained / "best.ckpt", device="cpu", batch_size=n).probabilities(images) for n in (1, 3))
    np.testing.assert_allclose(one, three, atol=1e-5)
    assert Predictor(trained / "best.ckpt").probabilities(images[:0]).shape == (0, 10)


def test_top_k(predictor: Predictor) -> None:
    image = pixels(1)
    assert [len(predictor(image, top_k=k)[0].top) for k in (1, 10, 99)] == [1, 10, 10]
    assert len(predictor(image)[0].top) == 3
    assert sum(each.probability for each in predictor(image, top_k=10)[0].top) == pytest.approx(1)
    assert [each.label for each in top_classes(np.array([0.25, 0.5, 0.25], np.float32), "abc", 3)] == ["b", "a", "c"]
    with pytest.raises(UsageError, match="top_k is 0"):
        predictor(image, top_k=0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
        torch.zeros(3, 32, 32),
        torch.zeros(3, dtype=torch.uint8),
        7,
    ],
    ids=["float", "grey", "alpha", "empty", "tensor of another layout", "float tensor", "flat tensor", "number"],
)
def test_what_is_no_image(predictor: Predictor, image: Any) -> None:
    with pytest.raises(UsageError, match="is no image"):
        predictor([pixels()[0], image])


def test_an_image_that_cannot_be_read_is_named(predictor: Predictor, here: Path) -> None:
    with pytest.raises(ImageError, match=r"image 1: it is not a PNG"):
        predictor([pixels()[0], b"no image"])
    with pytest.raises(ImageError, match=r"image 0 \(gone.png\): there is no such file"):
        predictor("gone.png")


def test_images_of_another_shape(predictor: Predictor) -> None:
    wrong: list[Any] = [pixels(2, 48), pixels(1, 32)[0], pixels(1, 32).astype(np.float32)]
    for images in wrong:
        with pytest.raises(UsageError, match=r"must be uint8 \(B, 32, 32, 3\)"):
            predictor.probabilities(images)


def test_threads_may_share_one(predictor: Predictor) -> None:
    images = pixels(64)
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda image: predictor(image, top_k=10)[0], images))
    np.testing.assert_allclose(shares(made), shares(predictor(images, top_k=10)), atol=1e-5)
    assert warnings.filters == filters


def test_an_image_that_may_not_be_written_to(predictor: Predictor) -> None:
    images = pixels(2, 32)
    images.flags.writeable = False
    assert predictor.probabilities(images[:, ::-1]).shape == (2, 10)


def test_test_time_augmentation(trained: Path, exported: Path) -> None:
    images = pixels(4, 32)
    plain, flipped = Predictor(trained / "best.ckpt"), Predictor(trained / "best.ckpt", tta="flip")
    assert not np.allclose(plain.probabilities(images), plain.probabilities(images[:, :, ::-1]), atol=1e-4)
    assert np.allclose(flipped.probabilities(images), flipped.probabilities(images[:, :, ::-1]), atol=1e-5)
    with pytest.raises(UsageError, match="must be none, flip or flip_translate"):
        Predictor(trained / "best.ckpt", tta="twist")
    with pytest.raises(UsageError, match="leave out tta"):
        Predictor(exported / "model.onnx", tta="flip")


def test_card(trained: Path, here: Path) -> None:
    run = shutil.copytree(trained, here / "runs" / "demo" / "version_0")
    before = Predictor(run / "best.ckpt").card
    assert (before.arch, before.dataset, before.image_size) == ("cnn", "synthetic", 32)
    assert before.classes == CLASSES
    assert before.test_accuracy is None
    assert set(before.versions) == {"cifar_lightning", "lightning", "torch"}
    assert main(["test", "--ckpt_path=best.ckpt"]) == 0
    result = json.loads((run / "test.json").read_text())
    card = Predictor(run / "best.ckpt").card
    assert card.test_accuracy == result["accuracy"]
    assert card.checkpoint_sha256 == result["checkpoint_sha256"]
    assert type(card).from_metadata(card.to_metadata()) == card
    # The accuracy is neither that of other settings nor that of another checkpoint.
    assert Predictor(run / "best.ckpt", tta="flip").card.test_accuracy is None
    (run / "best.ckpt").write_bytes((run / "last.ckpt").read_bytes() + b"\0")
    assert Predictor(run / "best.ckpt").card.test_accuracy is None


def test_a_network_of_ones_own_is_named(here: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3),\n"
        "                         nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, num_classes))\n"
    )
    words = ["--data.dataset=synthetic", f"--data.root={data_root}", "--trainer.limit_train_batches=2"]
    assert main(["fit", "--model.arch=own_net:Net", *words, "--trainer.max_epochs=1", "--data.val_size=0"]) == 0
    (path,) = here.glob("runs/*/version_0/last.ckpt")
    with pytest.raises(UsageError, match="arch='own_net:Net'"):
        Predictor(path)
    assert main(["export", "--ckpt_path", str(path)]) == 2
    assert main(["export", "--ckpt_path", str(path), "--model.arch=own_net:Net", "--output=own.onnx"]) == 0
    # the exported file holds no code, so nothing has to be named
    made, expected = (model(pixels(), 10) for model in (Predictor("own.onnx"), Predictor(path, arch="own_net:Net")))
    np.testing.assert_allclose(shares(made), shares(expected), atol=1e-4)


@pytest.mark.parametrize("name", ["model.ckpt", "model.onnx", "model.pt2"])
def test_files_that_are_no_models(name: str, here: Path) -> None:
    with pytest.raises(UsageError, match=f"there is no model {name}"):
        Predictor(name)
    (here / name).write_bytes(b"no model")
    with pytest.raises(UsageError, match=f"{name} (can't be|is not)"):
        Predictor(name, allow_custom_code=True)


def test_weights_of_another_network(trained: Path, here: Path) -> None:
    checkpoint = torch.load(trained / "best.ckpt", weights_only=True)
    for change in ({"arch": "resnet9"}, {"from_a_later_version": 1}):
        torch.save({**checkpoint, "hyper_parameters": {**checkpoint["hyper_parameters"], **change}}, "changed.ckpt")
        with pytest.raises(UsageError, match=r"are not those of its network, (resnet9|cnn)"):
            Predictor("changed.ckpt")


def test_models_of_other_programs(exported: Path, here: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, "other.onnx")
    program = torch.export.export(torch.nn.Identity(), (torch.zeros(1),))
    torch.export.save(program, "other.pt2")
    for name in ("other.onnx", "other.pt2"):
        with pytest.raises(UsageError, match=f"{name} can't be used: cifar-lightning export did not write it"):
            Predictor(name, allow_custom_code=True)


@pytest.mark.parametrize("device", ["cuda:77", "nonsense"])
def test_devices_that_are_not_there(exported: Path, trained: Path, device: str) -> None:
    for path in (trained / "best.ckpt", exported / "model.onnx", exported / "model.pt2"):
        with pytest.raises(UsageError, match=f"the device {device}"):
            Predictor(path, device=device, allow_custom_code=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(exported: Path, trained: Path) -> None:
    images = pixels(20, 32)
    expected = Predictor(trained / "best.ckpt", device="cpu").probabilities(images)
    for path in (trained / "best.ckpt", exported / "model.pt2"):
        made = Predictor(path, device="cuda", allow_custom_code=True).probabilities(images)
        np.testing.assert_allclose(made, expected, atol=1e-2)  # TF32


def test_onnx_needs_onnxruntime_numpy_and_pillow_alone(exported: Path, predictor: Predictor, here: Path) -> None:
    names = []
    for number, image in enumerate(pixels()):
        names.append(f"{number}.png")
        Path(names[-1]).write_bytes(encoded(image))
    words = [sys.executable, "-c", ONLY, str(exported / "model.onnx"), *names]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    arch, tables = json.loads(done.stdout)
    made = [[table[name] for name in CLASSES] for table in tables]
    assert arch == "cnn"
    np.testing.assert_allclose(made, shares(predictor(names, 10)), atol=1e-4)


def test_what_is_not_installed_is_named(exported: Path, trained: Path) -> None:
    commands = ["fit", "validate", "test", "bench", "sweep", "leaderboard", "models"]
    commands += ["predict x.png", "export", "serve"]
    options = {"serve": "--model", **dict.fromkeys(["validate", "test", "predict", "export"], "--ckpt_path")}
    checkpoint = trained / "best.ckpt"
    lines = [[*c.split(), *(f"{options[k]}={checkpoint}" for k in c.split() if k in options)] for c in commands]
    lines.append(["predict", "x.png", f"--ckpt_path={exported / 'model.onnx'}"])
    script = f"{WITHOUT_TORCH}from cifar_lightning.cli import main\nprint([main(words) for words in {lines}])"
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout.strip() == str([2] * len(lines)), done.stderr
    messages = done.stderr.strip().splitlines()
    assert len(messages) == len(lines)
    for message in messages[:-2]:
        assert "not installed: pip install cifar-lightning" in message
    assert "checkpoints and .pt2 files need PyTorch" in messages[-2]
    assert "predict needs rich, which is not installed: pip install rich matplotlib." in messages[-1]


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_the_command_predicts_what_predictor_does(
    name: str, exported: Path, trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own").mkdir()
    for number, image in enumerate(pixels()):
        (here / "own" / f"{number}.png").write_bytes(encoded(image))
    (here / "own" / "broken.png").write_bytes(b"no image")
    for path, output in [(exported / name, "exported.json"), (trained / "best.ckpt", "checkpoint.json")]:
        words = [f"--ckpt_path={path}", "own", "--output", output, "--top_k=10", "--allow_custom_code"]
        assert main(["predict", *words]) == 3
        assert Path(output).with_suffix(".png").exists()
    assert "no prediction for 1 of the 6 images" in capsys.readouterr().out
    rows, expected = (json.loads(Path(n).read_text()) for n in ("exported.json", "checkpoint.json"))
    predictor = Predictor(exported / name, device="cpu", allow_custom_code=True)
    predictions = predictor([f"own/{n}.png" for n in range(5)], top_k=10)
    for row, other, prediction in zip(rows[:5], expected[:5], predictions, strict=True):
        said, of_checkpoint = ({entry["label"]: entry["probability"] for entry in each["top"]} for each in (row, other))
        assert said == pytest.approx({each.label: each.probability for each in prediction.top}, abs=1e-4)
        assert said == pytest.approx(of_checkpoint, abs=1e-4)
    assert "not a PNG" in rows[5]["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.png", "--trainer.accelerator=gpu"], "unknown option --trainer.accelerator. With an exported"),
        ([], "images"),
        (["x.png", "--top_k=11"], "from 1 to 10"),
        (["x.png", "--device=nonsense"], "the device nonsense"),
    ],
)
def test_mistakes_with_an_exported_file(
    exported: Path, here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", f"--ckpt_path={exported / 'model.onnx'}", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd",
    [{"keepdims": 1}, {"axes": [1, 3]}, {"batch": 1}, {"output": "scores"}, {"scale": float("nan")}],
    ids=str,
)
def test_an_exported_file_that_computes_odd_things(
    odd: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colours(Path("odd.onnx"), **odd)
    assert main(["serve", "--model=odd.onnx", "--device=cpu", "--port=0"]) == 2
    assert "odd.onnx can't be used" in capsys.readouterr().err
