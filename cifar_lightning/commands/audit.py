"""audit: look for faults of a data set: duplicates, suspected label errors, small classes and odd images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cifar_lightning.auditing.audit import Audit
from cifar_lightning.auditing.findings import CHECKS, Finding, to_csv
from cifar_lightning.auditing.labels import OutOfFold
from cifar_lightning.commands.fit import parse
from cifar_lightning.commands.session import session
from cifar_lightning.data.datamodule import ImageDataModule
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.errors import UsageError, did_you_mean
from cifar_lightning.io.files import prepare_output, write_output
from cifar_lightning.io.text import percent
from cifar_lightning.reporting.audit_page import audit_page
from cifar_lightning.training.launcher import refuse_processes


def main(argv: Sequence[str]) -> int:
    """Run the checks, print how much each one found, and write a page and a table.

    Args:
        argv: "audit" and its arguments: those of ``fit``, ``--out_of_fold``, ``--fail_on`` and ``--output``.

    Returns:
        The exit status: 1 if a check of ``--fail_on`` found something.

    Raises:
        UsageError: If the user made a mistake.
    """
    refuse_processes("audit")
    with session(training=False):
        cli = parse(argv[1:], command="audit", add_options=add_options, adjust=_adjust)
        options, data = cli.config, cli.datamodule
        sets = load_splits(data)
        audit = Audit(sets, Path(data.hparams["root"]).expanduser(), data.hparams["image_size"])
        named = [options.out_of_fold] if isinstance(options.out_of_fold, str) else options.out_of_fold or []
        classes = sets["train"].classes
        predictions = OutOfFold.average([OutOfFold.read(Path(name), classes) for name in named]) if named else None
        findings = audit.run(predictions)
        skipped = {} if predictions else {"label": NEEDS_FOLDS}
        page, table = Path(options.output), Path(options.output).with_suffix(".csv")
        write_output(page, audit_page(data.description, sets, findings, skipped, table.name))
        write_output(table, to_csv(findings))
        _print(findings, skipped, sets)
        if predictions:
            print(
                f"label: by networks that predict {percent(predictions.accuracy, 1)} of the labels out of fold; the "
                "lower that is, the more of the suspects are correct labels"
            )
        print(f"written: {page}, {table}")
    failed = [check for check in options.fail_on if any(finding.check == check for finding in findings)]
    if failed:
        print(f"failed: --fail_on {', '.join(failed)}")
    return int(bool(failed))


NEEDS_FOLDS = (
    "It needs predictions by networks that were not trained on the images: cifar-lightning fit --folds 5 with the same "
    "data options, and then cifar-lightning audit with --out_of_fold and the out_of_fold.csv that it writes."
)
"""What the search for label errors needs."""


def add_options(parser: Any) -> None:
    """Add the options that ``fit`` does not have."""
    parser.add_argument(
        "--out_of_fold",
        type=list[str] | str | None,
        default=None,
        help="The out_of_fold.csv of fit --folds, or several of other seeds, to search label errors; needs the audit "
        "extra.",
    )
    parser.add_argument(
        "--fail_on",
        type=list[str] | str,
        default=[],
        help="A check, such as leak, or several, [leak, conflict], that end with status 1 if they find anything.",
    )
    parser.add_argument(
        "--output", type=str, default="audit.html", help="The page to write; a CSV file of the same name is beside it."
    )


def _adjust(options: Any) -> None:
    """Check audit's own options, and let unreadable files not stop it, since it reports them."""
    options.fail_on = [options.fail_on] if isinstance(options.fail_on, str) else options.fail_on
    for check in options.fail_on:
        if check not in CHECKS:
            raise UsageError(
                f"--fail_on is {check}; it must be of {', '.join(CHECKS)}.{did_you_mean(check, tuple(CHECKS))}"
            )
    if "label" in options.fail_on and not options.out_of_fold:
        raise UsageError(f"--fail_on label: label errors are not searched. {NEEDS_FOLDS}")
    if Path(options.output).suffix == ".csv":
        raise UsageError(f"--output is {options.output}; name the page, such as audit.html.")
    prepare_output(Path(options.output))
    if options.data.dataset == "folder":
        options.data.skip_broken = True


def load_splits(data: ImageDataModule) -> dict[str, ImageSet]:
    """Load all splits that there are, in the order train, val, test."""
    data.prepare_data()
    data.setup("fit")
    if data.source.has("test") or data.hparams["test_size"]:
        data.setup("test")
    return {split: data.sets[split] for split in ("train", "val", "test") if split in data.sets}


def _print(findings: Sequence[Finding], skipped: Mapping[str, str], sets: Mapping[str, ImageSet]) -> None:
    table = Table(title=", ".join(f"{len(images):,} {split}" for split, images in sets.items()) + " images")
    table.add_column("check", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("what it looks for")
    for check, title in CHECKS.items():
        count = sum(finding.check == check for finding in findings)
        table.add_row(check, "–" if check in skipped else f"{count:,}", title.lower())
    Console().print(table)
    for check, note in skipped.items():
        print(f"{check}: not searched. {note}")
