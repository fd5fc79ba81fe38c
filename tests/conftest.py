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


@pytest.fixture(scope='session')
def blobs():
    "Three well separated classes of points: seconds become milliseconds."
    import torch
    import torch.nn.functional as F

    from dd_nb.data import data_from_tensors
    g = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 3
    x = torch.randn(600, 6, generator=g) + 3*F.one_hot(y, 6)
    return data_from_tensors(x[:450], y[:450], x[450:], y[450:], name='blobs')
