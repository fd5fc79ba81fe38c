"BatchNorm's statistics as explicit state: against ordinary training with ordinary modules, and against finite differences of it."
import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from dd_nb.batchnorm import explicit_norm, norm_layers, plain_norm, set_mode
from dd_nb.data import data_from_tensors
from dd_nb.distillation import distill
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.networks import ConvNet
from dd_nb.synthetic import BN_POLICIES, Synthetic
from dd_nb.unrolling import Unroll,unroll
from dd_nb.speed import hypergradients
from dd_nb.structure import functional
from dd_nb.rules import loss_fn
from dd_nb.train import trained

f64 = torch.float64


def convnet(momentum=.1, affine=True, bias=True, act=nn.Softplus):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, bias=bias), nn.BatchNorm2d(6, momentum=momentum, affine=affine), act(), nn.AvgPool2d(2),
                         nn.Conv2d(6, 6, 3, bias=bias), nn.BatchNorm2d(6, momentum=momentum, affine=affine), act(), nn.Flatten(), nn.Linear(6*4, 3)).double()


def task(T, inner='sgd', shape=(1, 10, 10), lr=.1, steps=1, n=6):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(steps, n, *shape, generator=g, dtype=f64)
    syn = Synthetic(x, (torch.arange(n) % 3).expand(steps, n), 3, epochs=T//steps, lr=lr, inner=inner)
    return syn, (torch.randn(20, *shape, generator=g, dtype=f64), torch.randint(3, (20,), generator=g))


def plain(net, images, labels, lrs, inner, T, batch):
    "Ordinary mutable training with torch's own modules and optimisers, and the loss in eval mode."
    net = copy.deepcopy(net).train()
    opt = {'sgd': lambda p: torch.optim.SGD(p, lr=1.), 'momentum': lambda p: torch.optim.SGD(p, lr=1., momentum=.9), 'adam': lambda p: torch.optim.Adam(p, lr=1.)}[inner](net.parameters())
    for t in range(T):
        opt.param_groups[0]['lr'] = lrs[t].item()
        opt.zero_grad()
        nn.functional.cross_entropy(net(images[t % len(images)]), labels[t % len(labels)]).backward()
        opt.step()
    net.eval()
    with torch.no_grad(): return nn.functional.cross_entropy(net(batch[0]), batch[1]).item(), net


def differences(f, dirs, point, hs=(1e-3, 3e-4, 1e-4, 3e-5, 1e-5)):
    "Central differences along each direction for a sweep of steps, with Richardson's correction."
    out = []
    for v in dirs:
        out.append([(f([p + h*d for p, d in zip(point, v)]) - f([p - h*d for p, d in zip(point, v)]))/(2*h) for h in hs])
    return torch.tensor(out, dtype=f64)


@pytest.mark.parametrize('T', [1, 3, 30])
@pytest.mark.parametrize('inner,momentum,affine', [('sgd', .1, True), ('sgd', None, True), ('sgd', .1, False), ('momentum', .1, True), ('adam', .1, True), ('adam', None, False)])
def test_tracked_gradients_agree_with_differences_of_ordinary_training(T, inner, momentum, affine):
    net = convnet(momentum, affine, bias=inner != 'adam')   # a bias before BatchNorm has no gradient, only rounding errors, which Adam would divide by themselves
    syn, batch = task(T, inner, lr={'sgd': .1, 'momentum': .03, 'adam': .01}[inner])
    state = functional(net)
    loss = Unroll('recompute')(syn, state, batch)
    grads = torch.autograd.grad(loss, [syn.images, syn.raw_lrs])
    base, after = plain(net, syn.images.detach(), syn.labels, syn.lrs.detach(), inner, T, batch)
    assert abs(loss.item() - base) < 1e-10
    mine = trained(syn, state)
    for k, v in after.named_buffers(): assert torch.allclose(mine.buffers[k], v, atol=1e-10)
    g = torch.Generator().manual_seed(2)
    point = [syn.images.detach(), syn.raw_lrs.detach()]
    dirs = [[torch.randn(p.shape, generator=g, dtype=f64) for p in point] for _ in range(4)]
    def f(p): return plain(net, p[0], syn.labels, nn.functional.softplus(p[1]), inner, T, batch)[0]
    fd = differences(f, dirs, point)
    want = torch.stack([sum((a*b).sum() for a, b in zip(grads, v)) for v in dirs]).detach()
    errors = ((fd - want[:, None]).norm(dim=0)/want.norm())
    assert errors.min() < 1e-6, (errors, want)


@pytest.mark.parametrize('T', [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resnet(T):
    "torchvision's ResNet-18, as users have it: twenty layers of BatchNorm, here with a smooth activation."
    torchvision = pytest.importorskip('torchvision')
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=3)
    def smooth(m):
        for k, c in m.named_children():
            if isinstance(c, nn.ReLU): setattr(m, k, nn.Softplus())
            elif isinstance(c, nn.MaxPool2d): setattr(m, k, nn.AvgPool2d(c.kernel_size, c.stride, c.padding))
            else: smooth(c)
    smooth(net)
    net.double()
    syn, batch = task(T, shape=(3, 16, 16), lr=.01, n=6)
    loss = Unroll('recompute', chunk=None)(syn, functional(net), batch)
    grads = torch.autograd.grad(loss, [syn.images, syn.raw_lrs])
    g = torch.Generator().manual_seed(2)
    point = [syn.images.detach(), syn.raw_lrs.detach()]
    dirs = [[torch.randn(p.shape, generator=g, dtype=f64) for p in point] for _ in range(4)]
    def f(p): return plain(net, p[0], syn.labels, nn.functional.softplus(p[1]), 'sgd', T, batch)[0]
    assert abs(f(point) - loss.item()) < 1e-10
    fd = differences(f, dirs, point, (1e-5, 3e-6, 1e-6))
    want = torch.stack([sum((a*b).sum() for a, b in zip(grads, v)) for v in dirs]).detach()
    assert ((fd - want[:, None]).norm(dim=0)/want.norm()).min() < 1e-6


def error(a, b): return max(((x - y).norm()/y.norm()).item() for x, y in zip(a, b))


@pytest.mark.parametrize('inner', ['sgd', 'momentum', 'adam'])
@pytest.mark.parametrize('momentum', [.1, None])
def test_every_strategy_threads_the_buffers(inner, momentum):
    syn, batch = task(8, inner, steps=2)
    state = functional(convnet(momentum))
    for k, v in state.buffers.items():
        if v.is_floating_point(): v.requires_grad_()
    inputs = [syn.images, syn.raw_lrs, *(v for v in state.buffers.values() if v.requires_grad)]
    def grads(**kw): return torch.autograd.grad(unroll(syn, state, lambda s: loss_fn(s(batch[0]), batch[1]), **kw), inputs)
    want = grads(strategy='graph')
    for kw in (dict(strategy='hybrid'), dict(strategy='recompute'), dict(strategy='segments'), dict(strategy='recompute', offload=True)): assert error(grads(**kw)[:2], want[:2]) < 1e-10
    for a, b in zip(grads(strategy='segments')[2:], want[2:]):
        assert torch.allclose(a, b, atol=1e-12)
        if momentum is None: assert not b.any()   # a fresh count: the first batch replaces what was there
        else: assert b.any()


def test_what_others_call_a_constant_is_wrong():
    "Statistics without their gradient: the error that the issue names."
    state = functional(convnet())
    for T, lo, hi in ((3, .001, .2), (30, .2, 5.)):
        syn, batch = task(T)
        def cut(s): return type(s)(s.net, s.params, {k: v.detach() for k, v in s.buffers.items()})
        right, wrong = (torch.autograd.grad(unroll(syn, state, lambda s: loss_fn(f(s)(batch[0]), batch[1]), 'graph'), [syn.images])[0] for f in (lambda s: s, cut))
        assert lo < error([wrong], [right]) < hi


def test_nothing_leaks_into_the_users_module():
    net = convnet()
    before = copy.deepcopy(net.state_dict())
    syn, batch = task(5)
    state = functional(net)
    first = Unroll()(syn, state, batch).item()
    for _ in range(3): torch.autograd.grad(Unroll('recompute')(syn, state, batch), [syn.images])
    assert Unroll()(syn, state, batch).item() == first
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and net.training
    assert all(torch.equal(v, dict(net.named_buffers())[k]) for k, v in state.buffers.items())


def test_a_trained_network_is_an_ordinary_module_again():
    net, (syn, batch) = convnet(), task(5)
    own = syn.train(net)
    loss, want = plain(net, syn.images.detach(), syn.labels, syn.lrs.detach(), 'sgd', 5, batch)
    assert torch.allclose(own(batch[0]), want(batch[0]), atol=1e-12) and 'forward' not in vars(own[1])
    own.train()
    assert own[1].running_mean.data_ptr() == (own(batch[0]), own[1].running_mean.data_ptr())[1]   # written in place, as torch does


MEMORY = """
import sys
import torch
from dd_nb.harness import peak_memory
from dd_nb.networks import ConvNet
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll
from dd_nb.structure import functional
torch.set_num_threads(1)
norm, strategy, T = sys.argv[1], sys.argv[2], int(sys.argv[3])
def once(T):
    syn = Synthetic(torch.randn(1, 100, 1, 28, 28), torch.arange(100)[None] % 10, epochs=T, lr=.01)
    return torch.autograd.grad(Unroll(strategy)(syn, functional(ConvNet((1, 28, 28), 10, width=16, depth=2, norm=norm, seed=0)), (torch.randn(100, 1, 28, 28), torch.arange(100) % 10)), syn.parameters())
once(1)
print(peak_memory(lambda: once(T))[1])
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_steps():
    def peak(*args): return int(subprocess.run([sys.executable, '-c', MEMORY, *map(str, args)], capture_output=True, text=True, check=True).stdout)
    if not sys.platform.startswith('linux'): pytest.skip('measured by the means of Linux')
    few, many, without, whole = peak('batch', 'recompute', 3), peak('batch', 'recompute', 24), peak('instance', 'recompute', 24), peak('batch', 'graph', 24)
    assert many < 1.5*few and many < 2*without and whole > 3*many, [f'{b/1e6:.0f} MB' for b in (few, many, without, whole)]


RUNS = """
import sys
import torch
from dd_nb.data import load_data
from dd_nb.distillation import distill
from dd_nb.evaluation import evaluate
from dd_nb.inits import RandomInit
from dd_nb.networks import ConvNet
from dd_nb.synthetic import Synthetic
torch.set_num_threads(1)
data = load_data('digits', size=8)
def run(seed):
    source = RandomInit(lambda: ConvNet(data.shape, 10, width=4, depth=2, norm='batch'), seed)
    syn = Synthetic.real(data, ipc=1, epochs=3, lr=.05, seed=seed)
    distill(syn, source, data, iters=4, batch_size=32, every=2, n_eval=2, progress=False, seed=seed)
    return [syn.images.double().sum().item(), syn.images.double().square().sum().item(), *evaluate(syn, source, data, 2).all]
for seed in map(int, sys.argv[1:]): out = run(seed)
print(out)
"""


@pytest.mark.slow
def test_two_runs_in_one_process_are_two_processes():
    def last(*seeds): return subprocess.run([sys.executable, '-c', RUNS, *map(str, seeds)], capture_output=True, text=True, check=True).stdout
    assert last(0, 1) == last(1) != last(0)


# --- policies

@pytest.fixture(scope='module')
def blobs():
    "Three classes of tiny pictures."
    g = torch.Generator().manual_seed(3)
    centres, y = torch.randn(3, 1, 8, 8, generator=g), torch.arange(300) % 3
    x = centres[y] + .8*torch.randn(300, 1, 8, 8, generator=g)
    return data_from_tensors(x[:200], y[:200], x[200:], y[200:], name='blobs')


def small(seed=None): return ConvNet((1, 8, 8), 3, width=8, depth=2, norm='batch', seed=seed)


def test_calibration_is_what_torch_measures(blobs):
    net = small(0)
    x = blobs.x_train[:32]
    got = functional(net).calibrated(x).buffers
    own = copy.deepcopy(net).eval()
    for m in own.modules():
        if isinstance(m, nn.BatchNorm2d): m.train(); m.momentum = 1.
    own(x)
    for k, v in own.named_buffers(): assert torch.allclose(got[k].float(), v.float(), atol=1e-6), k


def test_batch_statistics_at_evaluation(blobs):
    syn = Synthetic.real(blobs, lr=.05).with_bn('batch')
    net = small(0)
    state = trained(syn, functional(net))
    x = blobs.x_test[:50]
    own = state.module()
    want = copy.deepcopy(trained(syn.with_bn('tracked'), functional(net)).module()).train()
    assert torch.allclose(state(x), want(x), atol=1e-5) and torch.allclose(own(x), want(x), atol=1e-5) and not own.training
    assert all(m.running_mean is None for m in own.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_statistics_stay_and_are_used_in_training(blobs):
    net = small(0)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.normal_(); m.running_var.uniform_(.5, 2.)
    syn = Synthetic.real(blobs, epochs=3, lr=.05).with_bn('frozen')
    state = trained(syn, functional(net))
    for k, v in net.named_buffers(): assert torch.equal(state.buffers[k], v)
    own = copy.deepcopy(net).train()
    for m in own.modules():
        if isinstance(m, nn.BatchNorm2d): m.eval()
    opt = torch.optim.SGD(own.parameters(), lr=1.)
    for t in range(syn.n_steps):
        x, y, lr = syn.batch(t)
        opt.param_groups[0]['lr'] = lr.item()
        opt.zero_grad()
        nn.functional.cross_entropy(own(x.detach()), y).backward()
        opt.step()
    for k, v in own.named_parameters(): assert torch.allclose(state.params[k], v, atol=1e-5)


def test_learned_statistics(blobs, tmp_path):
    syn = Synthetic.real(blobs, epochs=5, lr=.05).with_bn('learned', small())
    assert 'stats' in syn.learn and len(syn.running_stats()) == 4
    before = {k: v.detach().clone() for k, v in syn.running_stats().items()}
    source = RandomInit(small, 0)
    distill(syn, source, blobs, iters=20, batch_size=32, every=5, progress=False)
    after = syn.running_stats()
    assert all(not torch.equal(v, before[k]) for k, v in after.items()) and all((v > 0).all() for k, v in after.items() if k.endswith('var'))
    state = trained(syn, functional(small(1)))
    for k, v in after.items(): assert torch.equal(state.buffers[k], v)   # used at evaluation
    for k, v in syn.train(small(1)).named_buffers():
        if k in after: assert torch.allclose(v, after[k])
    syn.save(tmp_path/'s.safetensors')
    again = Synthetic.load(tmp_path/'s.safetensors')
    assert again.bn == 'learned' and evaluate(again, source, blobs, n_nets=3).all == evaluate(syn, source, blobs, n_nets=3).all
    with pytest.raises(ValueError, match="no learned statistics for '9.running_mean'"): trained(syn, functional(ConvNet((1, 8, 8), 3, width=8, depth=3, norm='batch')))
    trained(syn, functional(ConvNet((1, 8, 8), 3, width=8, depth=2, norm='none')))   # a network without BatchNorm needs none


@pytest.mark.parametrize('policy', BN_POLICIES)
def test_gradients_of_every_policy_agree_with_differences(policy, blobs):
    torch.manual_seed(0)
    data = blobs.to(dtype=f64)
    net = convnet()
    syn, batch = task(4)
    data = data_from_tensors(batch[0], batch[1], batch[0], batch[1], name='same')
    syn = syn.with_bn(policy, net, data.to(dtype=f64), per_class=2)
    state = functional(net)
    ps = syn.parameters()
    for kw in (dict(strategy='graph'), dict(strategy='recompute')):
        grads = torch.autograd.grad(Unroll(**kw)(syn, state, batch), ps)
        g = torch.Generator().manual_seed(2)
        dirs = [[torch.randn(p.shape, generator=g, dtype=f64) for p in ps] for _ in range(2)]
        names = list(syn.named_parameters())
        def f(point):
            s = syn.copy()
            for k, p in zip(names, point): s.set_parameter(k, p)
            return Unroll('graph')(s, state, batch).item()
        fd = differences(f, dirs, [p.detach() for p in ps], (1e-4, 1e-5))
        want = torch.stack([sum((a*b).sum() for a, b in zip(grads, v)) for v in dirs]).detach()
        assert ((fd - want[:, None]).norm(dim=0)/want.norm()).min() < 1e-6


@pytest.mark.parametrize('policy', BN_POLICIES)
def test_networks_as_one_stack(policy, blobs):
    net = convnet()
    syn, batch = task(3)
    syn = syn.with_bn(policy, net, data_from_tensors(*batch, *batch, name='same'), per_class=2)
    nets = []
    for i in range(3):
        nets.append(copy.deepcopy(net))
        for p in nets[-1].parameters(): p.data += .1*torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=f64)
    states = [functional(n) for n in nets]
    (_, got), (_, want) = (hypergradients(Unroll(chunk=None), syn, states, [batch]*3, stacked=s) for s in (True, False))
    assert error(got, want) < 1e-10


def test_accuracy_does_not_depend_on_what_was_distilled_before(blobs):
    source = RandomInit(small, 0)
    def learn(seed):
        syn = Synthetic.real(blobs, epochs=3, lr=.05, seed=seed)
        distill(syn, source, blobs, iters=3, batch_size=32, every=3, progress=False, seed=seed)
        return syn
    syn = learn(0)
    before = evaluate(syn, source, blobs, 3).all
    learn(1)
    assert evaluate(syn, source, blobs, 3).all == before


# --- networks of the user's own

class Running(nn.Module):
    "A normalisation with a buffer of its own, written in place."
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.register_buffer('mean', torch.zeros(8))
        self.kept = torch.zeros(8)

    def forward(self, x):
        if self.training:
            m = x.mean(0)
            if self.how == 'graph': self.mean.mul_(.9).add_(.1*m)
            elif self.how == 'replace': self.mean = .9*self.mean + .1*m
            elif self.how == 'no_grad':
                with torch.no_grad(): self.mean.mul_(.9).add_(.1*m)
            elif self.how == 'attribute': self.kept = .9*self.kept + .1*m.detach()
            elif self.how == 'count': self.steps = getattr(self, 'steps', 0) + 1
        return x - self.mean


@pytest.mark.parametrize('how,message', [('graph', None), ('replace', None), ('no_grad', r"differentiable operations, got Running, which changes '1\.mean' outside the graph"),
                                         ('attribute', "got Running '1', whose attribute 'kept' the forward pass changes"), ('count', "whose attribute 'steps' the forward pass changes")])
def test_custom_buffers_work_or_are_refused(how, message):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), Running(how), nn.Tanh(), nn.Linear(8, 3)).double()
    syn, batch = task(3, shape=(5,))
    state = functional(net)
    if message:
        with pytest.raises(ValueError, match=message): Unroll('recompute')(syn, state, batch)
        return
    got, want = (torch.autograd.grad(Unroll(s)(syn, state, batch), [syn.images])[0] for s in ('recompute', 'graph'))
    assert error([got], [want]) < 1e-12
    point, v = syn.images.detach(), torch.randn(syn.images.shape, generator=torch.Generator().manual_seed(0), dtype=f64)
    def f(x): return plain(net, x, syn.labels, syn.lrs.detach(), 'sgd', 3, batch)[0] if how == 'graph' else Unroll('graph')(syn.changed(images=x), state, batch).item()
    def safe(x):
        with torch.no_grad(): return f(x)
    if how == 'replace': assert abs((safe(point + 1e-5*v) - safe(point - 1e-5*v))/2e-5 - (got*v).sum().item()) < 1e-6*abs((got*v).sum().item()) + 1e-9


def test_instance_norm_with_statistics_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten(), nn.Linear(4*64, 3)).double()
    syn, batch = task(2)
    with pytest.raises(ValueError, match="got InstanceNorm2d, which changes '1.running_mean' outside the graph"): Unroll()(syn, functional(net), batch)


def test_conversion_keeps_classes_and_names():
    net = convnet()
    own = explicit_norm(copy.deepcopy(net))
    assert [type(m) for m in own.modules()] == [type(m) for m in net.modules()] and list(own.state_dict()) == list(net.state_dict()) and list(norm_layers(own)) == ['1', '5']
    assert all('forward' not in vars(m) for m in plain_norm(own).modules())
    with pytest.raises(ValueError, match='mode must be one of'): set_mode(net, 'evaluate')
    with pytest.raises(ValueError, match="must have seen a batch before"): explicit_norm(nn.Sequential(nn.LazyBatchNorm2d()))
    assert FixedInit(net).draw()[0].net is functional(convnet()).net   # one structure


def test_policies_say_what_they_lack(blobs):
    syn = Synthetic.real(blobs)
    with pytest.raises(ValueError, match='bn must be one of'): syn.with_bn('running')
    with pytest.raises(ValueError, match="net must be given for bn='learned'"): syn.with_bn('learned')
    with pytest.raises(ValueError, match='without any'): syn.with_bn('learned', nn.Linear(2, 2))
    with pytest.raises(ValueError, match="data must be given for bn='calibrated'"): syn.with_bn('calibrated')
