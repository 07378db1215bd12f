"""What a data set says of its lesions beside their class: ``lesionsTr/{case}.json``, with place, contrast, protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json

from .dataset import Case

DOMAIN_KEYS = ("domain", "protocol", "scanner", "site")


@dataclass(frozen=True)
class LesionFacts:
    """Lists of one length N, in the order of the instances that were asked for.

    Attributes:
        domain: protocol, scanner or site of the scan; None where nobody says.
        regions: place of each lesion, None where unknown; None where no lesion has one.
        cnr: [N] contrast-to-noise ratio, NaN where unknown; None where no lesion has one.
    """

    domain: str | None = None
    regions: list[str | None] | None = None
    cnr: np.ndarray | None = None


def read_lesion_facts(case: Case, instances: Sequence[int]) -> LesionFacts:
    """The facts about the lesions with these numbers; empty where the data set has no such file.

    Raises:
        UserError: the file is no list of lesions with their instance numbers.
    """
    path = case.extra("lesions")
    if path is None:
        return LesionFacts()
    try:
        content = read_json(path)
        listed = {int(lesion["instance"]): lesion for lesion in content["lesions"]}
        domain = next((str(content[key]) for key in DOMAIN_KEYS if content.get(key)), None)
        regions = [listed.get(int(number), {}).get("region") for number in instances]
        if not all(region is None or isinstance(region, str) for region in regions):
            raise TypeError("a region is no name")
        cnr = np.array([float(listed.get(int(number), {}).get("cnr") or np.nan) for number in instances])
    except (KeyError, TypeError, ValueError, AttributeError):
        remedy = 'write {"lesions": [{"instance": 1, "region": "lobar"}]}, or remove the file'
        raise UserError(f"{path}: not a list of lesions with their instance numbers", remedy=remedy) from None
    some = any("region" in lesion for lesion in listed.values())
    measured = any("cnr" in lesion for lesion in listed.values())
    return LesionFacts(domain, regions if some else None, cnr if measured else None)
