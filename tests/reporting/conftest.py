from __future__ import annotations

from collections.abc import Callable

import pytest
import random_scans

from cmb_plugin.evaluation import CaseResult


@pytest.fixture
def random_cases() -> Callable[..., list[CaseResult]]:
    return random_scans.random_cases


@pytest.fixture
def one_of_each() -> list[CaseResult]:
    return random_scans.one_of_each()
