"Training as a pure function, and its gradient."
import copy
import gc
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_nb.networks import MLP, ConvNet, LeNet
from dd_nb.rules import Inner
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll,adjoint_norms,unroll
from dd_nb.speed import hypergradients
from dd_nb.choice import pick_strategy
from dd_nb.structure import functional,stack
from dd_nb.rules import loss_fn
from dd_nb.speed import real_loss
from dd_nb.train import train_step,trained
from dd_nb.ordinary import scored
from dd_nb.inits import RandomInit
from dd_nb.evaluation import evaluate

f64 = torch.float64
INNERS = [Inner('sgd'), Inner('sgd', weight_decay=.1), Inner('momentum'), Inner('momentum', nesterov=True, weight_decay=.01),
          Inner('adam'), Inner('adam', weight_decay=.1, beta1=.8), Inner('adamw', weight_decay=.1, loss='bce'),
          Inner('rmsprop', alpha=.9, weight_decay=.01), Inner('sgd', loss='mse'), Inner('momentum', loss='huber', delta=.1),
          Inner('sgd', temperature=3.)]


def torch_opt(inner, params, lr):
    if inner.name == 'adam': return torch.optim.Adam(params, lr, (inner.beta1, inner.beta2), inner.eps, inner.weight_decay)
    if inner.name == 'adamw': return torch.optim.AdamW(params, lr, (inner.beta1, inner.beta2), inner.eps, inner.weight_decay)
    if inner.name == 'rmsprop': return torch.optim.RMSprop(params, lr, inner.alpha, inner.eps, inner.weight_decay)
    return torch.optim.SGD(params, lr, inner.momentum if inner.name == 'momentum' else 0, weight_decay=inner.weight_decay, nesterov=inner.nesterov)


def plain_loss(inner, out, y):
    "The inner loss by torch's own names."
    if inner.loss == 'cross_entropy': return F.cross_entropy(out/inner.temperature, y)
    y = F.one_hot(y, out.shape[1]).to(out) if y.dim() == 1 else y
    if inner.loss == 'mse': return ((out - y)**2).mean()
    if inner.loss == 'bce': return -(y*F.logsigmoid(out) + (1 - y)*F.logsigmoid(-out)).mean()
    return F.huber_loss(out, y, delta=inner.delta)


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
        opt.zero_grad(); plain_loss(inner, net(x.detach()), y.detach()).backward(); opt.step()
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
        return Unroll()(syn, type(state)(state.net, p), batch).item()
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


def test_batchnorm_trains_as_ever():
    net = ConvNet((1, 28, 28), 10, width=4, depth=2, norm='batch', seed=0).double()   # in float32 rounding may put an activation on the other side of its kink
    syn = Synthetic(torch.randn(1, 10, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=f64), torch.arange(10)[None], lr=.1)
    ref = copy.deepcopy(net).train()
    for t in range(3):
        x, y, lr = syn.batch(t)
        opt = torch.optim.SGD(ref.parameters(), float(lr.detach()))
        opt.zero_grad(); F.cross_entropy(ref(x.detach()), y).backward(); opt.step()
    for (k, a), b in zip(ref.state_dict().items(), syn.train(net).state_dict().values()): assert torch.allclose(a, b, atol=1e-10), k


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
    with pytest.raises(ValueError, match='window must be at least 1, got 0'): Unroll(window=0)
    with pytest.raises(ValueError, match="place must be one of random, last, got 'first'"): Unroll(window=3, place='first')
    with pytest.raises(ValueError, match="with compile=True, got 'graph'"): Unroll('graph', compile=True)
    with pytest.raises(ValueError, match='chunk must be at least 1'): Unroll(chunk=0)
    syn, state, batch = problem()
    with pytest.raises(ValueError, match=r'at must name inner steps in 0..4, got \[5\]'): unroll(syn, state, lambda s: 0, at=[5])
    with pytest.raises(ValueError, match='at and window exclude each other'): unroll(syn, state, lambda s: 0, at=[1], window=2)
    with pytest.raises(ValueError, match='memory must be a positive number of bytes'): Unroll(memory=0)(syn, state, batch)
    with pytest.raises(ValueError, match='steps must be in 0..4'): trained(syn, state, steps=5)
    with pytest.raises(TypeError, match='augment must be a function'): Unroll('graph', augment=3)(syn, state, batch)
    with pytest.raises(ValueError, match='share one structure'): stack([state, functional(LeNet(seed=0))])
    with pytest.raises(ValueError, match='must have parameters'): functional(nn.ReLU())


def test_step_is_differentiable_only_on_request():
    syn, state, _ = problem()
    x, y, lr = syn.batch(0)
    assert not any(v.requires_grad for v in train_step(state, x, y, lr).params.values())
    assert all(v.requires_grad for v in train_step(state, x, y, lr, create_graph=True).params.values())


# --- every strategy is the same gradient ---

STRATEGIES = [dict(strategy='graph'), dict(strategy='hybrid'), dict(strategy='hybrid', offload=True), dict(strategy='recompute'), dict(strategy='segments'), dict(strategy='segments', offload=True), dict(strategy='auto', memory=1.)]
ids = [' '.join(map(str, k.values())) for k in STRATEGIES]


def textbook(syn, net, batch, perm=None, augment=None):
    "Plain autograd through the whole training, with torch.optim's formulas written out; shares no code with the library."
    inner = syn.inner
    w = [v.detach().clone().requires_grad_() for v in net.parameters()]
    start, names = list(w), [k for k, _ in net.named_parameters()]
    m, v = [torch.zeros_like(p) for p in w], [torch.zeros_like(p) for p in w]
    for t in range(syn.n_steps):
        x, y, lr = syn.batch(t)
        if perm is not None: x, y = x[perm], y[perm]
        if augment is not None: x = augment(x)
        out = torch.func.functional_call(net, dict(zip(names, w)), (x,))
        gs = torch.autograd.grad(plain_loss(inner, out, y), w, create_graph=True)
        if inner.name == 'adamw': w = [p*(1 - lr*inner.weight_decay) for p in w]
        else: gs = [g + inner.weight_decay*p for g, p in zip(gs, w)]
        if inner.name == 'sgd': steps = gs
        elif inner.name == 'rmsprop':
            v = [inner.alpha*a + (1-inner.alpha)*g**2 for a, g in zip(v, gs)]
            steps = [g/(b.sqrt() + inner.eps) for g, b in zip(gs, v)]
        elif inner.name == 'momentum':
            m = [inner.momentum*a + g for a, g in zip(m, gs)]
            steps = [g + inner.momentum*a for a, g in zip(m, gs)] if inner.nesterov else m
        else:
            m = [inner.beta1*a + (1-inner.beta1)*g for a, g in zip(m, gs)]
            v = [inner.beta2*a + (1-inner.beta2)*g**2 for a, g in zip(v, gs)]
            steps = [(a/(1-inner.beta1**(t+1)))/((b/(1-inner.beta2**(t+1))).sqrt() + inner.eps) for a, b in zip(m, v)]
        w = [p - lr*d for p, d in zip(w, steps)]
    x, y = batch
    loss = F.cross_entropy(torch.func.functional_call(net, dict(zip(names, w)), (x,)), y)
    return torch.autograd.grad(loss, [*syn.parameters(), *start])


def ours(syn, state, batch, **kw):
    state = replace(state, params={k: v.detach().clone().requires_grad_() for k, v in state.params.items()})
    loss = unroll(syn, state, lambda s: loss_fn(s(batch[0]), batch[1]), **kw)
    return torch.autograd.grad(loss, [*syn.parameters(), *state.params.values()])


@pytest.mark.parametrize('kw', STRATEGIES, ids=ids)
@pytest.mark.parametrize('inner', INNERS, ids=str)
@pytest.mark.parametrize('soft', [False, True])
def test_strategies_equal_plain_autograd_in_float64(kw, inner, soft):
    syn, state, batch = problem(3, 4, inner, .02, soft)
    for a, b in zip(ours(syn, state, batch, **kw), textbook(syn, state.module(), batch)): assert rel(a, b) < 1e-10


@pytest.mark.parametrize('kw', STRATEGIES[1:3], ids=ids[1:3])
@pytest.mark.parametrize('inner', INNERS, ids=str)
def test_strategies_equal_plain_autograd_in_float32(kw, inner):
    syn, state, batch = problem(3, 4, inner, .02)
    syn, state, batch = syn.to(dtype=torch.float32), state.to(dtype=torch.float32), (batch[0].float(), batch[1])
    net = state.module()
    plain, perm = textbook(syn, net, batch), torch.randperm(6, generator=torch.Generator().manual_seed(3))
    n = len(syn.parameters())
    error = max(rel(a, b) for a, b in zip(ours(syn, state, batch, **kw)[:n], plain))
    order = max(rel(a, b) for a, b in zip(textbook(syn, net, batch, perm)[:n], plain))   # what the order of summation alone does
    print(f'{inner.name}: {error:.1e}; permuting the batch: {order:.1e}')
    assert error < (3*max(order, 1e-6) if inner.name in ('adam', 'adamw', 'rmsprop') else 1e-5)


@pytest.mark.parametrize('kw', STRATEGIES[:3], ids=ids[:3])
def test_relu_and_max_pool_equal_plain_autograd(kw):
    g = torch.Generator().manual_seed(0)
    syn = Synthetic(torch.randn(2, 10, 1, 28, 28, generator=g, dtype=f64), torch.arange(10).expand(2, 10), epochs=3, lr=.1, inner='momentum')
    net = LeNet(seed=0).double()
    batch = torch.randn(16, 1, 28, 28, generator=g, dtype=f64), torch.arange(16) % 10
    for a, b in zip(ours(syn, functional(net), batch, **kw), textbook(syn, net, batch)): assert rel(a, b) < 1e-10


@pytest.mark.parametrize('kw', STRATEGIES[1:3], ids=ids[1:3])
@pytest.mark.parametrize('inner', [INNERS[3], INNERS[5]], ids=str)
def test_flat_memory_equals_finite_differences(kw, inner):
    syn, state, batch = problem(2, 3, inner, .02, True)
    grads = ours(syn, state, batch, **kw)[:3]
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        vs = [torch.randn(p.shape, generator=g, dtype=f64) for p in syn.parameters()]
        def L(h):
            s = syn.copy()
            for p, v in zip(s.parameters(), vs): p.data += h*v
            return loss_fn(trained(s, state)(batch[0]), batch[1]).item()
        slope = sum((a*v).sum() for a, v in zip(grads, vs)).item()
        sweep = [abs((L(h)-L(-h))/(2*h) - slope)/abs(slope) for h in (1e-3, 1e-4, 1e-5, 1e-6)]
        print([f'{e:.0e}' for e in sweep])
        assert min(sweep) <= 1e-6


@pytest.mark.parametrize('kw', STRATEGIES[1:4], ids=ids[1:4])
def test_minibatches_of_a_given_order(kw):
    syn, state, batch = problem(2, 2, 'adam', .02, True)
    syn = syn.minibatches(4, epochs=2, seed=1, lr=.02)
    assert syn.n_steps == 6
    for a, b in zip(ours(syn, state, batch, **kw), textbook(syn, state.module(), batch)): assert rel(a, b) < 1e-10


@pytest.mark.parametrize('kw', STRATEGIES[:4], ids=ids[:4])
def test_augmentation_is_differentiated_and_repeats_itself(kw):
    syn, state, batch = problem(2, 3)
    scale = torch.linspace(.5, 1.5, 8, dtype=f64)
    fixed = ours(syn, state, batch, augment=lambda x: x*scale, **kw)
    for a, b in zip(fixed, textbook(syn, state.module(), batch, augment=lambda x: x*scale)): assert rel(a, b) < 1e-10
    def noisy(x): return x*(1 + .3*torch.randn(len(x), 1, 1, 1, dtype=f64))
    state = replace(state, seed=7)
    before = torch.get_rng_state()
    got = ours(syn, state, batch, augment=noisy, **kw)
    assert torch.equal(torch.get_rng_state(), before)                     # the user's random numbers are not used up
    for a, b in zip(got, ours(syn, state, batch, strategy='graph', augment=noisy)): assert rel(a, b) < 1e-10
    assert rel(ours(syn, replace(state, seed=8), batch, augment=noisy, **kw)[0], got[0]) > 1e-3


@pytest.mark.parametrize('functional_dropout', [False, True])
def test_dropout_draws_the_same_mask_when_a_step_is_rebuilt(functional_dropout):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.d = nn.Linear(64, 16), nn.Linear(16, 3), nn.Identity() if functional_dropout else nn.Dropout(.5)
        def forward(self, x):
            h = self.d(torch.tanh(self.a(x.flatten(1))))
            return self.b(F.dropout(h, .5, self.training) if functional_dropout else h)
    torch.manual_seed(0)
    syn, _, batch = problem(2, 4)
    state = replace(functional(Net().double()), seed=3)
    a, b, c = (ours(syn, state, batch, strategy=s) for s in ('graph', 'recompute', 'segments'))
    for i, j, k in zip(a, b, c): assert rel(j, i) < 1e-10 and rel(k, i) < 1e-10
    assert rel(ours(syn, replace(state, seed=4), batch)[0], a[0]) > 1e-3
    one, two = trained(syn, state).params['a.weight'], trained(syn, state).params['a.weight']
    assert torch.equal(one, two)


class Viewing(nn.Module):
    "A network that wants its images, and what its convolutions return, contiguous."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4*6*6, 3)
    def forward(self, x): return self.out(F.softplus(self.conv(x)).view(len(x), -1))


def test_images_have_channels_last_where_the_network_takes_it():
    seen = []
    class Sees(nn.Module):
        def forward(self, x): seen.append(x.is_contiguous()); return x
    convolves = nn.Sequential(Sees(), nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4*6*6, 3))
    dense = nn.Sequential(Sees(), nn.Flatten(), nn.Linear(3*8*8, 3))
    for net, contiguous in ((convolves, False), (Viewing(), None), (dense, True)):
        seen.clear()
        net = net.double()
        syn, _, (x, y) = problem(2, 3, 'momentum', shape=(3, 8, 8))
        state, got = functional(net), []
        for kw in (dict(strategy='graph'), dict(strategy='recompute'), dict(strategy='segments', augment=lambda x: x.view(len(x), -1).view_as(x)*1.)):
            got.append(torch.autograd.grad(Unroll(chunk=4, **kw)(syn, state, (x, y)), syn.parameters()))
        final = syn.train(net)
        assert seen[-1:] == ([] if contiguous is None else [contiguous])
        exact = torch.autograd.grad(F.cross_entropy(trained(syn, state, create_graph=True)(x), y), syn.parameters())
        for g in got:
            for a, b in zip(g, exact): assert rel(a, b) < 1e-10
        assert all(v.is_contiguous() for v in final.parameters())


@pytest.mark.parametrize('kw', STRATEGIES[:3], ids=ids[:3])
def test_terminals_of_several_states(kw):
    syn, state, _ = problem(2, 3, 'momentum')
    def path(states): return sum((i+1)*sum(v.sin().sum() for v in s.params.values()) for i, s in enumerate(states))
    def grad(**kw): return torch.autograd.grad(unroll(syn, state, path, at=(5, 0, 2, 2, 6), **kw), syn.parameters())
    for a, b in zip(grad(**kw), grad(strategy='graph')): assert rel(a, b) < 1e-12
    h, v = 1e-6, torch.randn(syn.images.shape, dtype=f64, generator=torch.Generator().manual_seed(0))
    def L(h):
        s = syn.copy(); s.images.data += h*v
        return path([trained(s, state, steps=t) for t in (5, 0, 2, 2, 6)]).item()
    assert abs((L(h)-L(-h))/(2*h) - (grad(**kw)[0]*v).sum().item()) < 1e-6*abs((grad(**kw)[0]*v).sum().item())


@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
def test_gradients_reach_initial_buffers(strategy):
    class Net(nn.Module):
        "Keeps a moving average of its input, differentiably, and adds it."
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 3)
            self.register_buffer('mean', torch.zeros(64)); self.register_buffer('count', torch.tensor(0))
        def forward(self, x):
            x = x.flatten(1)
            if self.training: self.mean.mul_(.8).add_(.2*x.tanh().mean(0)); self.count.add_(1)
            return self.a(torch.tanh(x + self.mean))
    torch.manual_seed(0)
    syn, _, (x, y) = problem(2, 3)
    state = functional(Net().double())
    state.buffers['mean'].requires_grad_()
    loss = unroll(syn, state, lambda s: loss_fn(s(x), y), strategy)
    dx, db = torch.autograd.grad(loss, [syn.images, state.buffers['mean']])
    g = torch.Generator().manual_seed(0)
    vx, vb, h = torch.randn(dx.shape, dtype=f64, generator=g), torch.randn(db.shape, dtype=f64, generator=g), 1e-5
    def L(h):
        s = syn.copy(); s.images.data += h*vx
        return loss_fn(trained(s, replace(state, buffers=dict(state.buffers, mean=state.buffers['mean'].detach() + h*vb)))(x), y).item()
    slope = ((dx*vx).sum() + (db*vb).sum()).item()
    assert abs((L(h)-L(-h))/(2*h) - slope) < 1e-6*abs(slope)
    assert trained(syn, state).buffers['count'] == 6 and state.buffers['count'] == 0


@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
def test_windows_cut_the_gradient_and_nothing_else(strategy):
    syn, state, (x, y) = problem(3, 4)
    def term(s): return loss_fn(s(x), y)
    got = torch.autograd.grad(unroll(syn, state, term, strategy, window=5, place='last'), syn.parameters())
    start = trained(syn, state, steps=7)                                     # the first 7 of 12 steps, without a graph
    w = start
    for t in range(7, 12): w = train_step(w, *syn.batch(t), syn.inner, create_graph=True)
    for a, b in zip(got, torch.autograd.grad(term(w), syn.parameters())): assert rel(a, b) < 1e-10
    ends = set()
    for seed in range(60):
        seen = []
        unroll(syn, replace(state, seed=seed), lambda s: seen.append(s.opt['n']) or term(s), strategy, window=5)
        ends |= set(seen)
    assert ends == set(range(5, 13))                                         # every place, none twice as long
    whole, exact = (torch.autograd.grad(unroll(syn, state, term, strategy, window=k), syn.images)[0] for k in (12, None))
    assert torch.equal(whole, exact)
    ends = set()
    for seed in range(40):   # a window lies within what is left of a training that has begun
        unroll(syn, replace(start, seed=seed), lambda s: ends.add(s.opt['n']) or term(s), strategy, window=3, start=7)
    assert ends == {10, 11, 12}
    got = torch.autograd.grad(unroll(syn, state, term, strategy, window=(3, 9)), syn.parameters())   # a place of one's own
    w = trained(syn, state, steps=3)
    for t in range(3, 9): w = train_step(w, *syn.batch(t), syn.inner, create_graph=True)
    for a, b in zip(got, torch.autograd.grad(term(w), syn.parameters())): assert rel(a, b) < 1e-10
    for bad in ((9, 3), (3, 13), (-1, 3), (3, 3)):
        with pytest.raises(ValueError, match=r'window must be two inner steps in 0..12, in order, got'): unroll(syn, state, term, strategy, window=bad)
    with pytest.raises(ValueError, match='window must be a number of steps, or first and last of two'): Unroll(window=(1, 2, 3))


def test_what_is_kept():
    syn, state, (x, y) = problem(4, 25)
    def kept(strategy):
        out = {}
        unroll(syn, state, lambda s: out.update(n=len(next(iter(s.params.values())).grad_fn.way.kept.blocks[0])) or loss_fn(s(x), y), strategy)
        return out['n']
    assert kept('recompute') == 100 and kept('segments') == 10

def test_the_last_graphs_are_kept(monkeypatch):
    "Of a hundred steps those that fit are gone through once, the others twice."
    from dd_nb import unrolling
    syn, state, (x, y) = problem(4, 25)
    calls, step = [], unrolling.Step.__call__
    monkeypatch.setattr(unrolling.Step, '__call__', lambda self, s, *a, **kw: calls.append(s.opt['n']) or step(self, s, *a, **kw))
    for memory, twice in ((None, 75), (pick_strategy(syn, state, 1e9).states + 10.5*pick_strategy(syn, state, 1e9).graph/100, 90)):
        calls.clear()
        unroll(syn, state, lambda s: loss_fn(s(x), y), 'hybrid', memory=memory).backward()
        assert calls == [*range(100), *reversed(range(twice))], memory


def test_auto_picks_by_memory_and_says_so():
    syn, state, batch = problem(4, 25)
    picks = {m: pick_strategy(syn, state, m) for m in (1e9, 1e6, 1e4)}
    assert [p.strategy for p in picks.values()] == ['graph', 'hybrid', 'segments']
    one, states = picks[1e9].graph//100, picks[1e9].states
    assert 1 < picks[1e6].kept == (10**6 - states)//one < 100 and 'graphs' in str(picks[1e6])
    assert pick_strategy(syn, state, states + 1.5*one).strategy == 'recompute' and pick_strategy(syn, state, states + 2.5*one).kept == 2
    assert picks[1e9].steps == 100 and picks[1e9].graph > 1e6 > picks[1e9].states and 'budget 954 MB' in str(picks[1e9])
    assert pick_strategy(syn, state, 1e9, steps=1).graph*100 == picks[1e9].graph
    assert pick_strategy(syn, state, 1e9, compile=True).strategy == 'recompute'
    objective = Unroll(memory=1e6)
    objective(syn, state, batch)
    assert repr(objective) == "Unroll('auto'): hybrid"


def test_the_backward_pass_can_be_skipped_or_partial():
    syn, state, batch = problem(2, 3, soft=True)
    full = torch.autograd.grad(Unroll('recompute')(syn, state, batch), syn.parameters())
    for k, g in zip(('images', 'labels', 'raw_lrs'), full):
        frozen = syn.copy()
        for t in frozen.parameters(): t.requires_grad_(False)
        getattr(frozen, k).requires_grad_()
        assert rel(torch.autograd.grad(Unroll('segments')(frozen, state, batch), getattr(frozen, k))[0], g) < 1e-12
    with torch.no_grad(): assert Unroll('recompute')(syn, state, batch).item() == pytest.approx(Unroll('graph')(syn, state, batch).item(), rel=1e-12)


def test_backward_twice_gives_the_same_gradient():
    syn, state, batch = problem(2, 3)
    loss = Unroll('segments')(syn, state, batch)
    a, b = (torch.autograd.grad(loss, syn.images, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(a, b)


# --- the outer loss ---

def test_chunks_of_the_real_batch_change_nothing():
    _, state, _ = problem()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(23, 1, 8, 8, generator=g, dtype=f64), torch.arange(23) % 3
    state = replace(state, params={k: v.requires_grad_() for k, v in state.params.items()})
    for target in (y, torch.rand(23, 3, generator=g, dtype=f64).softmax(1)):
        whole, parts = real_loss(state, x, target, None), real_loss(state, x, target, 5)
        assert rel(parts, whole) < 1e-12
        for a, b in zip(*(torch.autograd.grad(3*l, list(state.params.values())) for l in (parts, whole))): assert rel(a, b) < 1e-12


def test_a_network_whose_examples_interact_is_not_chunked():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(20, 1, 8, 8, dtype=f64), torch.arange(20) % 3
    state = functional(net)
    assert rel(real_loss(state, x, y, 4), loss_fn(state(x), y)) < 1e-12
    assert rel(sum(loss_fn(state(a), b) for a, b in zip(x.split(4), y.split(4)))/5, loss_fn(state(x), y)) > 1e-4   # the test could tell


# --- several networks ---

@pytest.mark.parametrize('kw', [dict(workers=1), dict(workers=2), dict(workers=3), dict(stacked=True)], ids=str)
@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
@pytest.mark.parametrize('inner', ['sgd', 'adam'])
def test_several_networks_average(kw, strategy, inner):
    syn, _, _ = problem(2, 3, inner, .02, True)
    states = [functional(ConvNet((1, 8, 8), 3, width=4, depth=2, norm='none', act='softplus', seed=i).double()) for i in range(5)]
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(7, 1, 8, 8, generator=g, dtype=f64), torch.randint(3, (7,), generator=g)) for _ in states]
    objective = Unroll(strategy, chunk=4)
    each = [torch.autograd.grad(objective(syn, s, b), syn.parameters()) for s, b in zip(states, batches)]
    losses, grads = hypergradients(objective, syn, states, batches, **kw)
    assert sum(losses)/len(losses) == pytest.approx(sum(objective(syn, s, b).item() for s, b in zip(states, batches))/5, rel=1e-10)
    for k, got in enumerate(grads): assert rel(got, sum(e[k] for e in each)/5) < 1e-10
    again = hypergradients(objective, syn, states, batches, **kw)[1]
    assert all(torch.equal(a, b) for a, b in zip(grads, again))


def test_threads_with_dropout_keep_their_seeds():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(.5), nn.Tanh(), nn.Linear(8, 3)).double()
    syn, _, batch = problem(2, 3)
    states = [replace(functional(net), seed=i) for i in range(6)]
    one, many = (hypergradients(Unroll('recompute'), syn, states, [batch]*6, workers=w)[1] for w in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, many)) and torch.get_num_threads() >= 1


def test_an_error_in_a_thread_is_the_users_error():
    syn, state, _ = problem()
    def bad(syn, state, batch): raise ZeroDivisionError('mine')
    with pytest.raises(ZeroDivisionError, match='mine'): hypergradients(bad, syn, [state]*3, [None]*3, workers=2)


# --- structures are shared, and only where they are the same ---

def test_networks_of_one_structure_share_it():
    a, b, c = (functional(LeNet(seed=s)) for s in (0, 1, 2))
    assert a.net is b.net is c.net and not torch.equal(a.params['0.weight'], b.params['0.weight'])
    assert functional(ConvNet((1, 8, 8), 3, width=4, depth=1)).net is not functional(ConvNet((1, 8, 8), 3, width=5, depth=1)).net
    assert functional(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(.1))).net is not functional(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(.2))).net


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.a, self.mask = nn.Linear(4, 2), mask                          # a plain tensor, neither parameter nor buffer
    def forward(self, x): return self.a(x*self.mask)


def test_networks_that_differ_in_a_constant_tensor_do_not_share():
    x = torch.randn(3, 4)
    for m in (torch.ones(4), torch.tensor([1., 0, 0, 0])):
        net = Masked(m)
        assert torch.equal(functional(net)(x), net(x))


def test_a_class_defined_again_is_another_network():
    x, y = torch.ones(2, 3), {}
    for k in (1., 2.):
        src = f'class Again(nn.Module):\n    def __init__(self): super().__init__(); self.a = nn.Linear(3, 2)\n    def forward(self, x): return {k}*self.a(x)'
        exec(src, globals())
        net = globals()['Again']()
        y[k] = (functional(net)(x), net(x))
    for a, b in y.values(): assert torch.equal(a, b)


def test_an_unpicklable_network_works():
    class Local(nn.Module):
        def __init__(self, f): super().__init__(); self.a, self.f = nn.Linear(3, 2), f
        def forward(self, x): return self.f(self.a(x))
    x = torch.randn(2, 3)
    for f in (lambda v: v, lambda v: 2*v):
        net = Local(f)
        assert torch.equal(functional(net)(x), net(x))


# --- diagnosis ---

def test_adjoint_norms():
    syn, state, (x, y) = problem(2, 3)
    norms = adjoint_norms(syn, state, lambda s: loss_fn(s(x), y))
    grads = ours(syn, state, (x, y))[2:]
    assert len(norms) == 7 and norms[0].item() == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in grads)), rel=1e-6)
    last = trained(syn, state)
    w = [v.requires_grad_() for v in last.params.values()]
    assert norms[6].item() == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in torch.autograd.grad(loss_fn(last(x), y), w))), rel=1e-6)


def test_explain_names_the_inner_step():
    syn, state, batch = problem(2, 3)
    with torch.no_grad(): syn.raw_lrs[4] = 1e300
    assert 'at inner step 4 of 6' in Unroll().explain(syn, state, batch) or 'at inner step 5 of 6' in Unroll().explain(syn, state, batch)
    syn, state, batch = problem(2, 3)
    assert 'every inner step of 6 is finite' in Unroll().explain(syn, state, batch)
    assert 'all 6 inner steps, the outer loss does not' in Unroll().explain(syn, state, (batch[0]*math.inf, batch[1]))


def test_no_graph_survives_the_call():
    syn, state, batch = problem(2, 10)
    def alive(): gc.collect(); return sum(1 for o in gc.get_objects() if type(o) is torch.Tensor)
    for _ in range(2): torch.autograd.grad(Unroll('segments')(syn, state, batch), syn.parameters())
    before = alive()
    for _ in range(3): torch.autograd.grad(Unroll('segments')(syn, state, batch), syn.parameters())
    assert alive() <= before


# --- compiled ---

@pytest.mark.skipif(not any(map(shutil.which, ('c++', 'g++', 'clang++', 'cl'))), reason='no C++ compiler, which torch.compile needs')
def test_compiled_steps_give_the_same_gradient(inner='sgd'):   # tests/slow has the other optimisers
    syn, _, batch = problem(2, 3, inner, .02, True)
    states = [functional(MLP((1, 8, 8), 3, hidden=(6,), act='softplus', seed=i).double()) for i in range(2)]
    for state in states:
        fast = torch.autograd.grad(Unroll('segments', compile=True, chunk=4)(syn, state, batch), syn.parameters())
        for a, b in zip(fast, torch.autograd.grad(Unroll('graph')(syn, state, batch), syn.parameters())): assert rel(a, b) < 1e-10
    assert states[0].net is states[1].net
    n = len(states[0].net.found)
    torch.autograd.grad(Unroll('recompute', compile=True, chunk=4)(syn, states[1], batch), syn.parameters())
    assert len(states[0].net.found) == n                                             # the second network and the second call compiled nothing


def test_compile_refuses_random_steps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(.5)).double()
    syn, _, batch = problem()
    with pytest.raises(ValueError, match="compile must be False for a training step that draws random numbers"): Unroll(compile=True)(syn, functional(net), batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('kw', STRATEGIES[:4], ids=ids[:4])
def test_on_a_gpu_several_networks_are_stacked_and_agree_with_the_cpu(kw):
    syn, _, _ = problem(2, 3, 'momentum', .02, True)
    states = [functional(ConvNet((1, 8, 8), 3, width=4, depth=2, norm='none', act='softplus', seed=i).double()) for i in range(3)]
    batches = [(torch.randn(7, 1, 8, 8, dtype=f64), torch.randint(3, (7,))) for _ in states]
    cpu = hypergradients(Unroll(**kw), syn, states, batches)[1]
    gpu = hypergradients(Unroll(**kw), syn.copy().to('cuda'), [s.to('cuda') for s in states], [(x.cuda(), y.cuda()) for x, y in batches])[1]
    for a, b in zip(gpu, cpu): assert rel(a.cpu(), b) < 1e-10


def test_the_outer_loss_in_bfloat16(digits):
    "It is rounded, and the training before it is not."
    net,syn = functional(ConvNet(digits.shape, 10, width=4, depth=2, seed=0)),Synthetic.real(digits, ipc=1, epochs=3, lr=.05)
    batch,seen = digits.batch(200, torch.Generator().manual_seed(0)),[]
    class Seen(Unroll):
        def __call__(self, syn, state, batch):
            def keep(s): seen.append([p.detach().clone() for p in s.tensors()])
            unroll(syn, state, lambda s: keep(s) or s.tensors()[0].sum(), 'graph')
            return super().__call__(syn, state, batch)
    for strategy in ('graph', 'recompute', 'segments'):
        g = [torch.autograd.grad(Seen(strategy, bf16=b)(syn, net, batch), syn.parameters()) for b in (False, True)]
        off = sum((a - b).square().sum() for a,b in zip(*g)).sqrt()/sum(a.square().sum() for a in g[0]).sqrt()
        assert 1e-5 < off < .2 and all(v.dtype == torch.float32 for v in g[1])
    assert all(torch.equal(a, b) for s in seen for a,b in zip(s, seen[0]))
    assert 'bf16=True' in repr(Unroll(bf16=True)) and 'bf16' not in repr(Unroll())
    with pytest.raises(ValueError, match='bf16 must be False with compile'): Unroll(bf16=True, compile=True)

def test_judging_in_bfloat16(digits):
    source,syn = RandomInit(lambda: ConvNet(digits.shape, 10, width=4, depth=2), seed=0),Synthetic.means(digits, epochs=30, lr=.05)
    a,b = (evaluate(syn, source, digits, 3, progress=False, bf16=v) for v in (False, True))
    assert abs(a.mean - b.mean) < .02 and a.mean > .2
    net = syn.train(ConvNet(digits.shape, 10, width=4, depth=2, seed=0))
    judged = scored(net, digits, bf16=True)
    assert judged.finite and all(p.dtype == torch.float32 for p in net.parameters())
