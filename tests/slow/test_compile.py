"Compiled steps, for every inner optimiser and a convolutional network: a minute or more each."
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_unrolling import INNERS, problem, rel, test_compiled_steps_give_the_same_gradient  # noqa: E402

from dd_nb import speed  # noqa: E402
from dd_nb.rules import LOSSES   # noqa: E402
from dd_nb.unrolling import Unroll   # noqa: E402
from dd_nb.structure import functional   # noqa: E402


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


def test_a_changed_loss_is_compiled_anew(monkeypatch):
    syn, state, batch = problem(2, 3, 'sgd', .02)
    def grads(**kw): return torch.autograd.grad(Unroll('recompute', chunk=None, **kw)(syn, state, batch), syn.parameters())
    grads(compile=True)
    def sharper(out, y, inner=None): return torch.nn.functional.cross_entropy(2*out, y)
    monkeypatch.setattr(speed, 'loss_fn', sharper)
    monkeypatch.setitem(LOSSES, 'cross_entropy', sharper)
    for a, b in zip(grads(compile=True), grads()): assert rel(a, b) < 1e-10


@pytest.mark.parametrize('layer', [lambda: nn.BatchNorm1d(8, momentum=None), lambda: Branching()], ids=['cumulative', 'branching'])
def test_what_cannot_be_compiled_runs_without(layer):
    syn, _, batch = problem(2, 3, 'momentum', .02)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(syn.images[0, 0].numel(), 8), layer(), nn.Tanh(), nn.Linear(8, syn.n_classes)).to(syn.images.dtype)
    def grads(**kw): return torch.autograd.grad(Unroll('recompute', chunk=None, **kw)(syn, functional(net), batch), syn.parameters())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        fast = grads(compile=True)
    for a, b in zip(fast, grads()): assert rel(a, b) < 1e-10
    assert {str(w.message).split(':')[0] for w in said if 'compile' in str(w.message)} <= {'compile=True is left out, steps run as without it'}


class Branching(nn.Module):
    "Looks at numbers to decide what to do, which a trace cannot follow."
    def forward(self, x): return 2*x if x.sum() > 0 else x.clone()
