import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cifar_lightning import figures


def test_pixels_are_what_is_drawn() -> None:
    pixels = figures.to_pixels(grid())
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.std() > 0


def grid(**options: object) -> Figure:
    images = np.zeros((3, 32, 32, 3), np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    return figures.prediction_grid(images, probabilities, ["cat", "dog"], **options)  # type: ignore[arg-type]


def test_right_and_wrong_are_told_apart_by_words_and_by_frame() -> None:
    figure = grid(labels=np.array([0, 1, 1]), title="Some")
    assert [axis.get_xlabel() for axis in figure.axes] == ["✓ cat 90%", "✗ cat 80%\ntrue: dog", "✓ dog 70%"]
    colours = [to_hex(axis.spines["top"].get_edgecolor()).upper() for axis in figure.axes]
    assert colours == [figures.RIGHT, figures.WRONG, figures.RIGHT]


def test_without_the_truth_nothing_is_called_right_or_wrong() -> None:
    figure = grid(captions=["a.png", "b.png", "a name that is much too long to fit.png"])
    assert [axis.get_xlabel() for axis in figure.axes] == ["cat 90%", "cat 80%", "dog 70%"]
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "a.png"
    assert len(titles[2]) <= 22
    figures.to_pixels(figure)


def test_confusion_matrix_shows_the_counts() -> None:
    counts = np.array([[8, 2], [1, 0]])
    axis = figures.confusion_matrix(counts, ["cat", "dog"], "Title").axes[0]
    assert [text.get_text() for text in axis.texts] == ["8", "2", "1", "0"]
    assert axis.get_title() == "Title"


def test_a_large_confusion_matrix_and_an_empty_row() -> None:
    figure = figures.confusion_matrix(np.diag(np.arange(100)), [f"class {k}" for k in range(100)])
    assert not figure.axes[0].texts
    figures.to_pixels(figure)
