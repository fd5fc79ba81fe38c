"The same labels for every set: own, hard, or an expert's, asked once or at every step."
import json

import pytest
import torch

from dd_nb.augment import standard_augment
from dd_nb.coresets import coreset
from dd_nb.data import load_data
from dd_nb.inits import judges
from dd_nb.networks import make_net
from dd_nb.ordinary import scored, train_on
from dd_nb.protocols import Protocol, _fit_stack, benchmark, cross_architecture, expert_for, fit, net_source
from dd_nb.relabel import expert_labels, relabelled, train_expert
from dd_nb.structure import functional

NET = dict(name='ConvNet', width=8, depth=2, norm='none')
SHORT = Protocol(epochs=6)


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)

@pytest.fixture(scope='module')
def expert(data): return train_expert(net(data), data, epochs=20, lr=.01, progress=False)

def net(data, seed=0, **kw): return make_net(**{**NET, **kw}, shape=data.shape, n_classes=10, seed=seed)
def short(labels, **kw): return Protocol(epochs=kw.pop('epochs', 6), labels=labels, **kw)


def test_an_expert_is_trained_on_everything(data, expert):
    same = train_on(net(data), data.x_train, data.y_train, epochs=20, lr=.01, batch_size=128)
    assert all(torch.equal(a, b) for a,b in zip(expert.parameters(), same.parameters()))
    assert scored(expert, data).accuracy > .5

def test_labels_are_softmaxes_whatever_the_batch(data, expert):
    x = data.x_test[:70]
    p = expert_labels(expert, x, at_once=32)
    with torch.no_grad(): assert torch.allclose(p, expert(x).softmax(-1), atol=1e-6)
    assert not p.requires_grad and expert_labels(expert, x, temperature=8.).max() < p.max()

def test_what_a_row_keeps_of_its_labels(data, expert):
    x = data.x_test[:10]
    soft = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for y in (data.y_test[:10], soft):
        pairs = [(x, y)]
        assert relabelled(pairs, 'own')[0][1] is y
        hard = relabelled(pairs, 'hard')[0][1]
        assert torch.equal(hard, y if y.dim() == 1 else y.argmax(-1))
        for how in ('expert', 'anew'):
            got = relabelled(pairs, how, expert)[0]
            assert got[0] is x and torch.equal(got[1], expert_labels(expert, x))   # whatever the set said

def test_a_protocol_asks_an_expert(data, expert):
    "One that is given, or one of the judged architecture; a set with wrong labels is as good as one with right ones."
    right = coreset('real', data, 3)
    wrong = right.images.flatten(0, 1), (right.labels.flatten() + 1) % 10
    def by(s, labels, **kw): return benchmark(s, data, NET, short(labels, epochs=60, lrs=(.05,)), 2, expert=expert, **kw)
    assert by(right, 'expert').all == by(wrong, 'expert').all
    assert by(right, 'own').mean > by(wrong, 'own').mean + .1
    x,y = right.images.detach().flatten(0, 1),expert_labels(expert, right.images.flatten(0, 1))
    assert by((x, y), 'own').all == by(right, 'expert').all
    made = expert_for(short('expert'), data, net_source(NET, data), seed=4, progress=False)
    alike = train_expert(judges(net_source(NET, data), 1, 4)[0].module(), data, seed=4, progress=False)
    assert all(torch.equal(a, b) for a,b in zip(made.parameters(), alike.parameters()))
    assert expert_for(SHORT, data, net_source(NET, data)) is None

def test_labels_anew_are_of_what_enters(data):
    "Asked at every step of the augmented images: an expert that is a known function says so."
    seen = []
    def expert(x):
        seen.append(x)
        return x.flatten(1)[:, :10]
    a = standard_augment(data)
    p = short('anew', augment='standard')
    syn = coreset('real', data, 2)
    benchmark(syn, data, NET, p, 1, expert=expert, progress=False)
    first,*steps = seen
    assert torch.equal(first, syn.images.flatten(0, 1)) and len(steps) == 6
    assert all(len(x) == 20 and not torch.equal(x.sort(0)[0], first.sort(0)[0]) for x in steps)
    losses = []
    def loss(out, y):
        losses.append(y)
        return -(out.log_softmax(-1)*y).sum(-1).mean()
    seen.clear()
    label = lambda x: expert_labels(expert, x)
    fit(net(data), first, expert_labels(expert, first), p, augment=a, loss=loss, label=label)
    assert all(torch.equal(y, x.flatten(1)[:, :10].softmax(-1)) for x,y in zip(seen[1:], losses))

def test_a_stack_asks_as_one_by_one(data, expert):
    x,y = data.x_train[:24],expert_labels(expert, data.x_train[:24])
    how = dict(augment=standard_augment(data), label=lambda x: expert_labels(expert, x))
    p = short('anew', augment='standard')
    alone = [functional(fit(net(data, i), x, y, p, i, **how)) for i in range(2)]
    stacked = _fit_stack([functional(net(data, i)) for i in range(2)], x, y, p, range(2), **how)
    for a,b in zip(alone, stacked):
        for k in a.params: assert torch.allclose(a.params[k], b.params[k], atol=1e-5)

def test_one_expert_for_all_architectures(data):
    calls = []
    def expert(x):
        calls.append(len(x))
        return torch.zeros(len(x), 10)
    got = cross_architecture(coreset('real', data, 1), data, {'a': NET, 'b': dict(name='MLP')}, protocol=short('expert'), n_nets=1, expert=expert)
    assert list(got) == ['a', 'b'] and calls == [10, 10]

def test_refused(data):
    with pytest.raises(ValueError, match='labels'): Protocol(labels='best')
    with pytest.raises(ValueError, match='augment'): Protocol(labels='anew')
    with pytest.raises(ValueError, match='temperature'): Protocol(temperature=0.)
    with pytest.raises(ValueError, match='epochs'): train_expert(net(data), data, epochs=0)

def test_by_the_command(tmp_path, monkeypatch, capsys):
    from dd_nb.cli import dd_evaluate
    monkeypatch.chdir(tmp_path)
    data = load_data('digits')
    coreset('real', data, 1).save('set.safetensors')
    dd_evaluate('set.safetensors', data='digits', labels='expert', archs='MLP', nets=1, epochs=3, compare=True, json='out.json', quiet=True)
    said = capsys.readouterr().out
    assert 'expert: ' in said and said.count('class means on') == 1
    assert json.loads((tmp_path/'out.json').read_text())['protocol']['labels'] == 'expert'
