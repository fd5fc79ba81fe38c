"The one ordinary loop, the one judge, and what enters the last layer."
import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_nb.adaptation import full_target
from dd_nb.coresets import coreset, feature_net, features
from dd_nb.augment import Siamese
from dd_nb.data import data_from_tensors,load_data
from dd_nb.distribution_matching import DistributionMatch
from dd_nb.protocols import Protocol,benchmark
from dd_nb.evaluation import Score,evaluate
from dd_nb.inits import FixedInit,RandomInit
from dd_nb.pools import PretrainedPool,pretrain
from dd_nb.kernel import FeatureRidge
from dd_nb.networks import MLP, ConvNet, make_net
from dd_nb.synthetic import Synthetic
from dd_nb.ordinary import Judged,Stacked,accuracy,largest_share,not_trained,scored,train_on
from dd_nb.ordinary import _passes,_per_pass
from dd_nb.penultimate import Logits,features_of
from dd_nb.trajectory_matching import record_experts
from dd_nb.structure import functional


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


def rows(n, k=3, seed=0):
    "A table of `n` examples with four numbers each."
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g), torch.arange(n) % k


def table(n=129, k=3): return data_from_tensors(*rows(n, k), *rows(60, k, 1), name='table')


def normed(): return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def noisy(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(.5), nn.Linear(16, 10))


def by_seed(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def same(a, b): return all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values()))


# --- the loop

def test_the_loop_is_plain_adam_with_half_a_cosine(data):
    x, y = data.x_train.double(), data.y_train
    got = train_on(ConvNet(data.shape, 10, width=4, depth=2, norm='none', seed=0).double(), x, y, epochs=2, lr=.01, batch_size=100, seed=5)
    want, g = ConvNet(data.shape, 10, width=4, depth=2, norm='none', seed=0).double().train(), torch.Generator().manual_seed(5)
    opt = torch.optim.Adam(want.parameters(), .01)
    t, T = 0, 2*13
    for _ in range(2):
        for idx in torch.randperm(len(y), generator=g).split(100):
            for group in opt.param_groups: group['lr'] = .01*.5*(1 + math.cos(math.pi*t/T))
            opt.zero_grad(); F.cross_entropy(want(x[idx]), y[idx]).backward(); opt.step()
            t += 1
    assert not got.training and all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(got.parameters(), want.parameters()))


@pytest.mark.parametrize('n, size, sizes', [(129, 128, [129]), (257, 128, [128, 129]), (128, 128, [128]), (130, 128, [128, 2]), (1, 128, [1]), (3, 1, [1, 1, 1])])
def test_a_last_batch_of_one_joins_the_one_before(n, size, sizes):
    order = _passes(n, size, torch.Generator().manual_seed(0))
    for _ in range(2):
        parts = [next(order) for _ in range(_per_pass(n, size))]
        assert [len(p) for p in parts] == sizes and torch.cat(parts).sort().values.tolist() == list(range(n))


def test_129_rows_and_batchnorm(tmp_path):
    "A batch of one has no variance: pre-training, full training, networks to choose by and the judge go on all the same; experts have no BatchNorm."
    d = table()
    pool = pretrain(normed, d, tmp_path/'p', n=3, epochs=1, progress=False)
    assert len(full_target(pool, d, 1, epochs=1)) == 1
    feature_net(normed(), d, epochs=1)
    assert len(benchmark((d.x_train, d.y_train), d, normed, Protocol(epochs=1, batch_size=128), 1).all) == 1
    assert len(record_experts(lambda: MLP(d.shape, 3), d, tmp_path/'e', n=1, records=2, every=1, progress=False)) == 1


def test_equal_seeds_give_equal_networks_with_dropout(data):
    x, y = data.x_train, data.y_train
    def net(seed): return train_on(by_seed(noisy), x, y, batch_size=64, seed=seed)
    before = torch.get_rng_state()
    a = net(1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert same(a, net(1)) and not same(a, net(2))
    torch.manual_seed(0); b = train_on(by_seed(lambda: noisy()[:3].append(nn.Linear(16, 10))), x, y, batch_size=64, seed=1)
    torch.manual_seed(1); c = train_on(by_seed(lambda: noisy()[:3].append(nn.Linear(16, 10))), x, y, batch_size=64, seed=1)
    assert same(b, c)


def test_pools_experts_and_judges_with_dropout_know_their_seed(data, tmp_path):
    def pool(name, state, **kw):
        torch.manual_seed(state)
        return pretrain(noisy, data, tmp_path/name, n=3, epochs=1, progress=False, **kw)
    a, b, c = pool('a', 0, workers=1), pool('b', 1, workers=2), pool('c', 1, workers=1, seed=1)
    for s, t, u in zip(a.states, b.states, c.states):
        for k in s.params: assert torch.allclose(s.params[k], t.params[k], atol=1e-5) and not torch.equal(s.params[k], u.params[k])
    def tracks(name, state):
        torch.manual_seed(state)
        return record_experts(noisy, data, tmp_path/name, n=2, records=2, every=3, progress=False).tracks
    for s, t in zip(tracks('e', 0), tracks('f', 1)): assert all(torch.allclose(s[k], t[k], atol=1e-2) for k in s)
    syn = Synthetic.real(data, ipc=2)
    scores = []
    for i, workers in enumerate((1, 2, 2)):
        torch.manual_seed(i)
        scores.append(benchmark(syn, data, noisy, Protocol(epochs=8), 3, workers=workers).all)
        scores.append(tuple(full_target(a, data, 1, epochs=1)))
    assert scores[0] == scores[2] == scores[4] and scores[1] == scores[3] == scores[5]


def test_a_frozen_batchnorm_stays_frozen():
    d = table(120)
    net = normed().train()
    net[1].eval()
    mean = net[1].running_mean.clone()
    train_on(net, d.x_train, d.y_train, batch_size=30)
    assert torch.equal(net[1].running_mean, mean) and not net.training
    train_on(net, d.x_train, d.y_train, batch_size=30)   # a network in eval mode as a whole is trained as a whole
    assert not torch.equal(net[1].running_mean, mean)


def test_a_stack_is_as_one_by_one(data):
    x, y = data.x_train[:90].double(), data.y_train[:90]
    nets = [ConvNet(data.shape, 10, width=4, depth=2, norm='batch', seed=i).double() for i in range(2)]
    how = dict(epochs=2, batch_size=40, lr=.01, augment=Siamese('crop'), opt=partial(torch.optim.SGD, momentum=.9), schedule=None)
    together = Stacked([functional(n) for n in nets])
    def loss(out, y): return torch.func.vmap(F.cross_entropy)(out, y).sum()
    train_on(together, x, y, seed=[3, 4], loss=loss, **how)
    for s, net, seed in zip(together.states(), nets, (3, 4)):
        one = train_on(net, x, y, seed=seed, **how)
        for k, v in one.named_parameters(): assert torch.allclose(s.params[k], v, rtol=1e-9, atol=1e-11)
        for k, v in one.named_buffers(): assert torch.allclose(s.buffers[k].double(), v.double(), rtol=1e-9, atol=1e-11)


def test_the_loop_tells_of_passes_and_steps(data):
    said = []
    train_on(MLP(data.shape, 10), data.x_train, data.y_train, epochs=2, batch_size=500, tick=lambda: said.append('pass'), record=said.append)
    assert said == [1, 2, 3, 'pass', 4, 5, 6, 'pass']
    said.clear()
    train_on(MLP(data.shape, 10), data.x_train, data.y_train, steps=4, batch_size=500, record=said.append)
    assert said == [1, 2, 3, 4]


# --- the judge

def skew():
    "200 : 40 : 5 examples a class, in the test split as well."
    y = torch.repeat_interleave(torch.arange(3), torch.tensor([200, 40, 5]))
    x = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(0)) + F.one_hot(y, 4)
    return data_from_tensors(x, y, x, y, name='skew')


def answering(*bias):
    net = nn.Linear(4, len(bias))
    with torch.no_grad(): net.weight.zero_(); net.bias.copy_(torch.tensor(bias))
    return net


def test_the_judge_by_hand():
    d = skew()
    j = scored(answering(1., 0., 0.), d)
    assert (j.accuracy, j.predicted, j.finite, j.constant) == (200/245, 1, True, True) and j.balanced == pytest.approx(1/3)
    assert scored(answering(0., 0., 0., 9.), d).predicted == 1 and scored(answering(0., 0., 0., 9.), d).accuracy == 0   # an idle logit wins
    bad = scored(answering(math.nan, 0., 0.), d)
    assert not bad.finite and not bad.constant
    x = torch.tensor([0., 0, 0, 1, 1, 2])[:, None].expand(6, 4)
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    two = data_from_tensors(x.contiguous(), y, x.contiguous(), y, name='six')
    class Told(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
        def forward(self, x): return two.norm.inverse(x)[:, :1].round().long().eq(torch.arange(3)).float() + self.w
    j = scored(Told(), two)
    assert j.accuracy == pytest.approx(5/6) and j.balanced == pytest.approx((1 + 2/3 + 1)/3) and j.predicted == 3
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(.5)).train()
    assert accuracy(net, d) == scored(net, d).accuracy and net.training and net[1].training
    with pytest.raises(ValueError, match=r'net must return logits'): scored(nn.Flatten(0), d)


def test_largest_share():
    assert largest_share(skew()) == 200/245
    def of(*n):
        y = torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n))
        x = torch.randn(len(y), 2)
        return largest_share(data_from_tensors(x, y, x, y))
    assert of(3, 2) is None and of(4, 2) == 4/6 and of(7, 7) is None


def test_a_set_that_teaches_the_largest_class_only_is_remarked_on():
    d, syn = skew(), Synthetic(torch.zeros(1, 3, 4), torch.tensor([[0, 0, 0]]), 3, lr=5., epochs=20)
    with pytest.warns(UserWarning, match=r'^evaluate: 3 of 3 networks answer one class only$'): s = evaluate(syn, RandomInit(lambda: nn.Linear(4, 3)), d, 3)
    assert s.constant == 3 and s.diverged == 0 and s.mean == 200/245 and s.balanced == pytest.approx(1/3)
    assert repr(s).endswith('; balanced 33.33%; 3 of 3 networks answer one class only)')
    worse = Score.of([Judged(.7, .5, 2, True, 3)]*2, d)
    assert 'balanced 50.00%; always answering the largest class would score 81.63%' in repr(worse)
    with pytest.warns(UserWarning, match='benchmark: .*accuracy 70.00%, but always answering the largest class would score 81.63%'): worse.warn('benchmark')
    table = worse.to_dict()
    assert (table['balanced'], table['diverged'], table['constant'], table['largest']) == (.5, 0, 0, 200/245)


def test_divergence_is_reported(data, tmp_path, recwarn):
    syn = Synthetic.real(data, ipc=2, lr=1e9, epochs=20)
    def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.warns(UserWarning, match='evaluate: 2 of 2 networks ended in NaN or infinity'): s = evaluate(syn, RandomInit(make), data, 2)
    assert s.diverged == 2 and '2 of 2 networks ended in NaN or infinity' in repr(s) and s.to_dict()['diverged'] == 2
    with pytest.warns(UserWarning, match='benchmark: 2 of 2 networks ended in NaN or infinity'): assert benchmark(syn, data, make, Protocol(epochs=20, lrs=(1e9,)), 2).diverged == 2
    with pytest.warns(UserWarning, match='pretrain: 3 of 3 networks ended in NaN or infinity'): pool = pretrain(make, data, tmp_path/'p', n=3, epochs=1, lr=1e30, progress=False)
    assert pool.diverged == 3 and 'ended in NaN' in repr(PretrainedPool(tmp_path/'p', make))
    with pytest.warns(UserWarning, match='full_target: the network ended in NaN or infinity'): full_target(FixedInit(make()), data, epochs=1, lr=1e30)
    with pytest.warns(UserWarning, match='record_experts: 2 of 2 networks ended in NaN or infinity'): record_experts(make, data, tmp_path/'e', n=2, records=1, every=9, lr=1e9, progress=False)
    recwarn.clear()
    good = evaluate(Synthetic.real(data, ipc=2), RandomInit(make), data, 2)
    assert good.diverged == good.constant == 0 and ';' not in repr(good).replace('; 95 %', '') and not [w for w in recwarn if 'networks' in str(w.message)]


def test_old_scores_and_joined_ones():
    s = Score((.5, .7))
    assert s.balanced is None and s.diverged == s.constant == 0 and repr(s) == 'Score(60.00% +- 14.14%, 2 networks; 95 % interval +- 127.06%)'
    old = dict(mean=.6, std=.1, half=None, sets=1, lr=None, all=[.5, .7])   # as JSON files of before have it
    assert Score(tuple(old['all']), old['sets']).all == (.5, .7)
    a, b = (Score((v,), all_balanced=(v/2,), constant=1) for v in (.2, .4))
    both = Score.joined([a, b])
    assert both.all == (.2, .4) and both.all_balanced == (.1, .2) and both.constant == both.sets == 2
    with pytest.raises(ValueError, match='all_balanced must hold a number for each of 2 networks'): Score((.1, .2), all_balanced=(.1,))
    assert not_trained(0, 0, 5) == '' and not_trained(1, 1, 1) == 'the network ended in NaN or infinity, the network answers one class only'


# --- features

class Own(nn.Module):
    "No sequence: a body with a skip, a head, and what may come after it."
    def __init__(self, after=None):
        super().__init__()
        self.a, self.b, self.head, self.after = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 10), after
    def body(self, x):
        h = torch.tanh(self.a(x.flatten(1)))
        return h + torch.tanh(self.b(h))
    def forward(self, x):
        out = self.head(self.body(x))
        return out if self.after is None else self.after(out)


@pytest.mark.parametrize('after', [None, nn.LogSoftmax(1), nn.Softmax(1), lambda o: o - o.mean(1, keepdim=True)], ids=['logits', 'log-softmax', 'softmax', 'centred'])
def test_features_are_what_enters_the_last_linear_layer(data, after):
    net, x = Own(after).double(), data.x_test[:6].double().requires_grad_()
    for got in (features_of(net, x), features_of(functional(net), x)): assert torch.equal(got, net.body(x))
    w = torch.randn(6, 12, dtype=torch.float64)
    state = functional(net)
    ps = {k: v.requires_grad_() for k, v in state.params.items()}
    got = torch.autograd.grad((features_of(state, x)*w).sum(), [x, ps['a.weight'], ps['b.bias']])
    want = torch.autograd.grad((net.body(x)*w).sum(), [x, net.a.weight, net.b.bias])
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-12*b.norm()


def test_a_sequence_that_ends_in_log_softmax_is_cut_before_the_classifier(data):
    body = [nn.Flatten(), nn.Linear(64, 12), nn.Tanh()]
    net, plain = nn.Sequential(*body, nn.Linear(12, 10), nn.LogSoftmax(1)), nn.Sequential(*body, nn.Linear(12, 10))
    x, y = data.batch(60, torch.Generator().manual_seed(0))
    syn = Synthetic.real(data, ipc=1)
    assert features_of(functional(net), x).shape == (60, 12)
    for f in (DistributionMatch(), FeatureRidge()): assert f(syn, functional(net), (x, y)).item() == f(syn, functional(plain), (x, y)).item()
    assert torch.equal(features(x, net), net[:3](x).double())
    assert torch.equal(coreset('herding', data, ipc=3, net=net).images, coreset('herding', data, ipc=3, net=plain).images)


@pytest.mark.parametrize('name', ['ConvNet', 'AlexNet', 'VGG11', 'ResNet18', 'MLP', 'Logistic', 'AlexCifarNet'])
def test_features_of_the_librarys_networks(name):
    net, x = make_net(name, shape=(3, 32, 32), n_classes=10, seed=0).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(features_of(net, x), net[:-1](x).flatten(1))


def test_features_are_those_of_eval_mode_and_leave_the_network_as_it_is(data):
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(.5), nn.Linear(12, 10)).train()
    net[3].eval()
    x, before = data.x_test[:8], {k: v.clone() for k, v in net.state_dict().items()}
    kept = x.clone()
    got = features_of(net, x.clone())
    assert net.training and not net[3].training and net[4].training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(got, features_of(net, x.clone())) and torch.equal(got, net.eval()[:-1](kept))


class Shared(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(10, 10)
    def forward(self, x): return self.l(torch.tanh(self.l(x.flatten(1)[:, :10])))


class Both(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(64, 10), nn.Linear(64, 10)
    def forward(self, x): return self.a(x.flatten(1)) + self.b(x.flatten(1))


def conv_head(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize('make, layer, want', [(Shared, None, None), (Both, 'b', lambda n, x: x.flatten(1)), (conv_head, '2', lambda n, x: n[:2](x).flatten(1)),
                                               (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)), '1', lambda n, x: x.flatten(1))], ids=['shared', 'sum', 'convolution', 'norm after'])
def test_where_there_is_no_one_layer_it_is_named(data, make, layer, want):
    net, x = make().eval(), data.x_test[:5]
    for f in (lambda **kw: features_of(net, x, **kw), lambda **kw: features_of(functional(net), x, **kw), lambda **kw: features(x, net, **kw).float()):
        with pytest.raises(TypeError, match='net must end in one linear layer .* by layer, such as layer='): f()
        if layer: assert torch.equal(f(layer=layer), want(net, x))
        with pytest.raises(ValueError, match="layer must be one of .*, got 'x'"): f(layer='x')
    with pytest.raises(ValueError, match="layer must be a module that is called once .*got 'l', which is called 2 times"): features_of(Shared(), x, 'l')
    if layer:
        syn, batch = Synthetic.real(data, ipc=1), data.batch(50, torch.Generator().manual_seed(0))
        for o in (DistributionMatch(layer=layer), FeatureRidge(layer=layer)):
            assert torch.autograd.grad(o(syn, functional(net), batch), [syn.images])[0].norm() > 0 and f'layer={layer!r}' in repr(o)
        assert coreset('kcenter', data, ipc=2, net=net, layer=layer).images.shape == (1, 20, 1, 8, 8)
        with pytest.raises(TypeError, match='net must end in one linear layer'): feature_net(make(), data, epochs=1)
        feature_net(make(), data, epochs=1, layer=layer)


# --- outputs that are more than logits

@dataclass
class Output:
    logits:torch.Tensor
    loss:None = None


@pytest.mark.parametrize('wrap, pick', [(Output, None), (lambda o: dict(loss=None, logits=o), None), (lambda o: (o, 1), None), (lambda o: o, None), (lambda o: dict(scores=o), lambda d: d['scores'])],
                         ids=['dataclass', 'dict', 'tuple', 'tensor', 'by hand'])
def test_an_adapter_in_one_line(data, wrap, pick):
    class Theirs(Own):
        def forward(self, x): return wrap(super().forward(x))
    net, x = Logits(Theirs(), pick), data.x_test[:4]
    assert torch.equal(net(x), net.net.head(net.net.body(x)))
    assert torch.equal(features_of(net, x), net.net.body(x)) and accuracy(functional(net), data) == accuracy(net, data)
    syn = Synthetic.real(data, ipc=1, lr=.2, epochs=20)
    assert accuracy(syn.train(net), data) > .3
    with pytest.raises(TypeError, match='pick must be given for a network that returns a dict'): Logits(nn.Sequential(Own(lambda o: dict(scores=o))))(x)


def test_what_returns_no_logits_is_told_by_the_loop(data, tmp_path):
    class Dict(Own):
        def forward(self, x): return dict(logits=super().forward(x))
    for make, says in ((Dict, r'net must return logits of shape \(n, classes\), got dict'), (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), 'net must return a logit for each of the 10 classes, got 7')):
        with pytest.raises(ValueError, match=says): pretrain(make, data, tmp_path/'p', n=3, epochs=1, progress=False)
        with pytest.raises(ValueError, match=says): train_on(make(), data.x_train, data.y_train)
        with pytest.raises(ValueError, match=says): train_on(make(), data.x_train, F.one_hot(data.y_train, 10).float())
    assert not list((tmp_path/'p').iterdir())
