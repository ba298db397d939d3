"""The page of an audit: every finding with its images."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from cifar_lightning.auditing.findings import CHECKS, EXPLANATIONS, Finding, Place
from cifar_lightning.data.image_set import ImageSet
from cifar_lightning.reporting.figures import to_png
from cifar_lightning.reporting.page import as_data_uri, load_template

SHOWN, SIDE = 60, 160
"""How many findings of a check are on the page, and the largest height and width of their images, in pixels."""


def audit_page(
    dataset: str, sets: Mapping[str, ImageSet], findings: Sequence[Finding], skipped: Mapping[str, str], csv: str
) -> str:
    """Return the page, in HTML.

    Args:
        dataset: The data set's name.
        sets: The images of each split.
        findings: What was found.
        skipped: The checks that were left out, each with what it needs.
        csv: The name of the file that has all findings.
    """
    groups = {check: [finding for finding in findings if finding.check == check] for check in CHECKS}
    return load_template("audit.html").render(
        dataset=dataset,
        sizes={split: len(images) for split, images in sets.items()},
        classes=len(sets["train"].classes),
        checks=CHECKS,
        explanations=EXPLANATIONS,
        counts={check: len(group) for check, group in groups.items()},
        skipped=skipped,
        csv=csv,
        groups=[
            {"check": check, "cards": [_card(finding, sets) for finding in islice(group, SHOWN)]}
            for check, group in groups.items()
            if group
        ],
    )


def _card(finding: Finding, sets: Mapping[str, ImageSet]) -> dict[str, Any]:
    return {
        "images": [_image(place, sets) for place in finding.places],
        "text": finding.text,
        "score": None if finding.score is None else f"{finding.score:.2f}",
    }


def _image(place: Place, sets: Mapping[str, ImageSet]) -> dict[str, str]:
    name = place.file or f"{place.split} image {place.index}"
    if place.index is None:
        return {"uri": "", "label": "", "name": name}
    image = Image.fromarray(sets[place.split].images[place.index].cpu().numpy())
    image.thumbnail((SIDE, SIDE))  # It makes no image larger.
    return {"uri": as_data_uri(to_png(np.asarray(image))), "label": place.label, "name": name}
