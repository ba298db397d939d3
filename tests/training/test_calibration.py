"""Calibration: temperatures, accuracy by coverage, and what ``validate --calibrate`` stores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cifar_lightning import Predictor
from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.calibration import (
    HIGHEST,
    LOWEST,
    accuracy_by_coverage,
    calibrate,
    calibration_error,
    fit_temperature,
)
from cifar_lightning.training.checkpoint import Checkpoint, find_calibration


def draw(temperature: float, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw labels from softmax(z), and return logits that are z times a temperature, and the labels."""
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(count, 5, generator=generator)
    labels = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    return z * temperature, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = draw(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    best = F.cross_entropy(logits / found, labels)
    for other in (0.97 * found, 1.03 * found):
        assert F.cross_entropy(logits / other, labels) > best
    if temperature != 1:
        assert calibration_error(logits / found, labels) < calibration_error(logits, labels) / 2


def test_the_temperature_of_a_network_that_is_always_right_is_the_least() -> None:
    logits, labels = 10 * torch.eye(3), torch.arange(3)
    assert fit_temperature(logits, labels) == pytest.approx(LOWEST, rel=1e-6)
    assert fit_temperature(logits, labels.roll(1)) == pytest.approx(HIGHEST, rel=1e-6)


def test_accuracy_by_coverage() -> None:
    confidence = np.array([0.9, 0.5, 0.9, 0.7, 0.6])
    curve = accuracy_by_coverage(confidence, np.array([True, False, False, True, True]))
    assert curve[:, :3].tolist() == [[0.9, 0.4, 0.5], [0.7, 0.6, 2 / 3], [0.6, 0.8, 0.75], [0.5, 1.0, 0.6]]
    assert (curve[:, 3] < curve[:, 2]).all()


def test_outputs_that_are_no_numbers() -> None:
    with pytest.raises(UsageError, match="can't be calibrated"):
        calibrate(torch.full((2, 3), torch.nan), torch.tensor([0, 1]), "none")


@pytest.fixture
def calibrated(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A calibrated copy of a run's best checkpoint."""
    path = tmp_path / "best.ckpt"
    shutil.copy(trained / "best.ckpt", path)
    assert main(["validate", f"--ckpt_path={path}", "--calibrate"]) == 0
    return path


def probabilities(path: Path, count: int = 4) -> np.ndarray:
    predictor = Predictor(path, device="cpu")
    size = predictor.card.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return predictor.probabilities(images)


def test_validate_stores_it_and_predictions_use_it(
    trained: Path, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = capsys.readouterr().out
    assert "calibrated on " in out
    before, after = Checkpoint.read(trained / "best.ckpt"), Checkpoint.read(calibrated)
    assert find_calibration(before.content, "none") is None
    stored = find_calibration(after.content, "none")
    assert stored is not None
    assert f"temperature {stored['temperature']:.3f}" in out
    assert find_calibration(after.content, "flip") is None, "that of another test-time augmentation"
    assert all(torch.equal(after.weights[name], weight) for name, weight in before.weights.items())
    logits = np.log(probabilities(trained / "best.ckpt"))
    expected = torch.from_numpy(logits / stored["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(probabilities(calibrated), expected, atol=1e-5)


def test_calibrating_again_changes_nothing(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = find_calibration(Checkpoint.read(calibrated).content, "none")
    assert first is not None
    assert main(["validate", f"--ckpt_path={calibrated}", "--calibrate"]) == 0
    second = find_calibration(Checkpoint.read(calibrated).content, "none")
    assert second is not None
    assert second["temperature"] == pytest.approx(first["temperature"], rel=1e-4)


def test_a_resumed_training_is_not_calibrated(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert main(["validate", f"--ckpt_path={run / 'last.ckpt'}", "--calibrate"]) == 0
    assert find_calibration(Checkpoint.read(run / "last.ckpt").content, "none")
    epochs = Checkpoint.read(run / "last.ckpt").epochs_done
    assert main(["fit", f"--ckpt_path={run / 'last.ckpt'}", f"--trainer.max_epochs={epochs + 1}"]) == 0
    assert find_calibration(Checkpoint.read(run / "last.ckpt").content, "none") is None


def test_an_exported_file_is_calibrated_too(calibrated: Path) -> None:
    assert main(["export", f"--ckpt_path={calibrated}", "--format=onnx"]) == 0
    exported = Predictor(calibrated.with_suffix(".onnx"))
    assert exported.card.calibration == Predictor(calibrated).card.calibration
    np.testing.assert_allclose(probabilities(calibrated.with_suffix(".onnx")), probabilities(calibrated), atol=1e-4)


def test_not_sure(calibrated: Path, here: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", f"--ckpt_path={calibrated}", str(image_folder)]
    assert main([*words, "--min_confidence=0.999999", "--output=table.json"]) == 0
    out = capsys.readouterr().out
    rows = json.loads(Path("table.json").read_text())
    assert not any(row["sure"] for row in rows)
    assert f"not sure: {len(rows)} of the {len(rows)} images" in out
    assert main([*words, "--min_confidence=0", "--output=table.csv"]) == 0
    assert "sure" not in Path("table.csv").read_text().splitlines()[0]
    assert main([*words, "--min_accuracy=0.01", "--output=table.csv"]) == 0
    assert "sure" in Path("table.csv").read_text().splitlines()[0]
    predictions = Predictor(calibrated, min_confidence=0.3)(sorted(image_folder.rglob("*.png"))[:4])
    assert all(one.is_sure == (one.probability >= 0.3) for one in predictions)


def test_a_minimum_accuracy_is_that_of_the_validation_images(calibrated: Path, trained: Path) -> None:
    calibration = Predictor(calibrated).card.calibration
    assert calibration is not None
    lows = sorted(low for *_, low in calibration["curve"])
    chosen = Predictor(calibrated, min_accuracy=lows[len(lows) // 2]).min_confidence
    kept = [row for row in calibration["curve"] if row[0] == chosen]
    assert kept[0][3] >= lows[len(lows) // 2]
    with pytest.raises(UsageError, match=r"min_accuracy is 0\.9999"):
        Predictor(calibrated, min_accuracy=0.9999)
    with pytest.raises(UsageError, match="validate --calibrate"):
        Predictor(trained / "best.ckpt", min_accuracy=0.5)
    with pytest.raises(UsageError, match="exclude each other"):
        Predictor(calibrated, min_accuracy=0.5, min_confidence=0.5)
    with pytest.raises(UsageError, match=r"min_confidence is 1\.5"):
        Predictor(calibrated, min_confidence=1.5)
