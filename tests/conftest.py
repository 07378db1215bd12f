"""Settings of all tests."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import settings

# No deadline: times on a busy machine say nothing. No database: what one machine remembers, another would not try.
# The examples are those of a seed that is the same on every machine for a week, and another one in the next week. So a
# red run is a change or, on a Monday, a new example that was found: never chance, and in a year fifty times as many
# examples are tried as with one draw for ever. A red run names the seed; `--hypothesis-seed=202647`
# repeats that week, and `--hypothesis-profile=explore` looks for more.
settings.register_profile("weekly", deadline=None, database=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("weekly")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Gives hypothesis the seed of the week, unless the command line names one or looks for new examples."""
    if config.getoption("--hypothesis-seed") is None and config.getoption("--hypothesis-profile") != "explore":
        year, week, _ = datetime.datetime.now(tz=datetime.UTC).isocalendar()
        config.option.hypothesis_seed = 100 * year + week


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """After a red run, how to try the same examples again."""
    if exitstatus:
        terminalreporter.write_line(
            f"the examples were those of --hypothesis-seed={config.getoption('hypothesis_seed')}"
        )
