"""The LightningModule: a network with its loss, its metrics and its optimizer.

Networks are in ``models``, optimizers and schedules in ``optim``, and metrics in ``metrics``.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_lightning.errors import UsageError
from cifar_lightning.io.custom import Plain
from cifar_lightning.models import create_model
from cifar_lightning.models.pretrained import (
    backbone_parameters,
    evaluate_frozen,
    find_weights,
    get_backbone,
    load_weights,
    use_small_stem,
)
from cifar_lightning.training.averaging import Averaging
from cifar_lightning.training.callback_check import check_compatible
from cifar_lightning.training.checkpoint import FORMAT, find_calibration, upgrade
from cifar_lightning.training.chosen_metrics import ChosenMetrics
from cifar_lightning.training.divergence import are_finite, handle_divergence, stop_or_warn
from cifar_lightning.training.losses import CROSS_ENTROPY, build_loss, class_weights
from cifar_lightning.training.metrics import EpochMetrics
from cifar_lightning.training.optim import build_optimizer, build_schedule
from cifar_lightning.training.options import check_options
from cifar_lightning.training.winograd import Winograd
from cifar_lightning.transforms.augment import hash_integers, tta_views


def main_output(output: Any) -> Any:
    """Return the logits of a network's main head; in training mode its output may include auxiliary heads."""
    return output[0] if isinstance(output, tuple) else output


class ImageClassifier(LightningModule):
    """Trains any network that turns images (B, C, H, W) into logits (B, K).

    In training mode a network may return a tuple: its first element is trained, and auxiliary heads are not.

    It logs ``{train,val,test}/{loss,acc}``, the loss and the accuracy in [0, 1], both means over an epoch, and
    ``train/loss_step`` and ``lr`` every ``log_every_n_steps``. ``train/loss`` is the loss that is trained;
    ``{val,test}/loss`` are always the negative log-likelihood, so that runs with different losses compare. Validation
    and test also log what ``EpochMetrics.finish`` describes: calibration, top-2 and top-3 accuracy, and scores for
    classes of different size.

    Args:
        arch: The network: a built-in one (``cifar-lightning models``), ``torchvision:<name>``, ``timm:<name>``, or your
            own "package.module:Name".
        num_classes: Number of classes K; the command line takes it from the data.
        arch_options: The network's own options, by name.
        weights: Pretrained weights to start from: a name of torchvision, such as "IMAGENET1K_V1", a tag of timm, such
            as "a1_in1k", or a file. They are loaded when fit starts, into all layers but the last one.
        stem: "cifar" gives the first convolution a stride of 1 instead of 2, for small images; "keep" changes nothing.
        freeze: What is not trained: "all_but_head" (all but the last layer), "backbone" (all but the module that
            contains the last layer), or "none". Frozen layers stay in evaluation mode.
        backbone_lr: Factor of the backbone's learning rate, > 0.
        optimizer: "adam", "adamw", "sgd" (with Nesterov momentum) or "muon" (for convolutions, with sgd for all other
            weights).
        muon_linear: Whether muon also trains the weights of all linear layers but the last one.
        lr: Peak learning rate, > 0.
        weight_decay: Weight decay, >= 0, of all weights but biases and normalisation layers; with muon, of all but
            those that muon trains.
        momentum: Momentum of sgd and muon, in [0, 1).
        sgd_lr: Peak learning rate of the sgd beside muon, > 0.
        sgd_momentum: Momentum of the sgd beside muon, in [0, 1).
        schedule: "constant", "linear" or "cosine" (to 0, after a linear warm-up), or "onecycle".
        warmup: Fraction of training during which the learning rate rises, in [0, 1).
        ema: Decay of an exponential moving average of the weights, in [0, 1), such as 0.999; the averaged weights are
            validated, saved and used. 0 turns it off.
        swa: Fraction of training after which averaging of the weights starts, in [0, 1), such as 0.75; the averaged
            weights are validated, saved and used. 0 turns it off.
        label_smoothing: Label smoothing of the training loss cross_entropy, in [0, 1).
        loss: The training loss: "cross_entropy", a loss of PyTorch, such as "torch.nn:MultiMarginLoss", or your own
            "package.module:Name", from logits (B, K) and labels (B,) int64 to a mean ().
        loss_options: The loss's own options, by name.
        class_weights: Weights of the classes in the training loss cross_entropy: "none"; "balanced", by which all
            classes count the same, whatever their numbers of training images; or a list of numbers > 0, in their
            order.
        metrics: More metrics of validation and test: torchmetrics' classes for classification, such as F1Score,
            Precision and Recall, averaged over the classes, or your own "package.module:Name". F1Score is logged as
            val/f1.
        tta: Test-time augmentation in validate, test and predict: "flip" averages the logits of an image and its mirror
            image; "flip_translate" also those of both shifted by a pixel; "none" is fastest.
        stop_on_nan: Whether fit, validate and test end with an error after an epoch whose loss is not finite, and fit
            also before it writes a checkpoint of such a training. Otherwise they warn, and the metrics are NaN.
        compile: Whether fit compiles the network with torch.compile; it needs a C++ compiler, and some minutes.
        winograd: Whether fit computes the gradients of 3 × 3 convolutions of many channels with fewer multiplications,
            by Winograd's minimal filtering (https://arxiv.org/abs/1509.09308), on a CPU and in float32.

    Raises:
        UsageError: If a value is out of its range, or the network is unknown.
    """

    def __init__(
        self,
        arch: str = "cnn",
        num_classes: int = 10,
        arch_options: dict[str, Plain] | None = None,
        weights: str | None = None,
        stem: Literal["keep", "cifar"] = "keep",
        freeze: Literal["none", "backbone", "all_but_head"] = "none",
        backbone_lr: float = 1.0,
        optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adam",
        muon_linear: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        sgd_lr: float = 0.1,
        sgd_momentum: float = 0.9,
        schedule: Literal["constant", "linear", "cosine", "onecycle"] = "onecycle",
        warmup: float = 0.3,
        ema: float = 0.0,
        swa: float = 0.0,
        label_smoothing: float = 0.0,
        loss: str = CROSS_ENTROPY,
        loss_options: dict[str, Plain] | None = None,
        class_weights: str | list[float] = "none",
        metrics: list[str] | None = None,
        tta: Literal["none", "flip", "flip_translate"] = "none",
        stop_on_nan: bool = True,
        compile: bool = False,
        winograd: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_options(self.hparams)
        self.net: nn.Module = create_model(arch, num_classes, arch_options)
        if stem == "cifar":
            use_small_stem(self.net)
        if freeze != "none":
            for parameter in backbone_parameters(self.net, num_classes, all_but_head=freeze == "all_but_head"):
                parameter.requires_grad_(False)
            self.train()
        self.temperature = 1.0
        """What the logits are divided by in evaluation and prediction; see ``calibration``."""
        self._fresh = True  # No checkpoint has been loaded.
        self._tuning = False  # LearningRateFinder or BatchSizeFinder may be at work, before training starts.
        self._seed: int | None = None
        self._partial: dict[str, float] = {}
        self._ending: list[dict[str, Any]] = []  # Parameter groups whose training ends early.
        self.net.to(memory_format=torch.channels_last)

        self.train_metrics = EpochMetrics(num_classes, evaluation=False)
        self.val_metrics = EpochMetrics(num_classes, evaluation=True)
        self.test_metrics = EpochMetrics(num_classes, evaluation=True)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of normalised images (B, C, H, W)."""
        with Winograd() if self.training and self.hparams["winograd"] else nullcontext():
            output = self.net(images)
        return main_output(output) if self.training else output  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "ImageClassifier":
        super().train(mode)
        if self.hparams["freeze"] != "none":
            evaluate_frozen(self.net)
        return self

    @property
    def backbone(self) -> nn.Module:
        """The part of the network that Lightning's BackboneFinetuning freezes and unfreezes: all but the head."""
        return get_backbone(self.net, self.hparams["num_classes"])

    def configure_callbacks(self) -> list[Callback]:
        options, fitting = self.hparams, self.trainer.state.fn == "fit"
        average = options["ema"] or options["swa"]
        if fitting:
            check_compatible(self.trainer.callbacks, options, self.trainer.world_size)  # type: ignore[attr-defined]
        # As an option of the model rather than of the Trainer, averaging is stored in checkpoints and can be swept.
        device = self.trainer.strategy.root_device
        return [Averaging(device, options["ema"], options["swa"])] if fitting and average else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        partial = self.train_metrics.partial()
        checkpoint |= {"format": FORMAT, "seed": self._seed, "partial_epoch": partial}
        if self.hparams["stop_on_nan"] and self.trainer.state.fn == "fit" and not self._tuning:
            # Before it replaces the last checkpoint whose weights are of use.
            if not math.isfinite(loss := partial.get("loss", 0.0)):
                handle_divergence(self, "train", loss)
            if not are_finite(self.parameters()):
                stop_or_warn(self, "a weight is not a finite number")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._fresh = False
        self._seed = checkpoint.get("seed")
        upgrade(checkpoint)
        self.use_calibration(checkpoint)
        self._partial = checkpoint.get("partial_epoch", {})

    def use_calibration(self, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Divide logits by a checkpoint's temperature, and return its calibration, if it has one for this ``tta``."""
        calibration = find_calibration(checkpoint, self.hparams["tta"])
        self.temperature = calibration["temperature"] if calibration else 1.0
        return calibration

    def setup(self, stage: str) -> None:
        self._tuning = stage == "fit"
        options = self.hparams
        if stage == "fit":
            self._loss = build_loss(
                options["loss"],
                options["loss_options"],
                label_smoothing=options["label_smoothing"],
                class_weights=class_weights(options["class_weights"], self.trainer.datamodule),  # type: ignore[attr-defined]
                device=self.trainer.strategy.root_device,
            )
        if options["metrics"] and stage != "predict":
            chosen = ChosenMetrics(options["metrics"], options["num_classes"])
            self.val_metrics.chosen = self.test_metrics.chosen = chosen
        if self.hparams["compile"] and stage == "fit":
            on_gpu = self.trainer.strategy.root_device.type == "cuda"
            # Autotuning uses CUDA graphs, which avoid launching the many kernels of a small network one by one.
            self.net.compile(mode="max-autotune" if on_gpu else "default", dynamic=False)

    def _load_pretrained(self) -> None:
        """Load pretrained weights, unless a checkpoint has been loaded."""
        options = self.hparams
        if options["weights"] is not None and self._fresh:
            if self.trainer.local_rank == 0:  # The other processes find the file that this one has downloaded.
                find_weights(options["arch"], options["weights"])
            self.trainer.strategy.barrier()
            path = find_weights(options["arch"], options["weights"])
            load_weights(self.net, path, options["num_classes"], options["arch"], options["arch_options"])
        self._fresh = False

    def _check_classes(self) -> None:
        """Refuse data with another number of classes; the command line takes the number from the data."""
        outputs, classes = self.hparams["num_classes"], getattr(self.trainer.datamodule, "num_classes", None)  # type: ignore[attr-defined]
        if isinstance(classes, int) and classes != outputs:
            raise UsageError(
                f"the network has {outputs} outputs, but the data have {classes} classes. Build it for them: "
                f"ImageClassifier(…, num_classes={classes})."
            )

    def on_validation_start(self) -> None:
        self._check_classes()

    on_test_start = on_validation_start

    def on_fit_start(self) -> None:
        self._check_classes()
        self._tuning, self.temperature = False, 1.0  # That of a resumed checkpoint is not that of later weights.
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, LearningRateFinder | BatchSizeFinder) for callback in callbacks):
            # They have trained a few steps by now, and Lightning updates neither the schedule's rates nor its length.
            self.train_metrics.discard()
            self.val_metrics.discard()
            self.trainer.strategy.setup_optimizers(self.trainer)

    def on_train_start(self) -> None:
        self._seed = torch.initial_seed() if self._seed is None else self._seed
        # One process gets the sums, the others zeros, so that all know that the epoch has begun.
        self.train_metrics.resume({k: v * self.trainer.is_global_zero for k, v in self._partial.items()})
        self._partial = {}
        groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
        for group in groups:
            for parameter in group["params"]:  # https://github.com/Lightning-AI/pytorch-lightning/issues/21901
                parameter.requires_grad_(True)
        alone = self.trainer.world_size == 1  # DDP waits for the gradient of every parameter.
        self._ending = [group for group in groups if alone and group.get("lr_ends", 1.0) < 1]

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        # Random numbers of dropout and the like are a function of the position, so a resumed run draws the same.
        seed = hash_integers(cast(int, self._seed), self.trainer.current_epoch, batch_idx, self.trainer.global_rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would store a stack trace for each device type.
        if not batch[0].is_cpu:
            torch.get_device_module(self.device).manual_seed(seed)
        fresh = batch_idx == 0 and self.global_step == 0 and self.hparams["weights"] is None
        if fresh and hasattr(self.net, "init_from_data"):
            images = cast(Tensor, self.all_gather(batch[0]))  # (processes, B, C, H, W), or (B, C, H, W) in one process
            self.net.init_from_data(images.reshape(-1, *images.shape[-3:]))  # type: ignore[operator]
            if self.trainer.world_size > 1:  # Other processors may have computed eigenvectors of the opposite sign.
                self.net.load_state_dict(self.trainer.strategy.broadcast(self.net.state_dict()))
        for group in self._ending:
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)

    def probabilities(self, images: Tensor, *, tta: bool = True) -> Tensor:
        """Compute the probabilities of the classes.

        ``Trainer.predict``, ``Predictor``, exported files and figures all use this method.

        Args:
            images: (B, C, H, W) float, normalised.
            tta: Whether to use the test-time augmentation that ``model.tta`` names.

        Returns:
            (B, K) float32.
        """
        return self._logits(images, tta=tta).softmax(1)

    def _logits(self, images: Tensor, *, tta: bool) -> Tensor:
        views = tta_views(images, self.hparams["tta"] if tta else "none")
        return torch.stack([weight / self.temperature * self(view).float() for weight, view in views]).sum(0)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels, indices = batch
        logits = self(images)
        loss = self._loss(logits, labels)
        # A mixed image counts as one of the class that has the larger share.
        self.train_metrics.update(logits, labels if labels.ndim == 1 else labels.argmax(1), loss, indices)
        if (losses := getattr(self.trainer.datamodule, "sample_losses", None)) is not None:  # type: ignore[attr-defined]
            losses.update(indices, F.cross_entropy(logits.detach().float(), labels, reduction="none"))
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            groups = self.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
            # The first group that is trained to the end, at the full rate.
            whole = max(groups, key=lambda group: (group.get("lr_ends", 1.0), group.get("lr_factor", 1.0)))
            self.log_dict({"train/loss_step": loss, "lr": whole["lr"]})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the probabilities of the classes, (B, K) float32."""
        return self.probabilities(batch[0])

    def _evaluate(self, batch: tuple[Tensor, Tensor, Tensor], metrics: EpochMetrics) -> None:
        images, labels, indices = batch
        # Between the epochs of a training, test-time augmentation would cost more than it is worth.
        logits = self._logits(images, tta=self.trainer.state.fn != "fit")
        metrics.update(logits, labels, F.cross_entropy(logits, labels), indices)

    def on_train_epoch_end(self) -> None:
        if self.train_metrics.started:  # It is not if the run resumes from a checkpoint written after the last step.
            self._log_epoch("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics)

    def _log_epoch(self, stage: str, metrics: EpochMetrics) -> None:
        means = metrics.finish(
            # Between the epochs of a training they cost more than they are worth, unless a callback follows one.
            further=self.trainer.state.fn != "fit" or self._is_followed(stage, metrics.further),
            chosen=not self._tuning and not self.trainer.sanity_checking,
        )
        if not self._tuning and not means["loss"].isfinite():  # This waits for the device, once an epoch.
            handle_divergence(self, stage, float(means["loss"]))
            if stage != "train":  # The predicted classes mean nothing if the output is NaN.
                means = {name: mean if name == "loss" else mean.new_tensor(math.nan) for name, mean in means.items()}
        self.log_dict({f"{stage}/{name}": value for name, value in means.items()}, prog_bar=True)

    def _is_followed(self, stage: str, names: Iterable[str]) -> bool:
        """Tell whether a callback, such as that of best.ckpt, follows one of some metrics."""
        followed = {getattr(callback, "monitor", None) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        return not followed.isdisjoint(f"{stage}/{name}" for name in names)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Checkpoints are loaded by now, and LearningRateFinder trains before on_fit_start.
        self._load_pretrained()
        for module in self.net.modules():  # A previous training of this object may have ended its training.
            if hasattr(module, "bias_lr_ends") and self.hparams["freeze"] == "none":
                cast(Tensor, module.bias).requires_grad_(True)
        options, steps = self.hparams, self.trainer.estimated_stepping_batches
        if math.isinf(steps) and (options["schedule"] != "constant" or options["swa"]):
            what = f"swa {options['swa']}" if options["schedule"] == "constant" else f"schedule {options['schedule']}"
            raise UsageError(
                f"model.{what} needs a training of known length: set trainer.max_epochs or trainer.max_steps, or "
                "--model.schedule constant and --model.swa 0."
            )
        factor, classes = options["backbone_lr"], options["num_classes"]
        optimizer = build_optimizer(
            self.net,
            options["optimizer"],
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            momentum=options["momentum"],
            sgd_lr=options["sgd_lr"],
            sgd_momentum=options["sgd_momentum"],
            muon_linear=options["muon_linear"],
            lr_factors=dict.fromkeys(backbone_parameters(self.net, classes), factor) if factor != 1 else None,
            # Lightning does not clip gradients that a fused optimizer may have to unscale.
            fused=self.trainer.gradient_clip_val is None,
        )
        schedule = build_schedule(
            optimizer,
            options["schedule"],
            total_steps=1 if math.isinf(steps) else int(steps),
            warmup=0.0 if math.isinf(steps) else options["warmup"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
