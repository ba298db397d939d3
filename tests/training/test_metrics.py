"""Metrics and intervals, from arrays."""

import numpy as np
import pytest

from cifar_lightning.training.metrics import wilson_interval


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
