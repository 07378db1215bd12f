"""Prepared cases that the tests of training share."""

import pytest
from short_training import prepare_cases


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder that ``short_training.prepare_cases`` fills."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare_cases(folder)
    return folder
