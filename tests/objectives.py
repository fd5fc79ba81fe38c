"What the tests of the objectives share: a smooth network and a set of real digits, in double precision."
import pytest
import torch

from dd_nb.networks import ConvNet
from dd_nb.structure import functional
from dd_nb.synthetic import Synthetic


@pytest.fixture(scope='module')
def data(digits): return digits
@pytest.fixture(scope='module')
def batch(digits64): return digits64
def smooth(data, seed=0, **kw): return ConvNet(data.shape, data.n_classes, width=6, depth=1, act='softplus', seed=seed, **kw)
def state64(data, **kw): return functional(smooth(data, **kw).double())
def set64(data, ipc=2, **kw): return Synthetic.real(data, ipc=ipc, **kw).to(dtype=torch.float64)
def relative(a, b): return ((a - b).norm()/b.norm()).item()
