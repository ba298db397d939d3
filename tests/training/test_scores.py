"""Scores of unbalanced classes are those of scikit-learn."""

import numpy as np
import pytest
import torch

from cifar_lightning.training.scores import binary_scores, class_scores, macro_scores

metrics = pytest.importorskip("sklearn.metrics", reason="needs the audit extra")


def draw(classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw logits and labels of unbalanced classes."""
    draw = np.random.default_rng(seed)
    labels = torch.from_numpy(draw.choice(classes, 300, p=draw.dirichlet(np.ones(classes))))
    logits = torch.from_numpy(draw.normal(size=(300, classes))).float()
    logits[torch.arange(300), labels] += 1
    return logits, labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 10, 100])  # Some of 100 have no images, or are never predicted.
def test_scores_of_classes(classes: int, seed: int) -> None:
    logits, labels = draw(classes, seed)
    predicted, true, every = logits.argmax(1).numpy(), labels.numpy(), np.arange(classes)
    confusion = metrics.confusion_matrix(true, predicted, labels=every)
    scores, means = class_scores(confusion), macro_scores(confusion)
    options = {"labels": every, "zero_division": 0}
    assert scores["precision"] == pytest.approx(
        metrics.precision_score(true, predicted, average=None, **options), rel=1e-12
    )
    assert scores["f1"] == pytest.approx(metrics.f1_score(true, predicted, average=None, **options), rel=1e-12)
    for name in ("precision", "recall", "f1"):
        expected = getattr(metrics, f"{name}_score")(true, predicted, average="macro", zero_division=0)
        assert means[name] == pytest.approx(expected, rel=1e-12)
    with pytest.warns() if set(predicted) - set(true) else np.errstate():
        assert means["balanced_acc"] == pytest.approx(metrics.balanced_accuracy_score(true, predicted), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_two_classes(seed: int) -> None:
    logits, labels = draw(2, seed)
    probabilities, scores = logits.softmax(1)[:, 1].numpy(), binary_scores(logits, labels)
    assert scores["auroc"].item() == pytest.approx(metrics.roc_auc_score(labels, probabilities), abs=1e-6)
    expected = metrics.average_precision_score(labels, probabilities)
    assert scores["average_precision"].item() == pytest.approx(expected, abs=1e-6)


def test_scores_that_are_not_defined() -> None:
    assert all(np.isnan(value) for value in macro_scores(np.zeros((3, 3), dtype=np.int64)).values())
    one_class = binary_scores(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    assert all(value.isnan() for value in one_class.values())
    not_a_number = binary_scores(torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1]))
    assert all(value.isnan() for value in not_a_number.values())
