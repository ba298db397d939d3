"""export: write a checkpoint as an ONNX or .pt2 file that takes images as they are."""

from collections.abc import Sequence

from cifar_lightning.commands.options.arguments import ArgumentParser
from cifar_lightning.io.text import command_line, say


def main(argv: Sequence[str]) -> int:
    """Export a checkpoint.

    Args:
        argv: The command and its arguments, with ``--ckpt_path`` resolved.

    Returns:
        The exit status.

    Raises:
        UsageError: If an option is wrong or the network can't be exported.
    """
    parser = ArgumentParser(
        "export",
        description="Write a checkpoint as an ONNX or .pt2 file that takes uint8 images and returns probabilities. "
        "The file is compared with the checkpoint before it is kept.",
    )
    parser.add_argument(
        "--ckpt_path", required=True, metavar="FILE", help="the checkpoint; best: that of the newest run"
    )
    parser.add_argument("--format", choices=("onnx", "pt2"), help="the format (that of --output, or onnx)")
    parser.add_argument("--output", metavar="FILE", help="the file to write (beside the checkpoint)")
    parser.add_argument("--model.arch", dest="arch", metavar="NET", help="the checkpoint's network, if it is your own")
    parser.add_argument(
        "--allow_custom_code", action="store_true", help="run the code of any network that the checkpoint names"
    )
    options = parser.parse_args(argv[1:])
    from cifar_lightning.inference.export import VERIFICATION_IMAGES, export_checkpoint

    result = export_checkpoint(
        options.ckpt_path,
        options.output,
        format=options.format,
        arch=options.arch,
        allow_custom_code=options.allow_custom_code,
    )
    card, size = result.card, result.path.stat().st_size / 1e6
    trust = ["--allow_custom_code"] if result.path.suffix == ".pt2" else []  # A .pt2 file is a program.
    command = command_line("cifar-lightning", "predict", "--ckpt_path", result.path, *trust)
    say(
        f"largest difference from the checkpoint's probabilities: {result.drawn_difference:.1e} on "
        f"{VERIFICATION_IMAGES} drawn images, {result.random_difference:.1e} on {VERIFICATION_IMAGES} random ones\n"
        f"written: {result.path} ({size:.1f} MB; images uint8 (B, {card.image_size}, {card.image_size}, 3) → "
        f"probabilities (B, {len(card.classes)}))\n"
        f"next:\n  {command} YOUR_IMAGES"
    )
    return 0
