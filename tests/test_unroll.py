"Training as a pure function, and its gradient."
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_nb.networks import MLP, ConvNet, LeNet
from dd_nb.synthetic import Inner, Synthetic
from dd_nb.unroll import Unroll, functional, train_step, trained, unroll

f64 = torch.float64
INNERS = [Inner('sgd'), Inner('sgd', weight_decay=.1), Inner('momentum'), Inner('momentum', nesterov=True, weight_decay=.01),
          Inner('adam'), Inner('adam', weight_decay=.1, beta1=.8)]


def torch_opt(inner, params, lr):
    if inner.name == 'adam': return torch.optim.Adam(params, lr, (inner.beta1, inner.beta2), inner.eps, inner.weight_decay)
    return torch.optim.SGD(params, lr, inner.momentum if inner.name == 'momentum' else 0, weight_decay=inner.weight_decay, nesterov=inner.nesterov)


def problem(steps=2, epochs=2, inner='sgd', lr=.1, soft=False, seed=0, shape=(1, 8, 8), n=6):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((steps, n, *shape), generator=g, dtype=f64)
    y = torch.rand(steps, n, 3, generator=g, dtype=f64).softmax(-1) if soft else torch.arange(n).expand(steps, n) % 3
    learn = ('images', 'labels', 'lrs') if soft else ('images', 'lrs')
    syn = Synthetic(x, y, 3, epochs, lr, inner, learn)
    batch = torch.randn((9, *shape), generator=g, dtype=f64), torch.arange(9) % 3
    # no norm layer: the gradient of a bias before one is zero but for rounding, which Adam would divide by itself
    net = ConvNet(shape, 3, width=4, depth=2, norm='none', act='softplus', seed=1).double()
    return syn, functional(net), batch


def rel(a, b): return ((a-b).norm()/b.norm()).item()


@pytest.mark.parametrize('inner', INNERS, ids=str)
@pytest.mark.parametrize('soft', [False, True])
def test_training_equals_torch_optim(inner, soft):
    syn, state, _ = problem(3, 2, inner, .01, soft)
    net = state.module().train()
    opt = torch_opt(inner, net.parameters(), .01)
    for t in range(syn.n_steps):
        x, y, _ = syn.batch(t)
        opt.zero_grad(); F.cross_entropy(net(x.detach()), y.detach()).backward(); opt.step()
    ours = trained(syn, state).params
    for k, v in net.named_parameters(): assert (ours[k] - v).abs().max() < 1e-12, k


@pytest.mark.parametrize('inner', INNERS, ids=str)
@pytest.mark.parametrize('soft', [False, True])
def test_hypergradient_equals_finite_differences(inner, soft):
    syn, state, batch = problem(2, 2, inner, .02, soft)
    grads = torch.autograd.grad(Unroll()(syn, state, batch), syn.parameters())
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        vs = [torch.randn(p.shape, generator=g, dtype=f64) for p in syn.parameters()]
        slope = sum((a*v).sum() for a, v in zip(grads, vs)).item()
        def L(h):
            s = syn.copy()
            for p, v in zip(s.parameters(), vs): p.data += h*v
            return Unroll()(s, state, batch).item()
        sweep = [abs((L(h)-L(-h))/(2*h) - slope)/abs(slope) for h in (1e-3, 1e-4, 1e-5, 1e-6)]
        print(f'{inner.name} soft={soft} seed={seed}', [f'{e:.0e}' for e in sweep])
        assert min(sweep) <= 1e-6


def test_hypergradient_equals_textbook_autograd_with_relu_and_max_pool():
    g = torch.Generator().manual_seed(0)
    syn = Synthetic(torch.randn(1, 10, 1, 28, 28, generator=g, dtype=f64), torch.arange(10)[None], epochs=3, lr=.1)
    net = LeNet(seed=0).double()
    x, y = torch.randn(16, 1, 28, 28, generator=g, dtype=f64), torch.arange(16) % 10
    ours = torch.autograd.grad(Unroll()(syn, functional(net), (x, y)), syn.parameters())
    images, raw = syn.images.detach().clone().requires_grad_(), syn.raw_lrs.detach().clone().requires_grad_()
    theta = {k: v.detach().requires_grad_() for k, v in net.named_parameters()}
    for t in range(3):
        l = F.cross_entropy(torch.func.functional_call(net, theta, (images[0],)), syn.labels[0])
        gs = torch.autograd.grad(l, list(theta.values()), create_graph=True)
        theta = {k: w - F.softplus(raw)[t]*q for (k, w), q in zip(theta.items(), gs)}
    textbook = torch.autograd.grad(F.cross_entropy(torch.func.functional_call(net, theta, (x,)), y), [images, raw])
    for a, b in zip(ours, textbook): assert rel(a, b) < 1e-10


def test_gradient_reaches_the_initial_weights():
    syn, state, batch = problem()
    for v in state.params.values(): v.requires_grad_()
    loss = Unroll()(syn, state, batch)
    grads = torch.autograd.grad(loss, list(state.params.values()))
    k, h = '0.weight', 1e-5
    v = torch.randn(state.params[k].shape, dtype=f64, generator=torch.Generator().manual_seed(0))
    def L(h):
        p = {n: t.detach() for n, t in state.params.items()}
        p[k] = p[k] + h*v
        return Unroll()(syn, functional(state.net).__class__(state.net, p), batch).item()
    slope = (grads[list(state.params).index(k)]*v).sum().item()
    assert abs((L(h)-L(-h))/(2*h) - slope) < 1e-6*abs(slope)


def test_dead_units_under_adam_do_not_give_nan():
    syn, _, batch = problem(inner='adam', lr=.01)
    net = MLP((1, 8, 8), 3, seed=0).double()
    with torch.no_grad(): net[1].bias.fill_(-100)     # the whole first layer is dead
    state = functional(net)
    assert (state.params['1.bias'] == -100).all()
    for g in torch.autograd.grad(Unroll()(syn, state, batch), syn.parameters()): assert torch.isfinite(g).all()


def test_adam_survives_zero_gradients_in_the_derivative():
    x = torch.zeros(1, 4, 5, dtype=f64)               # zero inputs: exact zero gradients of the first weights
    syn = Synthetic(x, torch.tensor([[0, 1, 0, 1]]), 2, 3, .01, 'adam')
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = torch.randn(6, 5, dtype=f64), torch.arange(6) % 2
    gs = torch.autograd.grad(Unroll()(syn, functional(net), batch), syn.parameters())
    assert all(torch.isfinite(g).all() for g in gs)


def test_nothing_of_the_users_is_changed():
    net = LeNet(seed=0).train()
    before = copy.deepcopy(net.state_dict())
    syn = Synthetic(torch.randn(1, 10, 1, 28, 28), torch.arange(10)[None], lr=.1)
    images = syn.images.detach().clone()
    out = syn.train(net)
    Unroll()(syn, functional(net), (torch.randn(4, 1, 28, 28), torch.arange(4))).backward()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.training
    assert torch.equal(syn.images, images)
    assert isinstance(out, nn.Module) and not torch.equal(out.state_dict()['0.weight'], before['0.weight'])
    assert not out.training and all(p.is_leaf for p in out.parameters())


def test_a_state_is_not_changed_by_training():
    syn, state, _ = problem(inner='adam')
    before = {k: v.clone() for k, v in state.params.items()}
    new = trained(syn, state)
    assert all(torch.equal(v, before[k]) for k, v in state.params.items()) and state.opt == {}
    assert new.opt['n'] == 4 and all(not v.requires_grad for v in new.params.values())


def test_batchnorm_trains_but_is_refused_for_hypergradients():
    net = ConvNet((1, 28, 28), 10, width=4, depth=2, norm='batch', seed=0)
    syn = Synthetic(torch.randn(1, 10, 1, 28, 28), torch.arange(10)[None], lr=.1)
    ref = copy.deepcopy(net).train()
    for t in range(3):
        x, y, lr = syn.batch(t)
        opt = torch.optim.SGD(ref.parameters(), float(lr.detach()))
        opt.zero_grad(); F.cross_entropy(ref(x.detach()), y).backward(); opt.step()
    for (k, a), b in zip(ref.state_dict().items(), syn.train(net).state_dict().values()): assert torch.allclose(a, b, atol=1e-5), k
    with pytest.raises(ValueError, match='without buffers'): Unroll()(syn, functional(net), (torch.randn(4, 1, 28, 28), torch.arange(4)))


def test_a_user_network_with_unused_parameters_and_any_terminal():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.unused = nn.Linear(5, 3), nn.Parameter(torch.ones(2))
        def forward(self, x): return self.a(x)
    syn = Synthetic(torch.randn(1, 4, 5), torch.tensor([[0, 1, 2, 0]]), 3, 2, .1, Inner('sgd', weight_decay=.1))
    d = unroll(syn, functional(Net()), lambda s: sum((v**2).sum() for v in s.params.values()))
    d.backward()
    assert syn.images.grad.abs().sum() > 0
    ref = Net()
    opt = torch.optim.SGD(ref.parameters(), .1, weight_decay=.1)
    out = syn.train(ref)
    for t in range(2): opt.zero_grad(); F.cross_entropy(ref(syn.images[0].detach()), syn.labels[0]).backward(); opt.step()
    for a, b in zip(out.parameters(), ref.parameters()): assert torch.allclose(a, b, atol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="strategy must be one of .*got 'magic'"): Unroll('magic')
    with pytest.raises(TypeError, match='net must be a torch.nn.Module'): functional('LeNet')
    with pytest.raises(ValueError, match='must have parameters'): functional(nn.ReLU())


def test_step_is_differentiable_only_on_request():
    syn, state, _ = problem()
    x, y, lr = syn.batch(0)
    assert not any(v.requires_grad for v in train_step(state, x, y, lr).params.values())
    assert all(v.requires_grad for v in train_step(state, x, y, lr, create_graph=True).params.values())
