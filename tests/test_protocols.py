"The judge for everybody's sets: one protocol, and nothing chosen on the test set."
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dd_nb.coresets import coreset
from dd_nb.data import Data,Split,load_data
from dd_nb.augment import Siamese
from dd_nb.distillation import distill
from dd_nb.evaluation import Score, evaluate, interval, tune_lr
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.networks import ConvNet, make_net
from dd_nb.protocols import (ARCHS, LOSSES, PROTOCOLS, Protocol, _at_once, _fit_stack, _halved, _one_for_one, _quick, benchmark, cross_architecture,
                             fit, get_protocol)
from dd_nb.synthetic import Synthetic
from dd_nb.ordinary import accuracy
from dd_nb.structure import functional

SHORT = Protocol(epochs=6)
NET = dict(name='ConvNet', width=4, depth=2)


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


@pytest.fixture(scope='module')
def syn(data): return Synthetic.real(data, ipc=2, steps=2)


def pair(s): return s.images.detach().flatten(0, 1), s.labels.flatten()


def net(data, seed=0, **kw): return make_net(**{**NET, **kw}, shape=data.shape, n_classes=10, seed=seed)


def test_fit_is_plain_sgd(data, syn):
    "Batches in the order of the generator, momentum and weight decay as torch's, a tenth of the rate in the second half."
    x, y = pair(syn)
    p = Protocol(epochs=4, batch_size=16, lrs=(.05,))
    got = fit(net(data), x, y, p, seed=3)
    want, g = net(data).train(), torch.Generator().manual_seed(3)
    opt = torch.optim.SGD(want.parameters(), .05, momentum=.9, weight_decay=5e-4)
    for epoch in range(4):
        if epoch == 2: opt.param_groups[0]['lr'] = .005
        order = torch.randperm(40, generator=g)
        for idx in (order[:16], order[16:32], order[32:]):
            opt.zero_grad()
            nn.functional.cross_entropy(want(x[idx]), y[idx]).backward()
            opt.step()
    assert not got.training and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got.parameters(), want.parameters()))


def test_labels_of_a_regression(data, syn):
    "Where labels are no distribution, cross-entropy has no floor; the squared error ends at the targets. Hard labels are those of the same rows of the identity."
    x, y = pair(syn)
    p = Protocol(epochs=200, lrs=(.05,), loss='squared_error', weight_decay=0.)
    z = torch.randn(len(y), 10, generator=torch.Generator().manual_seed(0)) + 3*nn.functional.one_hot(y, 10)
    off = {l: (fit(net(data, width=16), x, z, replace(p, loss=l))(x) - (z - .1)).detach().square().mean()/z.var() for l in LOSSES}
    assert off['squared_error'] < .1 and not off['cross_entropy'] < 100
    hard, soft = (fit(net(data), x, t, replace(p, epochs=3, lrs=(.01,))) for t in (y, nn.functional.one_hot(y, 10).float()))
    assert all(torch.equal(a, b) for a, b in zip(hard.parameters(), soft.parameters()))


def test_what_makes_training_quick_changes_nothing(monkeypatch):
    "Batches in pieces, and pooling by slices: forward and both backwards, odd sizes, any network; the modules are as before afterwards."
    x = torch.randn(3, 2, 7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(_halved(x), nn.functional.avg_pool2d(x, 2), rtol=1e-12)
    assert torch.autograd.gradcheck(_halved, x) and torch.autograd.gradgradcheck(_halved, x)
    assert _halved(x.to(memory_format=torch.channels_last)).shape == (3, 2, 3, 2)
    pool, other = nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1)
    net = nn.Sequential(nn.Conv2d(2, 2, 3), pool, nn.Sequential(other))
    with _quick(net): assert pool.forward is _halved and 'forward' not in vars(other)
    assert 'forward' not in vars(pool)
    monkeypatch.setattr('dd_nb.protocols._CACHE', 10_000)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 1, 8, 8, generator=g), torch.randint(10, (120,), generator=g)
    for norm in ('instance', 'none', 'batch'):
        p = Protocol(epochs=2, batch_size=120)
        spec = dict(name='ConvNet', width=4, depth=2, norm=norm, shape=(1, 8, 8), n_classes=10, seed=0)
        assert _one_for_one(make_net(**spec)) == (norm != 'batch') and (_at_once(make_net(**spec), x) < 60) == (norm != 'batch')
        got, want = fit(make_net(**spec).double(), x.double(), y, p), make_net(**spec).double().train()
        opt, g = torch.optim.SGD(want.parameters(), .01, momentum=.9, weight_decay=5e-4), torch.Generator().manual_seed(0)
        for epoch in range(2):
            if epoch == 1: opt.param_groups[0]['lr'] = .001
            idx = torch.randperm(120, generator=g)
            opt.zero_grad()
            nn.functional.cross_entropy(want(x[idx].double()), y[idx]).backward()
            opt.step()
        for a, b in zip(got.state_dict().values(), want.state_dict().values()): assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), norm
    assert not _one_for_one(nn.Sequential(nn.Flatten(0))) and not _one_for_one(nn.Sequential(nn.BatchNorm1d(3)))


@pytest.mark.parametrize('norm', ['instance', 'batch'])
@pytest.mark.parametrize('augment,loss', [(None, 'cross_entropy'), (Siamese('color_crop'), 'cross_entropy'), (None, 'squared_error')])
def test_a_stack_is_as_one_by_one(data, syn, norm, augment, loss):
    x, y = (t.double() if t.is_floating_point() else t for t in pair(syn))
    nets, p = [net(data, i, norm=norm).double() for i in range(3)], Protocol(epochs=4, batch_size=16, augment='color_crop' if augment else None, loss=loss)
    states = [functional(n) for n in nets]
    stacked = _fit_stack(states, x, y, p, [5, 6, 7], augment=augment)
    for s, n, seed in zip(stacked, nets, (5, 6, 7)):
        one = fit(n, x, y, p, seed, augment)
        for k, v in one.named_parameters(): assert torch.allclose(v, s.params[k], rtol=1e-7, atol=1e-9), k
        for k, v in one.named_buffers(): assert torch.allclose(v.double(), s.buffers[k].double(), rtol=1e-7, atol=1e-9), k
        assert accuracy(one, data.to(dtype=torch.float64)) == accuracy(s, data.to(dtype=torch.float64))


def test_a_last_batch_of_one_joins_the_one_before(data):
    s = Synthetic.real(data, ipc=1).changed(images=data.x_train[None, :17], labels=data.y_train[None, :17], n_classes=10)
    fit(net(data, norm='batch', depth=3), *pair(s), Protocol(epochs=1, batch_size=8))   # 1 x 1 maps: a batch of one would be refused


def test_benchmark_is_fit_and_accuracy(data, syn):
    score = benchmark(syn, data, NET, SHORT, n_nets=3, seed=2)
    source = RandomInit(lambda: net(data, None)).held_out(2)
    by_hand = [accuracy(fit(s.module(), *pair(syn), SHORT, 2*1_000_003 + i), data) for i, s in enumerate(source.draw(3))]
    assert score.all == tuple(by_hand) and score.sets == 1 and score.lr == .01


def test_pairs_lists_and_synthetics_are_the_same(data, syn):
    a, b = benchmark(syn, data, NET, SHORT, 2), benchmark(pair(syn), data, NET, SHORT, 2)
    many = benchmark([syn, pair(Synthetic.real(data, ipc=4, seed=1))], data, NET, SHORT, 2)
    assert a.all == b.all == many.all[:2] and many.sets == 2 and len(many.all) == 4
    x, y = pair(syn)
    assert benchmark((x, nn.functional.one_hot(y, 10).float()), data, NET, SHORT, 2).mean == pytest.approx(a.mean, abs=.02)


def test_neither_threads_nor_the_generator_matter(data, syn):
    torch.manual_seed(0); a = benchmark(syn, data, NET, SHORT, 4, workers=1)
    torch.manual_seed(1); state = torch.get_rng_state()
    b = benchmark(syn, data, NET, SHORT, 4, workers=2)
    assert a.all == b.all and torch.equal(state, torch.get_rng_state())


def test_augmented_and_sources(data, syn):
    p = Protocol(epochs=5, augment='standard')
    a = benchmark(syn, data, NET, p, 2)
    assert a.all == benchmark(syn, data, NET, p, 2).all != benchmark(syn, data, NET, replace(p, augment=None), 2).all
    fixed = benchmark(syn, data, FixedInit(net(data)), SHORT, 2)
    assert len(fixed.all) == 2
    assert benchmark(syn, data, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SHORT, 2).mean > .1


def test_networks_with_dropout_are_reproducible(data, syn):
    def make(): return nn.Sequential(nn.Flatten(), nn.Dropout(.5), nn.Linear(64, 10))
    assert benchmark(syn, data, make, SHORT, 3, workers=2).all == benchmark(syn, data, make, SHORT, 3, workers=2).all


def test_the_interval_is_over_sets_where_there_are_several():
    s = Score((.1, .3, .5, .7), sets=2)
    assert s.half == interval([.2, .6])[1] and Score(s.all).half == interval(s.all)[1] and math.isnan(Score((.5,)).half)
    assert s.half == pytest.approx(12.7062*.4/2, rel=1e-4)   # t for one degree of freedom; the standard error of two numbers is half their distance
    assert '95 %' in repr(s) and '2 sets' in repr(s) and s.to_dict()['half'] == s.half and Score((.5,)).to_dict()['half'] is None


def shuffled_test(data):
    g = torch.Generator().manual_seed(9)
    return Data(data._train, Split(data.raw_test, data.y_test[torch.randperm(len(data.y_test), generator=g)]), data.name, data.classes, data.norm, data.dtype)


def test_changing_test_labels_changes_no_choice(data, syn):
    "What is chosen anywhere (a step size, an iterate, a coreset) is the same for other test labels; the scores are not."
    other, tuned = shuffled_test(data), Protocol(epochs=20, lrs=(.0001, .05))
    a, b = (benchmark(syn, d, NET, tuned, 2) for d in (data, other))
    assert a.lr == b.lr == .05 and a.all != b.all
    source = RandomInit(lambda: net(data, None), seed=0)
    a, b = (tune_lr(Synthetic.means(d), source, d, lrs=(.0001, .05, .2), n_nets=2) for d in (data, other))
    assert torch.equal(a.lrs, b.lrs) and evaluate(a, source, data, 2).all != evaluate(a, source, other, 2).all
    for name in ('herding', 'kmeans', 'nearest'): assert torch.equal(coreset(name, data, 2).images, coreset(name, other, 2).images)
    out = []
    for d in (data, other):
        s = Synthetic.real(d, ipc=1, lr=.1)
        h = distill(s, source, d, iters=6, every=2, progress=False, n_eval=2)
        out.append((s.images.detach(), h.best_it, h.accuracy))
    assert torch.equal(out[0][0], out[1][0]) and out[0][1:] == out[1][1:]


def test_the_step_size_is_the_best_on_validation_by_other_networks(data, syn, monkeypatch):
    import dd_nb.protocols as E
    seen = []
    def spy(jobs, d, p, *args):
        seen.append((len(d.y_test), p.lrs, [id(j[0]) for j in jobs], [j[0].params['0.weight'] for j in jobs]))
        return real(jobs, d, p, *args)
    real = E._accuracies
    monkeypatch.setattr(E, '_accuracies', spy)
    benchmark(syn, data, NET, Protocol(epochs=2, lrs=(.01, .1)), 4)
    *choosing, judging = seen
    assert [s[1] for s in choosing] == [(.01,), (.1,)] and all(s[0] != len(data.y_test) for s in choosing) and judging[0] == len(data.y_test)
    assert not any(torch.equal(a, b) for a in choosing[0][3] for b in judging[3])


def test_cross_architecture(data, syn):
    out = cross_architecture(syn, data, ['MLP', 'Logistic'], protocol=SHORT, n_nets=2)
    assert list(out) == ['MLP', 'Logistic'] and all(len(s.all) == 2 for s in out.values())
    with pytest.raises(ValueError, match='LeNet needs images'): cross_architecture(syn, data, ['MLP', 'LeNet'])
    assert len(ARCHS) == 10
    for spec in ARCHS.values(): make_net(**spec, shape=(3, 32, 32), n_classes=10)


def test_bad_input(data, syn):
    with pytest.raises(ValueError, match="protocol must be one of plain, tuned, augmented, hard, expert, anew, got 'best'"): benchmark(syn, data, NET, 'best')
    with pytest.raises(ValueError, match='n_nets must be at least 1'): benchmark(syn, data, NET, n_nets=0)
    with pytest.raises(ValueError, match='sets must hold at least one'): benchmark([], data, NET)
    with pytest.raises(TypeError, match='sets must be a Synthetic, a pair'): benchmark(3, data, NET)
    with pytest.raises(ValueError, match='lrs must be positive'): Protocol(lrs=(0.,))
    with pytest.raises(ValueError, match='strategy must be made of'): Protocol(augment='blur')
    with pytest.raises(ValueError, match="loss must be one of cross_entropy, squared_error, got 'mse'"): Protocol(loss='mse')
    with pytest.raises(ValueError, match='augment must be given'): fit(ConvNet(data.shape, 10, width=4, depth=1), *pair(syn), 'augmented')
    assert PROTOCOLS['plain'].n_epochs == 300 and PROTOCOLS['augmented'].n_epochs == 1000 and get_protocol('tuned').lrs == (.001, .005, .01, .05, .1)
    with pytest.raises(ValueError, match=r'momentum must be in \[0, 1\), got 1'): Protocol(momentum=1)
    with pytest.raises(TypeError, match="weight_decay must be a number >= 0, got 'little'"): Protocol(weight_decay='little')
