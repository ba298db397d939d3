"""Predictions by Trainer.predict from Python; tests/commands/test_predict.py has the command and two processes."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from PIL import Image

from cifar_lightning import ImageClassifier, ImageDataModule
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.inference.image_files import prepare
from cifar_lightning.inference.trainer_prediction import PartWriter, predict_with_trainer


@pytest.fixture
def images(here: Path) -> list[str]:
    for number, image in enumerate(draw_images(5, 5, 40)[0]):
        Image.fromarray(image.numpy()).save(f"{number}.png")
    return [f"{number}.png" for number in range(5)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
def test_from_python(trained: Path, images: list[str]) -> None:
    model = ImageClassifier.load_from_checkpoint(trained / "best.ckpt", weights_only=True)
    data = ImageDataModule.load_from_checkpoint(trained / "best.ckpt", weights_only=True, eval_batch_size=2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    for output in (Path("first.csv"), Path("second.csv")):
        summary = predict_with_trainer(trainer, model, data, images, output, top_k=2)
        assert summary is not None
        assert (summary.images, summary.failed, summary.table, summary.top_k) == (5, 0, output, 2)
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()
    assert trainer.callbacks == callbacks, "none is left behind"  # type: ignore[attr-defined]
    assert not list(Path().glob(".*"))
    assert not trainer.predict_loop.predictions, "no probabilities are kept"


@pytest.fixture
def writer(images: list[str]) -> PartWriter:
    return PartWriter(prepare(images, ["cat", "dog"], Path("[p].csv"), None))


def write_part(writer: PartWriter, rank: int, lines: list[str]) -> None:
    writer.part(rank).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_parts_are_merged_in_the_order_of_the_files(writer: PartWriter, images: list[str]) -> None:
    write_part(writer, 0, ['[0, [["cat", 0.5]], ""]', '[2, [], "why"]', '[4, [["dog", 0.75]], ""]'])
    write_part(writer, 1, ['[1, [["cat", 0.25]], ""]', '[3, [["cat", 0.125]], ""]'])
    rows = list(writer.read_rows(2))
    assert [str(row.image) for row in rows] == images
    assert [row.top[0].probability if row.top else row.error for row in rows] == [0.5, 0.25, "why", 0.125, 0.75]
    writer.remove_parts()
    assert not list(Path().glob(".*"))


def test_rows_and_parts_that_are_missing(writer: PartWriter) -> None:
    write_part(writer, 0, ['[0, [["cat", 0.5]], ""]'])
    with pytest.raises(UsageError, match=r"another machine are not in .* Name an --output in a folder that all"):
        list(writer.read_rows(2))
    write_part(writer, 1, ['[1, [["cat", 0.5]], ""]'])
    with pytest.raises(UsageError, match=r"only 2 of the 5 images were predicted; nothing is written"):
        list(writer.read_rows(2))
