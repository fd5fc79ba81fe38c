"The judge."
import math
import statistics

import pytest
import torch

from dd_nb.data import data_from_tensors, load_data
from dd_nb.distillation import distill
from dd_nb.evaluation import Score,evaluate,interval,tune_lr
from dd_nb.ordinary import accuracy
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.networks import LeNet, Logistic
from dd_nb.synthetic import Synthetic
from dd_nb.structure import stack,unstack
from dd_nb.train import trained


@pytest.fixture(scope='module')
def data(): return load_data('digits')


def test_score_is_the_sample_mean_and_standard_deviation():
    s = Score((.5, .6, .9))
    t = torch.tensor(s.all, dtype=torch.float64)
    assert abs(s.mean - t.mean()) < 1e-12 and abs(s.std - t.std()) < 1e-12 and Score((.5,)).std == 0.


def test_accuracy_counts_every_test_example_once(data):
    net = LeNet(seed=0).eval()
    by_hand = (net(data.x_test).argmax(1) == data.y_test).float().mean().item()
    assert abs(accuracy(net, data, batch_size=77) - by_hand) < 1e-6


def test_evaluate_is_plain_training(data):
    net = LeNet(seed=0)
    syn = Synthetic.means(data, lr=.05)
    by_hand = accuracy(syn.train(net), data)
    assert evaluate(syn, FixedInit(net), data).all == (by_hand,)


def test_fixed_is_trained_once_and_random_n_times(data):
    syn = Synthetic.means(data, lr=.05)
    assert len(evaluate(syn, FixedInit(LeNet(seed=0)), data, n_nets=9).all) == 1
    source = RandomInit(lambda: LeNet(data.shape, 10), seed=4)
    a, b, c = evaluate(syn, source, data, 3), evaluate(syn, source, data, 3), evaluate(syn, source, data, 3, seed=1)
    assert a.all == b.all != c.all and len(set(a.all)) > 1 and source.count == 0


def test_the_set_is_not_changed(data):
    syn = Synthetic.means(data, lr=.05)
    before = syn.images.detach().clone()
    evaluate(syn, FixedInit(LeNet(seed=0)), data)
    assert torch.equal(syn.images, before) and syn.images.grad is None and syn.images.requires_grad


def test_another_normalisation_is_refused(data):
    syn = Synthetic.means(data)
    other = data_from_tensors(data.raw_train // 2, data.y_train, data.raw_test // 2, data.y_test, name='darker')
    with pytest.raises(ValueError, match='another normalisation'): evaluate(syn, FixedInit(LeNet(seed=0)), other)


def test_missing_source_or_data(data):
    syn = Synthetic.noise(data.shape, 10)
    with pytest.raises(ValueError, match='data must be given'): evaluate(syn, FixedInit(LeNet(seed=0)))
    with pytest.raises(ValueError, match='source must be given'): evaluate(syn, None, data)
    with pytest.raises(ValueError, match='n_nets must be at least 1'): evaluate(syn, None, data, n_nets=0)


def test_tuning_does_not_look_at_the_test_set(data):
    syn, source = Synthetic.means(data), FixedInit(Logistic(data.shape, 10, seed=0))
    other = data_from_tensors(data.raw_train, data.y_train, data.raw_test, data.y_test.roll(1), name='rolled')
    a, b = (tune_lr(syn, source, d, lrs=(.001, .01, .1)) for d in (data, other))
    assert torch.equal(a.lrs, b.lrs)
    assert evaluate(a, source, data).mean >= evaluate(Synthetic.means(data, lr=.001), source, data).mean


def test_aninterval():
    "Three numbers by hand: mean 2, standard error 1/sqrt(3), the t quantile for two degrees of freedom 4.303."
    mean, half = interval([1., 2., 3.])
    assert mean == 2 and half == pytest.approx(4.3027/3**.5, abs=1e-4)


def test_a_core_each_and_as_one_are_the_same(data):
    "Several networks judged in threads, one after the other, or trained as a stack and taken apart again."
    d = data.to(dtype=torch.float64)
    syn = Synthetic.means(d, lr=.05, inner='adam').to(dtype=torch.float64)
    source = RandomInit(lambda: LeNet(data.shape, 10), seed=4)
    one, two = (evaluate(syn, source, d, 3, workers=w).all for w in (1, 2))
    states = source.to(dtype=torch.float64).held_out(0).draw(3)
    apart = unstack(trained(syn, stack(states)))
    assert one == two == tuple(accuracy(s, d) for s in apart)
    for s, alone in zip(apart, (trained(syn, s) for s in states)):
        assert s.opt['n'] == alone.opt['n'] == 3
        for k, v in alone.params.items(): assert torch.allclose(s.params[k], v, rtol=1e-8, atol=1e-10)
        for k, v in alone.opt['m'].items(): assert torch.allclose(s.opt['m'][k], v, rtol=1e-8, atol=1e-12)


def test_data_by_name_must_be_those_the_set_was_made_for(data, monkeypatch):
    "The digest that a set keeps of its data decides, not their name; older sets keep none, and then classes and numbers do."
    import dd_nb.evaluation as E
    source, syn = FixedInit(Logistic(data.shape, 10, seed=0)), Synthetic.means(data)
    distill(syn, source, data, iters=1, n_valid=0, keep='last', progress=False)
    assert syn.meta['data']['digest'] == data.digest and evaluate(syn).all == evaluate(syn, source, data).all
    g = torch.Generator().manual_seed(0)
    def other(n=0): return data_from_tensors(data.raw_train, data.y_train, data.raw_test[n:], data.y_test[torch.randperm(540, generator=g)][n:], name='digits', classes=data.classes, norm=syn.norm)
    monkeypatch.setattr(E, 'load_data', lambda *a, **kw: other())
    with pytest.raises(ValueError, match="data must be given, those that the set was made for: 'digits' as it is loaded here has other contents"): evaluate(syn)
    assert evaluate(syn, None, other()).mean < .5   # who hands them over knows
    del syn.meta['data']['digest']
    assert evaluate(syn).mean < .5
    monkeypatch.setattr(E, 'load_data', lambda *a, **kw: other(1))
    with pytest.raises(ValueError, match='data must be given'): evaluate(syn)


def test_networks_are_stacked_where_they_are_alike():
    "What decides on a GPU whether networks are judged as one: their structure, and whether vmap knows its layers."
    from torch import nn

    from dd_nb.networks import MLP
    from dd_nb.structure import alike, functional
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 3, batch_first=True)
        def forward(self, x): return self.rnn(x)[0][:, -1]
    small, large = (functional(MLP((4,), 3, hidden=(n,))) for n in (2, 5))
    assert alike([small]) and alike([small, functional(MLP((4,), 3, hidden=(2,)))])
    assert not alike([small, large]) and not alike([functional(Recurrent())]*2)
    class Branching(nn.Module):   # vmap cannot follow, and says so; the layers alone do not tell
        def __init__(self):
            super().__init__()
            self.a,self.b = nn.Linear(4, 3),nn.Linear(4, 3)
        def forward(self, x): return self.a(x) if x.mean() > 0 else self.b(x)
    class Own(Branching):
        def forward(self, x): return self.a(x) + self.b(x)
    x,branching = torch.randn(6, 4),functional(Branching())
    assert alike([branching]*2) and not alike([branching]*2, x) and alike([functional(Own())]*2, x) and alike([small]*2, x)


def test_the_lead_of_one_score_over_another():
    "Welch's interval, over sets where there are several."
    from scipy.stats import t

    from dd_nb.evaluation import lead
    a,b = (.5, .52, .48, .51),(.4, .3, .5)
    ahead,half = lead(Score(a), Score(b))
    va,vb = statistics.variance(a)/4,statistics.variance(b)/3
    df = (va + vb)**2/(va**2/3 + vb**2/2)
    assert abs(ahead - (statistics.mean(a) - .4)) < 1e-12 and abs(half - t.ppf(.975, df)*(va + vb)**.5) < 1e-9
    sets = Score((.5, .6, .3, .4), sets=2)
    assert abs(lead(sets, Score(b))[1] - lead(Score((.55, .35)), Score(b))[1]) < 1e-12
    assert math.isnan(lead(Score((.5,)), Score(b))[1]) and lead(Score((.5, .5)), Score((.4, .4))) == (pytest.approx(.1), 0.)
