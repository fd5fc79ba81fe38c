"Kernel ridge regression, with the kernel of an infinitely wide network and with the features of a finite one."
import math

import pytest
import torch
from torch import nn
from objectives import batch, data, relative, set64, smooth, state64   # noqa: F401 - fixtures among them

import dd_nb.soft_labels  # noqa: F401 - it gives S soft labels
from dd_nb.data import split_validation
from dd_nb.distillation import distill
from dd_nb.inits import RandomInit
from dd_nb.kernel import analytic_set, centred, FeatureRidge, KernelRidge, centred, fc_kernel, ridge
from dd_nb.networks import MLP
from dd_nb.pools import AgingPool
from dd_nb.synthetic import Synthetic
from dd_nb.penultimate import features_of
from dd_nb.structure import functional


def test_fc_kernel_is_the_limit_of_wide_networks():
    x,z = torch.randn(5, 7, dtype=torch.float64),torch.randn(4, 7, dtype=torch.float64)
    g,width = torch.Generator().manual_seed(0),40_000
    w,b = torch.randn(7, width, generator=g, dtype=torch.float64)*(2/7)**.5,torch.randn(width, generator=g, dtype=torch.float64)*.1
    def h(a): return torch.relu(a @ w + b)
    assert relative(2*h(x) @ h(z).T/width + .01, fc_kernel(x, z, 2, 'nngp')) < .03
    def d(a): return (a @ w + b > 0).double()
    first = 2*x @ z.T/7 + .01
    assert relative(2*h(x) @ h(z).T/width + .01 + 2*first*(d(x) @ d(z).T)/width, fc_kernel(x, z, 2, 'ntk')) < .03
    assert torch.allclose(fc_kernel(x, z, 1), first)

@pytest.mark.parametrize('depth', [1, 2, 3, 5])
@pytest.mark.parametrize('kind', ['ntk', 'nngp'])
def test_fc_kernel_is_a_kernel(depth, kind):
    x = torch.randn(12, 3, 4, dtype=torch.float64)
    K = fc_kernel(x, x, depth, kind)
    assert torch.allclose(K, K.T, atol=1e-12) and torch.linalg.eigvalsh(K)[0] > -1e-9*K.trace()
    one = fc_kernel(x[:1], x[:1], depth, kind)   # alone or among others: the same, and homogeneous of degree two up to the biases
    assert torch.allclose(one, K[:1, :1], rtol=1e-6)
    a,b = fc_kernel(x, x, depth, kind, var_b=0.),fc_kernel(3*x, 3*x, depth, kind, var_b=0.)
    assert torch.allclose(9*a, b)

def test_gradient_of_the_diagonal():
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    g, = torch.autograd.grad(fc_kernel(x, x).diagonal().sum(), x)
    assert g.isfinite().all()
    h,d = 1e-5,torch.randn(4, 6, dtype=torch.float64)
    def at(t): v = (x + t*d).detach(); return fc_kernel(v, v).diagonal().sum()
    assert abs((at(h) - at(-h)).item()/(2*h) - (g*d).sum().item()) < 1e-6

def test_ridge_equals_the_inverse_and_survives_doubles():
    x,t,y = torch.randn(9, 5, dtype=torch.float64),torch.randn(6, 5, dtype=torch.float64),torch.randn(9, 3, dtype=torch.float64)
    K,k = x @ x.T,t @ x.T
    want = k @ torch.linalg.inv(K + 1e-2*K.diagonal().mean()*torch.eye(9, dtype=K.dtype)) @ y
    assert relative(ridge(K, k, y, 1e-2), want) < 1e-10
    twice = torch.cat([x, x]).float()
    p = ridge(twice @ twice.T, t.float() @ twice.T, torch.cat([y, y]).float(), 0.)
    assert p.isfinite().all()
    with pytest.raises(FloatingPointError, match='no Cholesky factor'): ridge(torch.full((3, 3), math.nan), torch.ones(1, 3), torch.ones(3, 2))

def test_ridge_is_raised_to_a_thousandth_and_no_further():
    for reg in (1e-6, 5e-6, 0.):   # 5e-3 would have been enough
        with pytest.raises(FloatingPointError, match='even with a ridge of 0.001'): ridge(torch.diag(torch.tensor([1., 1., -.003])), torch.ones(1, 3), torch.ones(3, 2), reg)

def test_ridge_starting_from_zero_ends(): assert ridge(torch.zeros(2, 2) + torch.eye(2), torch.ones(1, 2), torch.ones(2, 1), 0.).isfinite().all()

def test_kernel_ridge_gradient(data, batch, check_against_differences):
    syn = Synthetic.means(data, ipc=2).to(dtype=torch.float64).softened('smoothed')   # not real ones: where two examples meet, the tangent kernel has a cusp
    check_against_differences(lambda s: KernelRidge(reg=1e-3)(s, None, batch), syn)
    check_against_differences(lambda s: KernelRidge(2, 'nngp', reg=1e-3)(s, None, batch), syn)

def test_feature_ridge_gradient(data, batch, check_against_differences): check_against_differences(lambda s: FeatureRidge(1e-3)(s, state64(data), batch), set64(data).softened('smoothed', 'softmax'))

def test_kernel_ridge_learns_and_judges(data):
    syn,source = Synthetic.real(data).softened('hard'),RandomInit(lambda: MLP(data.shape, 10))
    before = KernelRidge().judge(syn, None, data)
    history = distill(syn, source, data, KernelRidge(), iters=60, lr=.05, lr_labels=.01, n_valid=200, every=20, progress=False)
    after = KernelRidge().judge(syn, None, data)
    assert after > before + .05
    assert history.best_accuracy == pytest.approx(KernelRidge().judge(syn, None, split_validation(data, 200, 0)))   # the judge was the regression
    x,y = data.x_test,data.y_test
    s,k = syn.images.flatten(0, 1).double(),centred(syn.labels.flatten(0, 1), 10, torch.float64)
    assert after == pytest.approx((ridge(fc_kernel(s, s), fc_kernel(x.double(), s), k).argmax(1) == y).double().mean().item())

@pytest.mark.parametrize('bad', [dict(kind='x'), dict(depth=0), dict(depth=1.5), dict(reg=-1)])
def test_kernel_ridge_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): KernelRidge(**bad)

def test_embed(data):
    net = smooth(data)
    x = data.x_test[:5]
    assert torch.allclose(features_of(functional(net), x), net[:-1](x).flatten(1))
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.l = nn.Linear(64, 10)
        def forward(self, x): return self.l(x.flatten(1))
    own = Own()
    assert torch.equal(features_of(functional(own), x), x.flatten(1))
    with pytest.raises(TypeError, match='net must end in one linear layer'): features_of(functional(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))), x)

def test_frepo_with_a_pool(data):
    syn = Synthetic.means(data, epochs=20, lr=.02, inner='momentum').softened('smoothed', 'softmax')
    source = AgingPool(RandomInit(lambda: smooth(data, None)), size=2, max_age=5, lr=.01, inner='adam')
    history = distill(syn, source, data, FeatureRidge(), iters=30, lr=.02, n_valid=100, every=15, n_eval=1, progress=False)
    assert history.loss[-1] < history.loss[1] and history.skipped == 0


@pytest.mark.parametrize('classes', [2, 3, 10])
def test_a_set_by_a_formula(classes):
    "One image a class, with hard labels, on which linear ridge regression ends where it ends on all of T, to the last digits."
    g = torch.Generator().manual_seed(classes)
    x,y = torch.randn(300, 3, 4, 2, generator=g, dtype=torch.float64),torch.arange(300) % classes
    x = x + torch.randn(classes, 3, 4, 2, generator=g, dtype=torch.float64)[y]
    new = torch.randn(50, 24, generator=g, dtype=torch.float64)
    flat = x.flatten(1)
    for reg,reg_s in ((1e-2, 1e-6), (.1, 1e-3), (1e-4, 1e-8)):
        whole = ridge(flat @ flat.T, new @ flat.T, centred(y, classes, torch.float64), reg)
        s = analytic_set(x, y, classes, reg, reg_s)
        assert s.shape == (classes, 3, 4, 2)
        s = s.flatten(1)
        few = ridge(s @ s.T, new @ s.T, centred(torch.arange(classes), classes, torch.float64), reg_s)
        assert (few - whole).abs().max() < 1e-8*whole.abs().max()
    with pytest.raises(ValueError, match='reg_s must be smaller, got 30'): analytic_set(x, y, classes, reg_s=30)

def test_a_set_by_a_formula_for_few_examples():
    "Fewer examples than numbers, single precision: the ridge keeps it solvable."
    x,y = torch.randn(12, 1, 28, 28, generator=torch.Generator().manual_seed(0)),torch.arange(12) % 3
    s = analytic_set(x, y, 3).flatten(1)
    p = ridge(s @ s.T, x.flatten(1).double() @ s.T, centred(torch.arange(3), 3, torch.float64), 1e-6)
    assert torch.equal(p.argmax(1), y)
