"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline: times on a busy machine say nothing. The same examples on every machine, so that a red run means a
# change; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")
