import torch

from cifar_lightning.preprocess import Preprocess


def test_normalises_as_the_formula_says() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    made = Preprocess(mean, std)(images)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8
