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


@pytest.fixture(scope='session')
def digits():
    "The digits at 8 x 8 pixels."
    from dd_nb.data import load_data
    return load_data('digits', size=8)


@pytest.fixture(scope='session')
def digits64(digits):
    "A batch of 64 of them, in float64."
    import torch
    return digits.to(dtype=torch.float64).batch(64, torch.Generator().manual_seed(0))


@pytest.fixture(scope='session')
def check_against_differences():
    "A function that checks an objective's gradient."
    import torch
    def check(f, syn, tolerance=1e-6, directions=4):
        "Gradients of all that S learns, along random directions, beside central differences at the best of several steps."
        ps = syn.named_parameters()
        grads = torch.autograd.grad(f(syn), list(ps.values()), materialize_grads=True, allow_unused=True)
        for i in range(directions):
            g = torch.Generator().manual_seed(i)
            ds = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in ps.values()]
            want = sum((a*d).sum() for a,d in zip(grads, ds)).item()
            def at(h):
                s = syn.copy()
                with torch.no_grad():
                    for k,d in zip(ps, ds): s.named_parameters()[k].add_(h*d)
                return f(s).item()
            errors = [abs((8*(at(h) - at(-h)) - at(2*h) + at(-2*h))/(12*h) - want)/abs(want) for h in (1e-3, 3e-4, 1e-4)]   # of fourth order
            assert min(errors) < tolerance, errors
            assert abs(want) > 1e-9
    return check
