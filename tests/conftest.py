"Fixtures shared by all tests."
import os
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def data_root():
    "The folder of real data sets named by `DD_NB_DATA`; tests that need it are skipped, with a reason, where it is not set."
    root = os.environ.get('DD_NB_DATA')
    if not root: pytest.skip('DD_NB_DATA is not set: no real data at hand')
    if not Path(root).is_dir(): pytest.skip(f'DD_NB_DATA={root} is not a folder')
    return Path(root)
