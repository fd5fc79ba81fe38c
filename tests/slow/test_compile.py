"Compiled steps, for every inner optimiser and a convolutional network: a minute or more each."
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_unroll import INNERS, problem, rel, test_compiled_steps_give_the_same_gradient  # noqa: E402

from dd_nb.unroll import Unroll, functional  # noqa: E402


@pytest.mark.parametrize('inner', INNERS[1:], ids=str)
def test_every_inner_optimiser(inner): test_compiled_steps_give_the_same_gradient(inner)


def test_a_convolutional_network():
    syn, state, batch = problem(2, 3, 'momentum', .02)
    fast = torch.autograd.grad(Unroll('recompute', compile=True)(syn, state, batch), syn.parameters())
    for a, b in zip(fast, torch.autograd.grad(Unroll('graph')(syn, state, batch), syn.parameters())): assert rel(a, b) < 1e-10


@pytest.mark.parametrize('policy', ['tracked', 'frozen', 'batch'])
def test_batchnorm(policy):
    syn, _, batch = problem(2, 3, 'momentum', .02)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(syn.images[0, 0].numel(), 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, syn.n_classes)).to(syn.images.dtype)
    syn = syn.with_bn(policy)
    fast = torch.autograd.grad(Unroll('recompute', compile=True)(syn, functional(net), batch), syn.parameters())
    for a, b in zip(fast, torch.autograd.grad(Unroll('graph')(syn, functional(net), batch), syn.parameters())): assert rel(a, b) < 1e-10
