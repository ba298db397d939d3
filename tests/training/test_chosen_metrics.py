"""Metrics that the user chooses: torchmetrics' by name, and the user's own."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_auroc, multiclass_cohen_kappa, multiclass_f1_score

from cifar_lightning.cli import main
from cifar_lightning.errors import UsageError
from cifar_lightning.training.chosen_metrics import ChosenMetrics, list_metrics, metric_name
from cifar_lightning.training.metrics import EpochMetrics
from tests.conftest import RUN, Refusal, events

ME = "tests.training.test_chosen_metrics"


class Confidence(Metric):
    """The mean of the largest probability."""

    higher_is_better = True
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        self.total += probabilities.amax(1).sum()
        self.images += len(labels)

    def compute(self) -> Tensor:
        return self.total / self.images


class Acc(Confidence):
    pass


def test_names() -> None:
    names = ("F1Score", "CohenKappa", "AUROC", "MatthewsCorrCoef", "LogAUC", "my.module:FocalScore", "torchmetrics:A.B")
    short = ["f1", "cohen_kappa", "auroc", "matthews_corr_coef", "log_auc", "focal", "b"]
    assert [metric_name(name) for name in names] == short


def test_an_epoch_has_the_metrics_of_all_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator)
    logits[range(50), labels] += 1
    metrics = EpochMetrics(3, evaluation=True)
    metrics.chosen = ChosenMetrics(["F1Score", "CohenKappa", "AUROC", "Recall", f"{ME}:Confidence"], 3)
    for _ in range(2):  # Nothing is left of the first epoch in the second.
        for part in (slice(0, 7), slice(7, 40), slice(40, 50)):
            metrics.update(logits[part], labels[part], torch.tensor(0.0), torch.arange(50)[part])
        means = metrics.finish(further=True, chosen=True)
    probabilities, predicted = logits.softmax(1), logits.argmax(1)
    torch.testing.assert_close(means["f1"], multiclass_f1_score(probabilities, labels, 3, average="macro"))
    torch.testing.assert_close(means["auroc"], multiclass_auroc(probabilities, labels, 3, average="macro"))
    torch.testing.assert_close(means["cohen_kappa"], multiclass_cohen_kappa(probabilities, labels, 3))
    torch.testing.assert_close(means["confidence"], probabilities.amax(1).mean())
    by_hand = []
    for k in range(3):
        both = int(((predicted == k) & (labels == k)).sum())
        by_hand.append(2 * both / (int((predicted == k).sum()) + int((labels == k).sum())))
    evaluation = metrics.evaluation
    assert evaluation is not None
    assert set(evaluation.per_class) == {"precision", "f1", "auroc", "recall"}
    assert evaluation.per_class["f1"].tolist() == pytest.approx(by_hand)
    assert float(means["f1"]) == pytest.approx(sum(by_hand) / 3)
    recalls = evaluation.confusion.diagonal() / evaluation.confusion.sum(1)
    torch.testing.assert_close(evaluation.per_class["recall"], recalls)
    torch.testing.assert_close(means["recall"], recalls.mean())


def test_metrics_of_outputs_that_are_no_numbers_are_unknown() -> None:
    chosen = ChosenMetrics(["F1Score", "AUROC"], 2)
    values = chosen.compute(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]))
    assert all(value.isnan() for value in values.values())


def test_all_of_torchmetrics_can_be_measured_or_say_what_they_lack() -> None:
    refused = {}
    for name in list_metrics():
        try:
            (short,) = ChosenMetrics([name], 10).names
        except UsageError as error:
            refused[name] = str(error)
        else:
            assert ChosenMetrics([name], 2).direction(short) in ("max", "min"), name
    assert set(refused) <= {
        "ConfusionMatrix", "ExactMatch", "FBetaScore", "PrecisionAtFixedRecall", "PrecisionRecallCurve", "ROC",
        "RecallAtFixedPrecision", "SensitivityAtSpecificity", "SpecificityAtSensitivity", "StatScores",
    }  # fmt: skip
    assert "beta" in refused["FBetaScore"]
    assert "my_module:MyMetric" in refused["FBetaScore"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("[F1]", "Did you mean F1Score?"),
        ("[Precison]", "Did you mean Precision"),
        ("[ConfusionMatrix]", "(10, 10); a metric must be one number"),
        ("[F1Score, F1Score]", "as another metric is already"),
        (f"['{ME}:Acc']", "would be logged as val/acc"),
        ("['builtins:dict']", "it must be a torchmetrics.Metric"),
        ("['no_module:Metric']", "can't be imported"),
    ],
)
def test_metrics_that_can_not_be_measured_are_refused_before_training(
    metrics: str, message: str, refusal: Refusal
) -> None:
    assert message in refusal("fit", "--data.dataset=synthetic", f"--model.metrics={metrics}")


def test_metrics_are_logged_and_printed_and_tested_per_class(
    fit: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*fit, "--trainer.max_epochs=2", f"--model.metrics=[F1Score, CohenKappa, '{ME}:Confidence']"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert all(", f1 0." in line and ", cohen_kappa " in line and ", confidence 0." in line for line in lines)
    with (RUN / "metrics.csv").open(newline="") as file:
        logged = [float(row["val/f1"]) for row in csv.DictReader(file) if row["val/f1"]]
    assert [event.value for event in events(RUN).Scalars("val/f1")] == pytest.approx(logged)
    assert len(logged) == 2
    assert main(["test", f"--ckpt_path={RUN / 'best.ckpt'}"]) == 2, "its own metric is code"
    assert "the metrics of" in capsys.readouterr().err
    assert main(["test", f"--ckpt_path={RUN / 'best.ckpt'}", "--allow_custom_code"]) == 0
    said = capsys.readouterr().out
    result: dict[str, Any] = json.loads((RUN / "test.json").read_text())
    assert f"test/f1 {result['metrics']['f1']:.4f}, test/balanced_acc" in said
    assert f"test/cohen_kappa {result['metrics']['cohen_kappa']:.4f}, test/confidence" in said
    by_class = [entry["metrics"]["f1"] for entry in result["classes"].values()]
    assert result["metrics"]["f1"] == pytest.approx(sum(by_class) / 10)
    assert set(result["metrics"]) == {"f1", "cohen_kappa", "confidence"}
    assert f"{by_class[0]:.3f}" in next(line for line in said.splitlines() if "airplane" in line)
    page = (RUN / "report.html").read_text()
    assert "<th>f1</th>" in page
    assert f"<td>{by_class[0]:.3f}</td>" in page
    other = ["--model.metrics=[Recall]"]
    assert main(["validate", f"--ckpt_path={RUN / 'best.ckpt'}", *other]) == 0, "others may be measured later"
    assert "val/recall" in capsys.readouterr().out


def test_a_metric_of_a_checkpoint_is_not_imported_to_predict(
    fit: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own_metric.py").write_text(f"from pathlib import Path\nfrom {ME} import Confidence as Mine\n")
    monkeypatch.syspath_prepend(str(here))
    assert main([*fit, "--trainer.max_epochs=1", "--model.metrics=['own_metric:Mine']"]) == 0
    monkeypatch.delitem(sys.modules, "own_metric")
    (here / "own_metric.py").unlink()
    path = f"--ckpt_path={RUN / 'best.ckpt'}"
    image = str(next((RUN / "figures").glob("*.png")))
    assert main(["predict", path, image]) == 0
    assert main(["export", path, "--format=pt2"]) == 0
