"A linear probe on the features of a network that stays as it is."
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_nb.coresets import coreset
from dd_nb.data import load_data, split_validation
from dd_nb.distillation import distill
from dd_nb.frozen import PROBES, FrozenFeatures, linear_probe
from dd_nb import soft_labels   # noqa: F401 - for `softened`
from dd_nb.inits import FixedInit
from dd_nb.networks import ConvNet
from dd_nb.parametrise import Formation
from dd_nb.structure import functional
from dd_nb.synthetic import Synthetic


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)
@pytest.fixture(scope='module')
def net(data): return ConvNet(data.shape, 10, width=6, depth=2, act='softplus', seed=0)


@pytest.mark.parametrize('inside', PROBES)
def test_gradient_in_float64(data, net, inside):
    d,n = data.to(dtype=torch.float64),ConvNet(data.shape, 10, width=6, depth=2, act='softplus', seed=0).double()
    objective,state = FrozenFeatures(n, d, inside=inside, augment='scale_rotate'),replace(functional(n), seed=4)
    syn,batch = Synthetic.real(d, ipc=2),objective.batch(d, 50, torch.Generator().manual_seed(0), False)
    g, = torch.autograd.grad(objective(syn, state, batch), [syn.images])
    for i in range(3):
        e = torch.randn(g.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        up,down = (objective(syn.changed(images=syn.images.detach() + h*e), state, batch).item() for h in (1e-5, -1e-5))
        assert abs((g*e).sum().item() - (up - down)/2e-5) < 1e-7

def test_the_gradient_of_a_probe_is_autograds(data, net):
    "What the cosine compares is what backward would give for a fresh linear layer."
    objective = FrozenFeatures(net, data, inside='gradient')
    f,y = objective.batch(data, 40, torch.Generator().manual_seed(0), False)
    syn,state = Synthetic.real(data, ipc=1),replace(functional(net), seed=7)
    g = torch.Generator().manual_seed(7)
    W = (.01*torch.randn(f.shape[1] + 1, 10, generator=g)).requires_grad_()
    def of(f, y): return torch.autograd.grad(F.cross_entropy(torch.cat([f, torch.ones(len(f), 1)], 1) @ W, y), W)[0].flatten()
    s = objective.features(syn.images.flatten(0, 1)).detach()
    want = 1 - F.cosine_similarity(of(s, syn.labels.flatten()), of(f, y), 0)
    assert torch.allclose(objective(syn, state, (f, y)), want, atol=1e-6)

def test_features_are_kept_and_looked_up(data, net, monkeypatch):
    "The network sees each real example once, and a validation split its own rows."
    seen = []
    objective = FrozenFeatures(net, data)
    plain = objective.features
    monkeypatch.setattr(objective, 'features', lambda x: seen.append(len(x)) or plain(x))
    assert torch.allclose(objective.of(data._train, data), plain(data.x_train), atol=1e-5) and not seen
    f,y = objective.batch(data, 30, data.generator(3), False)
    x,same = data.batch(30, data.generator(3))
    assert torch.equal(y, same) and torch.allclose(f, plain(x), atol=1e-5) and not seen
    valid = split_validation(data, 200, seed=1)
    f,y = objective.batch(valid, 30, data.generator(3), False)
    x,same = valid.batch(30, data.generator(3))
    assert torch.equal(y, same) and torch.allclose(f, plain(x), atol=1e-5) and not seen
    assert torch.allclose(objective.of(valid._test, valid), plain(valid.x_test), atol=1e-5) and not seen
    objective.of(data._test, data)
    assert sum(seen) == len(data.y_test)

def test_images_of_a_batch_will_do(data, net):
    objective,state = FrozenFeatures(net, data),replace(functional(net), seed=1)
    syn = Synthetic.real(data, ipc=1)
    f,y = objective.batch(data, 30, data.generator(3), False)
    assert torch.allclose(objective(syn, state, (f, y)), objective(syn, state, data.batch(30, data.generator(3))), atol=1e-4)

def test_standardised_by_the_training_split(data, net):
    f = FrozenFeatures(net, data).of(data._train, data)
    assert f.mean(0).abs().max() < 1e-4 and f.std(0).max() < 1.01
    class Dead(nn.Module):   # a feature that T never moves
        def forward(self, x): return torch.cat([x.flatten(1), (x.flatten(1)[:, :1] > 100).float()], 1)
    dead = FrozenFeatures(Dead(), data, layer=None)
    assert dead.features(1000*torch.ones(1, *data.shape))[0, -1].abs() < 20

@pytest.mark.parametrize('inside', PROBES)
def test_learns(data, net, inside):
    objective = FrozenFeatures(net, data, inside=inside)
    syn = coreset('real', data, 1).changed(learn=('images',))
    before = objective.probed(syn, data)
    distill(syn, FixedInit(net), data, objective, iters=80, batch_size=256, lr=.1, every=20, progress=False)
    assert objective.probed(syn, data) > before + .05
    assert objective.results(syn, None, data, 5) == ([objective.judge(syn, None, data)], {})
    assert objective.whole(data) > objective.probed(objective.nearest(data), data)

def test_learns_what_is_stored_otherwise(data, net):
    objective = FrozenFeatures(net, data, augment='crop_rotate')
    syn = Synthetic.means(data, ipc=4, learn=('images',)).parametrised(Formation(2))
    history = distill(syn, FixedInit(net), data, objective, iters=20, batch_size=128, lr=.05, every=10, progress=False)
    assert len(syn) == 40 and history.best_accuracy >= history.accuracy[0]

def test_the_network_is_left_alone(data, net):
    net.train()
    before = {k: v.clone() for k,v in net.state_dict().items()}
    objective = FrozenFeatures(net, data)
    objective(Synthetic.real(data, ipc=1), functional(net), objective.batch(data, 10, None, False)).backward()
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k,v in net.state_dict().items())

def test_the_nearest_real_image(data, net):
    objective = FrozenFeatures(net, data)
    s,f = objective.nearest(data, 2),objective.of(data._train, data)
    assert s.labels.flatten().tolist() == [*range(10)]*2
    mine = f[data.y_train == 3]
    best = data.x_train[data.y_train == 3][(mine - mine.mean(0)).norm(dim=1).argmin()]
    assert torch.equal(s.images[0, 3], best)

def test_a_layer_by_name_or_the_output(data, net):
    whole = nn.Sequential(*list(net)[:-1])
    a,b = FrozenFeatures(net, data),FrozenFeatures(whole, data, layer=None)
    assert torch.allclose(a.of(data._train, data), b.of(data._train, data), atol=1e-5)

def test_the_probe_is_logistic_regression(data):
    from sklearn.linear_model import LogisticRegression
    x,z = data.x_train[:300].flatten(1),data.x_test.flatten(1)
    model = LogisticRegression(max_iter=1000).fit(x.double().numpy(), data.y_train[:300].numpy())
    assert linear_probe(x, data.y_train[:300], z, data.y_test) == model.score(z.double().numpy(), data.y_test.numpy())

def test_refused(data, net):
    for kw in (dict(inside='x'), dict(reg=0), dict(temperature=-1), dict(layer='nothing')):
        with pytest.raises(ValueError, match=next(iter(kw))): FrozenFeatures(net, data, **kw)
    objective = FrozenFeatures(net, data)
    with pytest.raises(ValueError, match='soft'):
        objective(Synthetic.real(data).softened('hard'), functional(net), objective.batch(data, 10, None, False))
    with pytest.raises(ValueError, match='ipc'): objective.nearest(data, 10_000)

def test_the_bench_at_toy_size(tmp_path, capsys):
    from dd_nb.probes import print_probes, probe_table, probes, turns
    d = load_data('digits')
    t = turns(d, 50)
    assert t.n_classes == 4 and len(t.y_train) == 200
    assert torch.equal(t.raw_train[100], d.raw_train[0].rot90(2, (1, 2)))   # half a turn of the first
    how = dict(progress=False, folder=tmp_path, tables=(('digits', 'turns'),), sets=2, iters=5, epochs=1, width=4)
    out = probes(**how)
    print_probes(out)
    assert 'distilled, ridge' in capsys.readouterr().out and '| class means |' in probe_table(out).data
    assert probes(**how)['tables'] == out['tables']   # kept
    with pytest.raises(ValueError, match='square'): turns(load_data('digits', size=(8, 16)))

def test_a_network_of_torchvision():
    "Features by the name of its classifier, or of the network without it."
    from torchvision.models import resnet18
    g = torch.Generator().manual_seed(0)
    x,y = torch.rand(60, 3, 32, 32, generator=g),torch.arange(60) % 3
    from dd_nb.data import data_from_tensors
    d = data_from_tensors(x, y, x[:12], y[:12], name='colour')
    net = resnet18(weights=None, num_classes=7)
    objective = FrozenFeatures(net, d, layer='fc', inside='gradient')
    syn = Synthetic.real(d, ipc=1, learn=('images',))
    distill(syn, FixedInit(net), d, objective, iters=2, batch_size=32, every=1, progress=False)
    net.fc = nn.Identity()
    assert objective.mean.shape == (512,) and torch.allclose(objective.mean, FrozenFeatures(net, d, layer=None).mean, atol=1e-5)
