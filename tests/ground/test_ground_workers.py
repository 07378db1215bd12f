"""One bad case never stops the others, in this process or in several."""

import os

import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.workers import failures, run_cases


def treat(item: int) -> int:
    if item == 1:
        raise UserError("case 1: broken", remedy="mend it")
    if item == 2:
        raise ZeroDivisionError("a bug")
    return item * 10


def die(item: int) -> int:
    if item == 0:
        os._exit(1)
    return item


@pytest.mark.parametrize("workers", [0, 2])
def test_outcomes_keep_their_order_and_name_what_went_wrong(workers):
    outcomes = run_cases(treat, [3, 1, 2, 0], workers=workers)
    assert [o.result for o in outcomes] == [30, None, None, 0]
    user, bug = failures(outcomes)
    assert (user.item, user.error, user.is_bug) == (1, "case 1: broken - mend it", False)
    assert bug.is_bug
    assert "ZeroDivisionError" in bug.details


def test_a_killed_worker_is_reported_and_nothing_hangs():
    outcomes = run_cases(die, [0, 1], workers=2)
    assert "killed" in outcomes[0].error
