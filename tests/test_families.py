"Kernel ridge regression, gradient, trajectory and distribution matching, and the table of all of them."
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_nb.cli import dd_reproduce
from dd_nb.data import Siamese, data_from_tensors, load_data, split_validation, standard_augment
from dd_nb.distill import distill
from dd_nb.distribution_matching import DistributionMatch
from dd_nb.evaluate import accuracy
from dd_nb.families import FAMILIES, WORDS, plot_workflow
from dd_nb.gradient_matching import GradientMatch, by_class, gradient_distance
from dd_nb.inits import AgingPool, RandomInit, judges
from dd_nb.kernel import FeatureRidge, KernelRidge, centred, embed, fc_kernel, ridge
from dd_nb.networks import MLP, ConvNet
from dd_nb.synthetic import Synthetic, read_tensors, write_tensors
from dd_nb.trajectory_matching import Experts, TrajectoryMatch, parameter_distance, record_experts
from dd_nb.unroll import functional, loss_fn, trained
from dd_nb.zoo import OBJECTIVES, RECIPES, baselines, family_recipe, get_recipe, reproduce


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)
@pytest.fixture(scope='module')
def batch(data): return data.to(dtype=torch.float64).batch(64, torch.Generator().manual_seed(0))
def smooth(data, seed=0, **kw): return ConvNet(data.shape, data.n_classes, width=6, depth=1, act='softplus', seed=seed, **kw)
def state64(data, **kw): return functional(smooth(data, **kw).double())
def set64(data, ipc=2, **kw): return Synthetic.real(data, ipc=ipc, **kw).to(dtype=torch.float64)
def relative(a, b): return ((a - b).norm()/b.norm()).item()

def check_against_differences(f, syn, tolerance=1e-6, directions=4):
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


# kernels

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

def test_kernel_ridge_gradient(data, batch):
    syn = Synthetic.means(data, ipc=2).to(dtype=torch.float64).softened('smoothed')   # not real ones: where two examples meet, the tangent kernel has a cusp
    check_against_differences(lambda s: KernelRidge(reg=1e-3)(s, None, batch), syn)
    check_against_differences(lambda s: KernelRidge(2, 'nngp', reg=1e-3)(s, None, batch), syn)

def test_feature_ridge_gradient(data, batch): check_against_differences(lambda s: FeatureRidge(1e-3)(s, state64(data), batch), set64(data).softened('smoothed', 'softmax'))

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
    assert torch.allclose(embed(functional(net), x), net[:-1](x).flatten(1))
    class Own(nn.Module):
        def __init__(self): super().__init__(); self.l = nn.Linear(64, 10)
        def forward(self, x): return self.l(x.flatten(1))
    own = Own()
    assert torch.equal(embed(functional(own), x), x.flatten(1))
    with pytest.raises(TypeError, match='net must end in one linear layer'): embed(functional(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))), x)

def test_frepo_with_a_pool(data):
    syn = Synthetic.means(data, epochs=20, lr=.02, inner='momentum').softened('smoothed', 'softmax')
    source = AgingPool(RandomInit(lambda: smooth(data, None)), size=2, max_age=5, lr=.01, inner='adam')
    history = distill(syn, source, data, FeatureRidge(), iters=30, lr=.02, n_valid=100, every=15, n_eval=1, progress=False)
    assert history.loss[-1] < history.loss[1] and history.skipped == 0


# gradients

def test_gradient_distance():
    a,b = [torch.randn(4, 3, 2), torch.randn(5)],[torch.randn(4, 3, 2), torch.randn(5)]
    assert gradient_distance(a, [3*v for v in a]).item() == pytest.approx(0, abs=1e-4)      # lengths do not count
    assert gradient_distance(a, [-v for v in a]).item() == pytest.approx(8, abs=1e-4)       # four rows, two each; biases do not count
    want = sum(1 - F.cosine_similarity(u.flatten(), v.flatten(), dim=0).item() for u,v in zip(a[0], b[0]))
    assert gradient_distance(a, b).item() == pytest.approx(want, rel=1e-4)
    assert gradient_distance(a, a, 'mse').item() == 0 and gradient_distance([2*v for v in a], a, 'mse').item() == pytest.approx(1)
    with pytest.raises(ValueError, match='how'): gradient_distance(a, b, 'x')
    with pytest.raises(ValueError, match='mse'): gradient_distance([torch.ones(3)], [torch.ones(3)])

@pytest.mark.parametrize('objective', [GradientMatch(), GradientMatch('mse'), GradientMatch(augment=Siamese('crop')), DistributionMatch(), DistributionMatch('scale_rotate')], ids=repr)
def test_matching_gradients(data, batch, objective):
    check_against_differences(lambda s: objective(s, replace(state64(data), seed=5), batch), set64(data))

def test_gradient_match_is_its_definition(data, batch):
    syn,state = set64(data),state64(data)
    w = list(state.params.values())
    def gradient(x, c):
        ws = [v.detach().requires_grad_() for v in w]
        s = replace(state, params=dict(zip(state.params, ws)))
        return torch.autograd.grad(loss_fn(s(x), torch.full((len(x),), c)), ws)
    x,y = batch
    want = sum(gradient_distance(gradient(syn.images[0, syn.labels[0] == c].detach(), c), gradient(x[y == c], c)) for c in range(10) if (y == c).any())
    assert GradientMatch()(syn, state, batch).item() == pytest.approx(want.item(), rel=1e-10)

def test_the_same_transformation_for_both(data):
    "A set that is the real batch has distance 0, whatever the transformation."
    x,y = data.batch(40, torch.Generator().manual_seed(1))
    syn,state = Synthetic(x[None], y[None], 10),replace(functional(smooth(data)), seed=11)
    for f in (GradientMatch(augment=standard_augment(data)), DistributionMatch(standard_augment(data))): assert abs(f(syn, state, (x, y)).item()) < 1e-2
    other = DistributionMatch()(syn, state, (Siamese('scale').draw(torch.Generator().manual_seed(11))(x), y)).item()
    assert other > .1

def test_gradient_match_with_batch_norm(data, batch):
    "The statistics are those of the real batch, not those of the few images of one class."
    state,syn = state64(data, norm='batch'),set64(data)
    loss = GradientMatch()(syn, state, batch)
    assert torch.autograd.grad(loss, [syn.images])[0].isfinite().all()
    calibrated = state.calibrated(batch[0])
    assert loss.item() == pytest.approx(GradientMatch()(syn, replace(calibrated, bn='frozen'), batch).item(), rel=1e-8)

def test_by_class(data):
    parts = by_class(data.x_test, data.y_test, 10)
    assert sum(map(len, parts)) == len(data.y_test) and torch.equal(parts[3], data.x_test[data.y_test == 3])

@pytest.mark.parametrize('f', [GradientMatch(), DistributionMatch()], ids=repr)
def test_matching_refuses(data, f):
    x,y = data.batch(20, torch.Generator().manual_seed(1))
    state = functional(smooth(data))
    with pytest.raises(ValueError, match='soft'): f(Synthetic.real(data).softened('hard'), state, (x, y))
    threes = Synthetic(x[None, y == y[0]], y[None, y == y[0]], 10)
    with pytest.raises(ValueError, match='batch_size'): f(threes, state, (x[y != y[0]], y[y != y[0]]))
    with pytest.raises(ValueError, match='distance'): GradientMatch('x')
    with pytest.raises(ValueError, match='strategy'): GradientMatch(augment='x')

@pytest.mark.parametrize('make', [GradientMatch, DistributionMatch], ids=['DC', 'DM'])
def test_matching_learns(data, make):
    syn,source = Synthetic.noise(data.shape, 10, epochs=20, lr=.02, inner='momentum', seed=0, learn=('images',)),RandomInit(lambda: smooth(data, None))
    history = distill(syn, source, data, make(), iters=80, lr=.05, n_valid=100, every=20, n_eval=2, progress=False)
    assert history.loss[-1] < .8*history.loss[1] and history.best_accuracy > history.accuracy[0] + .1


# trajectories

@pytest.fixture(scope='module')
def experts(data, tmp_path_factory):
    return record_experts(lambda seed=None: smooth(data, seed), data, tmp_path_factory.mktemp('experts'), n=3, records=4, every=5, lr=.05, batch_size=32, progress=False)

def test_experts_are_recorded_trainings(data, experts):
    assert len(experts) == 3 and experts.records == 4
    start = RandomInit(lambda seed=None: smooth(data, seed), 0).net(1)
    assert all(torch.equal(v.detach().half().float(), experts(1, 0).params[k]) for k,v in start.named_parameters())
    assert accuracy(experts(0, 4), data) > accuracy(experts(0, 0), data) + .1
    assert parameter_distance(experts(0, 0), experts(0, 4)) > parameter_distance(experts(0, 0), experts(0, 1)) > 0
    files = sorted(Path(experts.folder).glob('expert-*.safetensors'))
    assert len(files) == 3 and files[0].stat().st_size < 2*5*sum(p.numel() for p in start.parameters()) + 4000   # two bytes a weight and record

def test_experts_resume(data, tmp_path):
    def record(n, **kw): return record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'e', n=n, records=2, every=3, **kw, progress=False)
    whole = record(3)
    (tmp_path/'e'/'expert-0001.safetensors').unlink()
    before = (tmp_path/'e'/'expert-0000.safetensors').stat().st_mtime_ns
    again = record(3)
    assert (tmp_path/'e'/'expert-0000.safetensors').stat().st_mtime_ns == before
    assert all(torch.equal(a[k], b[k]) for a,b in zip(whole.tracks, again.tracks) for k in a)
    assert len(record(2)) == 2
    with pytest.raises(ValueError, match='otherwise'): record(3, lr=.5)
    assert len(Experts(tmp_path/'e')) == 3   # the architecture is one of ours: the files name it

def test_experts_refuse(data, tmp_path):
    with pytest.raises(ValueError, match='BatchNorm'): record_experts(lambda seed=None: smooth(data, seed, norm='batch'), data, tmp_path/'b', n=1, records=1, every=1, progress=False)
    with pytest.raises(ValueError, match='lr'): record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'b', lr=0)
    with pytest.raises(ValueError, match='none'): Experts(tmp_path)
    (tmp_path/'f').write_text('')
    with pytest.raises(ValueError, match='folder'): record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'f'/'g', n=1)
    record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'o', n=1, records=1, every=1, progress=False)
    with pytest.raises(ValueError, match='fit'): Experts(tmp_path/'o', lambda: MLP(data.shape, 10))

class Placed(nn.Module):
    "With position numbers and frequencies that are drawn at its start, none of which training changes; with `counts`, a counter that it does."
    def __init__(self, counts=False):
        super().__init__()
        self.inner,self.counts = nn.Linear(64, 10),counts
        self.register_buffer('ids', torch.arange(64)[None])
        self.register_buffer('w', torch.rand(64) + .5)
        self.register_buffer('n', torch.zeros((), dtype=torch.long))
    def forward(self, x):
        if self.training and self.counts: self.n += 1
        return self.inner(x.flatten(1).gather(1, self.ids.expand(len(x), -1))*self.w)

def test_experts_with_constant_buffers(data, tmp_path):
    "Each expert keeps its own; training leaves them as they are."
    experts = record_experts(Placed, data, tmp_path/'e', n=2, records=2, every=5, lr=.05, progress=False)
    source = RandomInit(Placed, 0)
    for i in range(2): assert torch.equal(experts(i, 1).buffers['w'], source.net(i).w) and experts(i, 1).buffers['ids'].dtype == torch.long
    assert not torch.equal(experts(0, 0).buffers['w'], experts(1, 0).buffers['w'])
    again = Experts(tmp_path/'e', Placed)
    assert torch.equal(again(1, 2).buffers['w'], experts(1, 2).buffers['w']) and accuracy(experts(0, 2), data) > accuracy(experts(0, 0), data) + .1
    syn = Synthetic.real(data, epochs=3, lr=.02)
    match = TrajectoryMatch(experts, span=1, max_start=1)
    start,target = match.stretch(replace(experts.state, seed=1), syn.images)
    want = parameter_distance(trained(syn, start), target)/parameter_distance(start, target)
    assert match(syn, replace(experts.state, seed=1)).item() == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(ValueError, match="buffers training leaves as they are, got 'n', which it changes"): record_experts(lambda: Placed(True), data, tmp_path/'n', n=1, records=1, every=2, progress=False)
    assert not list((tmp_path/'n').iterdir())

def test_experts_of_other_data_or_networks_are_refused(data, tmp_path):
    how = dict(n=1, records=1, every=2, progress=False)
    def make(): return smooth(data, None)
    record_experts(make, data, tmp_path, **how)
    white,flipped = load_data('digits', size=8, zca=True),data_from_tensors(data.raw_train.flip(3), data.y_train, data.raw_test, data.y_test, name='digits', classes=data.classes, norm=data.norm)
    for other in (white, flipped):
        with pytest.raises(ValueError, match='holds experts that were recorded otherwise: data of other contents, classes, split or normalisation; name another folder'): record_experts(make, other, tmp_path, **how)
    with pytest.raises(ValueError, match='recorded otherwise: a network of another structure'): record_experts(lambda: MLP(data.shape, 10), data, tmp_path, **how)
    with pytest.raises(ValueError, match='recorded otherwise: lr 0.01, not 0.02;'): record_experts(make, data, tmp_path, lr=.02, **how)
    f, = tmp_path.iterdir()
    tensors,head = read_tensors(f, 'network')
    write_tensors(f, tensors, dict(spec=head['spec'], recorded={k: v for k,v in head['recorded'].items() if k not in ('digest', 'network')}), 'network')
    with pytest.raises(ValueError, match='in a version that kept no digest'): record_experts(make, data, tmp_path, **how)
    with pytest.raises(ValueError, match="draw its random numbers from torch's own generator"): record_experts(lambda: MLP(data.shape, 10, hidden=(int(np.random.randint(5, 5000)),)), data, tmp_path/'x', **how)

def test_trajectory_match(data, experts):
    match = TrajectoryMatch(experts, span=2, max_start=2)
    still = Synthetic.real(data, epochs=3, lr=1e-8)
    assert match(still, replace(experts.state, seed=1)).item() == pytest.approx(1, abs=1e-3)   # who does not move has all the way to go
    start,target = match.stretch(replace(experts.state, seed=1), still.images)
    syn = Synthetic.real(data, epochs=3, lr=.02)
    want = parameter_distance(trained(syn, start), target)/parameter_distance(start, target)
    assert match(syn, replace(experts.state, seed=1)).item() == pytest.approx(want.item(), rel=1e-5)
    seen = {tuple(match.stretch(replace(experts.state, seed=s), syn.images)[0].params['0.weight'].flatten().tolist()) for s in range(60)}
    assert len(seen) == 9   # three experts, three starts

@pytest.mark.parametrize('strategy', ['graph', 'recompute', 'segments'])
def test_trajectory_gradient(data, experts, strategy):
    e = Experts(experts.folder)
    e.state = e.state.to(dtype=torch.float64)
    match = TrajectoryMatch(e, span=1, max_start=1, strategy=strategy)
    check_against_differences(lambda s: match(s, replace(e.state, seed=4)), set64(data, ipc=1, epochs=4, lr=.05))

def test_trajectory_learns_and_is_finished(data, experts):
    syn,source = Synthetic.real(data, epochs=5, lr=.01),RandomInit(lambda: smooth(data, None))
    match = TrajectoryMatch(experts, span=2, max_start=2, epochs=30)
    history = distill(syn, source, data, match, iters=60, lr=.05, lr_lrs=.05, n_valid=100, every=30, n_eval=2, progress=False)
    assert history.loss[-1] < history.loss[1] < 1
    done = match.finished(syn)
    assert done.n_steps == 30 and torch.allclose(done.lrs, syn.lrs.mean().expand(30)) and torch.equal(done.images, syn.images)
    valid = split_validation(data, 100, 0)   # the loop judged what is finished, not the five steps
    states = [replace(s, seed=0) for s in judges(source.to(data.device), 2, 0, choose=True)]
    assert history.best_accuracy == pytest.approx(sum(accuracy(trained(done, s), valid) for s in states)/2)

def test_trajectory_refuses(experts):
    with pytest.raises(ValueError, match='at most 4'): TrajectoryMatch(experts, span=3, max_start=2)
    with pytest.raises(ValueError, match='span'): TrajectoryMatch(experts, span=0)


# the whole

def test_the_loop_knows_no_method():
    import dd_nb
    text = (Path(dd_nb.__file__).parent/'distill.py').read_text().lower()
    for word in ('kernel', 'gradientmatch', 'gradient_match', 'trajectory', 'distribution_matching', 'expert', 'frepo', 'poison', 'families'): assert word not in text

def test_workflow():
    assert set(OBJECTIVES) >= {get_recipe(f'mnist-{m}-1').objective for m in FAMILIES}
    assert len(plot_workflow().axes[0].texts) >= len(FAMILIES)*len(WORDS)
    with pytest.raises(ValueError, match='methods'): plot_workflow(('x',))

@pytest.mark.parametrize('method', FAMILIES)
def test_recipes(method, monkeypatch, tmp_path):
    for name in (f'mnist-{method}-1', f'mnist-{method}-10', f'fashion-mnist-{method}-1'): assert RECIPES[name] == get_recipe(name)
    for ipc in (1, 10, 50, 7):
        r = get_recipe(f'cifar10-{method}-{ipc}')
        assert r.syn['ipc']*r.syn['steps'] == ipc and r.net['width'] == 128 and r.data == 'cifar10'
    small = replace(family_recipe(method, 'digits', 1), name='small', size=8, net=dict(name='ConvNet', width=4, depth=1), syn=dict(family_recipe(method, 'digits', 1).syn, epochs=3), n_nets=2)
    if small.experts: small = replace(small, experts=dict(n=2, records=3, every=2), unroll=dict(span=1, max_start=2, epochs=5))
    if small.unroll.get('window'): small = replace(small, unroll=dict(small.unroll, window=2))
    monkeypatch.setitem(RECIPES, 'small', small)
    syn,history,score = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64, checkpoint=tmp_path/'run')
    assert 0 <= score.mean <= 1 and len(syn) == 10 and len(syn.meta['curve']['seconds']) == len(history.it) == 3
    json.dumps(syn.meta)
    same,_,again = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64)
    assert torch.equal(same.images, syn.images) and again.all == score.all
    if method == 'kip': assert len(score.all) == 1 and set(baselines('small', many=2)) >= {'random real images', 'class means'}

def test_unknown_recipes():
    with pytest.raises(ValueError, match='method'): family_recipe('x')
    with pytest.raises(ValueError, match='name must be one of'): get_recipe('mnist-x-1')
    with pytest.raises(ValueError, match='ipc'): family_recipe('dm', ipc=0)

def test_table_from_the_command_line(monkeypatch, tmp_path, capsys):
    table = dict(benchmark='families', seed=0, nets=1, protocols={}, machine={}, tables=[], cost={}, cost_of=['mnist', 1], not_run=[['cifar10', 1]])
    asked = []
    monkeypatch.setattr('dd_nb.cli.families', lambda *a, **kw: asked.append((a, kw)) or table)
    dd_reproduce('families', out=str(tmp_path), quiet=True)
    assert json.loads((tmp_path/'families.json').read_text()) == table and (tmp_path/'families.png').exists() and 'not run here: cifar10 1 a class' in capsys.readouterr().out
    assert asked[0][1]['folder'] == tmp_path/'families'
    with pytest.raises(SystemExit) as e: dd_reproduce('families', out=str(tmp_path), iters=3)
    assert e.value.code == 2 and 'iters must be left out' in capsys.readouterr().err
