"""The figures, from arrays."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cifar_lightning.reporting import figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_pixels_are_what_is_drawn() -> None:
    pixels = figures.to_pixels(grid())
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.std() > 0


def test_heat_maps_are_bright_where_heat_is_high() -> None:
    images, heat = np.full((1, 4, 4, 3), 100, np.uint8), np.zeros((1, 4, 4))
    heat[0, 1, 2] = 1
    both = figures.beside_heat(images, heat)
    assert np.array_equal(both[:, :, :4], images)
    brightness = both[0, :, 4:].sum(2, dtype=int)
    assert np.unravel_index(brightness.argmax(), (4, 4)) == (1, 2)
    assert (brightness == brightness.max()).sum() == 1


def grid(**options: object) -> Figure:
    images = np.zeros((3, 32, 32, 3), np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    return figures.prediction_grid(images, probabilities, ["cat", "dog"], **options)  # type: ignore[arg-type]


def test_correct_and_incorrect_predictions_differ_in_text_and_frame() -> None:
    figure = grid(labels=np.array([0, 1, 1]), title="Some")
    assert texts(figure) == ["✓ cat 90%", "✗ cat 80%\ntrue: dog", "✓ dog 70%"]
    frames = figure.axes[0].patches
    colours = [to_hex(frame.get_edgecolor()).upper() for frame in frames]
    assert colours == [figures.CORRECT, figures.INCORRECT, figures.CORRECT]
    assert frames[1].get_linewidth() > frames[0].get_linewidth()
    assert figure.get_suptitle() == "Some"


def test_without_labels_no_prediction_is_called_correct_or_incorrect() -> None:
    figure = grid(captions=["a.png", "b.png", "a name that is much too long to fit.png"])
    assert texts(figure)[::2] == ["cat 90%", "cat 80%", "dog 70%"]
    assert texts(figure)[1] == "a.png"
    assert len(texts(figure)[5]) <= 22
    figures.to_pixels(figure)


def test_a_long_title_is_broken_into_lines() -> None:
    lines = grid(title="word " * 40 + "\nnext").get_suptitle().splitlines()
    assert max(map(len, lines)) < 60
    assert lines[-1] == "next"


def test_misclassified_images_are_sorted_by_loss() -> None:
    probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.99, 0.01], [0.7, 0.3], [0.1, 0.9]])
    labels = np.array([1, 0, 1, 0, 1])
    chosen = figures.misclassified_by_loss(probabilities, labels, 2)
    assert chosen.tolist() == [2, 0]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    figure = figures.misclassified_grid(images, probabilities[chosen], labels[chosen], ["cat", "dog"])
    assert texts(figure) == ["✗ cat 99%\ntrue: dog", "loss 4.6", "✗ cat 60%\ntrue: dog", "loss 0.9"]
    assert figures.misclassified_by_loss(probabilities[3:], labels[3:], 2).tolist() == []
    figures.to_pixels(figures.misclassified_grid(images[:0], probabilities[:0], labels[:0], ["cat", "dog"], "none"))


def test_confusion_matrix_shows_counts_and_percentages() -> None:
    counts = np.array([[8, 2], [1, 0]])
    figure = figures.confusion_matrix(counts, ["cat", "dog"], "Title")
    assert texts(figure) == ["8\n80%", "2\n20%", "1\n100%", "0"]
    assert figure.get_suptitle() == "Title"


@pytest.mark.parametrize("count", [1, 21, 300])  # with counts, with names alone, and with neither
def test_many_classes_and_an_empty_one(count: int) -> None:
    classes = [f"class {k} of $many$" for k in range(count)]
    counts = np.diag(np.arange(count))
    pixels = figures.to_pixels(figures.confusion_matrix(counts, classes))
    assert max(pixels.shape) < 2000
    bounds = (np.zeros(count), np.ones(count))
    bars = figures.class_accuracy(counts.diagonal(), counts.sum(1), bounds, classes)
    shown = [label.get_text() for label in bars.axes[0].get_yticklabels()]
    assert len(shown) == min(count, 100)
    assert figures.to_pixels(bars).shape[0] < 2000


def test_the_best_class_is_on_top() -> None:
    correct, total = np.array([1, 9, 5, 0]), np.array([10, 10, 10, 0])
    bounds = (np.array([0.0, 0.6, 0.2, 0.0]), np.array([0.4, 1.0, 0.8, 1.0]))
    figure = figures.class_accuracy(correct, total, bounds, ["a", "b", "c", "none"])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["none", "a", "c", "b"]  # from the bottom


def probabilities_of(confidence: list[float]) -> NDArray[np.floating]:
    return np.array([[c, 1 - c] for c in confidence])


def test_the_reliability_diagram_names_the_calibration_error() -> None:
    # Four predictions with a confidence of 0.9, three of them correct, and an incorrect one with a confidence of 1.
    figure = figures.reliability_diagram(probabilities_of([0.9] * 4 + [1.0]), np.array([0, 0, 0, 1, 1]), "Title")
    assert "error 32.00%" in figure.get_suptitle()  # (4 · 0.15 + 1) / 5
    heights = [bar.get_height() for bar in figure.axes[0].patches[:2]]  # type: ignore[attr-defined]
    assert heights == [0.75, 0.0]
    figures.to_pixels(figure)


def test_learning_curves_need_not_be_complete() -> None:
    history = [
        {"epoch": 1, "train/loss": 2.0, "train/acc": 0.1},
        {"epoch": 2, "train/loss": 1.0, "train/acc": 0.5, "val/loss": 1.5, "val/acc": 0.4},
    ]
    loss, accuracy = figures.learning_curves(history).axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 2.0], [2, 1.0]], [[2, 1.5]]]  # type: ignore[union-attr]
    assert [line.get_label() for line in accuracy.lines] == ["training", "validation"]
    figures.to_pixels(figures.learning_curves([]))


def test_the_curves_of_one_epoch_have_whole_epochs_on_their_axis() -> None:
    figure = figures.learning_curves([{"epoch": 1, "train/loss": 2.0, "train/acc": 0.1}])
    figures.to_pixels(figure)
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [0, 1, 2]


def test_images_of_a_mosaic_are_in_their_places() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * np.ones((2, 3, 32, 32, 3), np.uint8)
    figure = figures.augmentation_grid(images[:, 0], images)
    (shown,) = figure.axes[1].images
    pixels = shown.get_array()
    assert pixels is not None
    assert [[int(pixels[34 * r + 5, 34 * c + 5, 0]) for c in range(3)] for r in range(2)] == [[0, 1, 2], [3, 4, 5]]
    figures.to_pixels(figure)


def test_corruption_curves_begin_at_the_clean_accuracy() -> None:
    examples = np.zeros((2, 5, 32, 32, 3), np.uint8)
    accuracy = {"gaussian_noise": [0.8, 0.7, 0.6, 0.5, 0.4], "pixelate": [0.9] * 5}
    axis = figures.corruption_curves(accuracy, 0.95, examples).axes[0]
    assert [np.asarray(line.get_ydata()).tolist() for line in axis.lines] == [
        [0.95, 0.8, 0.7, 0.6, 0.5, 0.4],
        [0.95] + [0.9] * 5,
    ]
    assert axis.lines[0].get_label() == "gaussian noise: mean 60.0%"
