"""Metrics and intervals, from arrays."""

import gc

import numpy as np
import pytest
import torch

from cifar_lightning.training.metrics import EpochMetrics, ExactSum, wilson_interval


def test_wilson_bounds_are_where_a_test_would_just_not_reject() -> None:
    correct, total = np.array([8, 1, 150, 9_300]), np.array([10, 10, 200, 10_000])
    for bound in wilson_interval(correct, total):
        deviations = np.abs(correct / total - bound) / np.sqrt(bound * (1 - bound) / total)
        np.testing.assert_allclose(deviations, 1.959964, rtol=1e-6)
    low, high = wilson_interval(np.array([0, 10]), np.array([10, 10]))
    assert (low[0], high[1]) == (pytest.approx(0), pytest.approx(1))
    assert high[0] == pytest.approx(0.2775, abs=1e-4)  # as printed in textbooks
    assert low[1] == pytest.approx(0.7225, abs=1e-4)


def test_the_interval_of_no_images_is_from_0_to_1() -> None:
    low, high = wilson_interval(np.array([0]), np.array([0]))
    assert [low.item(), high.item()] == pytest.approx([0, 1])


def test_the_loss_of_an_epoch_is_the_mean_over_its_images() -> None:
    metrics = EpochMetrics(2, evaluation=False)
    for _ in range(2):
        metrics.update(torch.tensor([[1.0, 0.0]] * 3), torch.tensor([0, 0, 1]), torch.tensor(2.0), torch.arange(3))
        metrics.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor(6.0), torch.arange(1))
        assert metrics.started
        assert metrics.finish(further=False) == {"loss": 3.0, "acc": 0.75}
        assert not metrics.started


def test_few_tensors_are_kept_during_an_epoch() -> None:
    """Each one may keep the allocator from using the memory of a whole batch again."""

    def count() -> int:
        return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())

    metrics = EpochMetrics(3, evaluation=False)
    before = count()
    for step in range(500):
        metrics.update(
            torch.eye(3)[[step % 3, 1]], torch.tensor([step % 3, 2]), torch.tensor(float(step)), torch.arange(2)
        )
    assert count() - before < 50
    means = metrics.finish(further=False)
    assert means["loss"] == 249.5
    assert means["acc"] == 0.5


def test_an_evaluation_stores_the_outputs_for_each_image() -> None:
    metrics = EpochMetrics(4, evaluation=True)
    logits = torch.tensor([[100.0, 0, 0, 0], [1, 100, 0, 0], [1, 3, 2, 0]])  # The softmax of 100 is exactly 1.
    labels, indices = torch.tensor([0, 0, 0]), torch.tensor([7, 5, 3])
    metrics.update(logits[:2], labels[:2], torch.tensor(0.0), indices[:2])
    metrics.update(logits[2:], labels[2:], torch.tensor(0.0), indices[2:])
    means = metrics.finish(further=True)
    confidence = float(logits[2].softmax(0)[1])
    # The last bin has two predictions, one of them wrong; another bin has one, which is wrong.
    assert float(means["ece"]) == pytest.approx((abs(2 * 1.0 - 1) + confidence) / 3, abs=1e-5)
    assert [round(float(means[name]), 3) for name in ("acc", "top2", "top3")] == [0.333, 0.667, 1.0]
    evaluation = metrics.evaluation
    assert evaluation is not None
    assert evaluation.indices.tolist() == [7, 5, 3]
    assert torch.equal(evaluation.logits, logits)
    assert evaluation.confusion.tolist() == [[1, 2, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    metrics.update(logits, labels, torch.tensor(0.0), indices)
    assert set(metrics.finish(further=False)) == {"loss", "acc"}
    assert set(EpochMetrics(2, evaluation=True).of_probabilities) == {"ece"}, (
        "the top 2 of two classes are always correct"
    )


def test_an_unfinished_epoch_continues_with_its_sums() -> None:
    whole, begun, resumed = (EpochMetrics(2, evaluation=False) for _ in range(3))
    batches = [
        (torch.tensor([[1.0, 0.0]] * n), torch.arange(n) % 2, torch.tensor(n / 7), torch.arange(n)) for n in (5, 3)
    ]
    for metrics in (whole, begun):
        metrics.update(*batches[0])
    assert begun.partial() == {"loss": pytest.approx(25 / 7), "images": 5, "correct": 3}
    resumed.resume(begun.partial())
    for metrics in (whole, resumed):
        metrics.update(*batches[1])
    assert resumed.finish(further=False) == whole.finish(further=False)
    assert whole.partial() == {}


def test_a_sum_does_not_depend_on_how_the_values_are_batched() -> None:
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    sums = []
    for size in (1, 7, 10_000):
        total = ExactSum()
        for batch in torch.split(values, size):
            total.update(batch)
        sums.append(float(total.compute()))
    assert sums == pytest.approx([float(values.double().sum())] * 3, rel=1e-14)
