"Coresets: that each chooses what its definition says, class by class, from training examples alone."
import pytest
import torch

from dd_nb.coresets import CORESETS, STARTS, coreset, feature_net, features, herd, k_center, near_centres, started
from dd_nb.data import data_from_tensors, load_data
from dd_nb.networks import ConvNet
from dd_nb.synthetic import Synthetic


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


@pytest.fixture(scope='module')
def f(): return torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_herding_is_greedy(f):
    got, mean, chosen = herd(f, 6).tolist(), f.mean(0), []
    for _ in range(6):
        best = min((i for i in range(30) if i not in chosen), key=lambda i: (f[[*chosen, i]].mean(0) - mean).norm())
        chosen.append(best)
    assert got == chosen and len(herd(f, 30).unique()) == 30


def test_herding_keeps_the_mean_better_than_chance(f):
    def miss(i): return (f[i].mean(0) - f.mean(0)).norm()
    g = torch.Generator().manual_seed(1)
    assert all(miss(herd(f, 8)) < miss(torch.randperm(30, generator=g)[:8]) for _ in range(20))


def test_k_center_is_greedy_and_within_twice_the_best(f):
    got = k_center(f, 3)
    far = [int((f - f.mean(0)).norm(dim=1).argmin())]
    while len(far) < 3: far.append(int(torch.cdist(f, f[torch.tensor(far)]).min(1).values.argmax()))
    def radius(i): return torch.cdist(f, f[torch.as_tensor(i)]).min(1).values.max()
    best = min(radius(c) for c in torch.combinations(torch.arange(30), 3).tolist())
    assert got.tolist() == far and best <= radius(got) <= 2*best and len(k_center(f, 30).unique()) == 30


def test_nearest_to_the_centres_are_distinct_members():
    "Three tight groups: one of each is chosen; as many as there are: all."
    g = torch.Generator().manual_seed(0)
    f = torch.cat([c + .01*torch.randn(10, 2, generator=g) for c in (torch.tensor([0., 0.]), torch.tensor([5., 0.]), torch.tensor([0., 5.]))]).double()
    assert sorted((near_centres(f, 3)//10).tolist()) == [0, 1, 2] and sorted(near_centres(f, 30).tolist()) == list(range(30))


def test_one_a_class_is_nearest_to_the_mean(data):
    x = data.x_train
    for name in ('herding', 'kcenter', 'nearest'):
        s = coreset(name, data)
        for c in range(10):
            mine = x[data.y_train == c]
            want = mine[(mine.flatten(1) - mine.flatten(1).mean(0)).norm(dim=1).argmin()]
            assert torch.equal(s.images[0, c], want), (name, c)


@pytest.mark.parametrize('name', CORESETS)
def test_a_start_like_any_other(name, data):
    s = coreset(name, data, ipc=2, steps=3, epochs=2, lr=.1, inner='adam', seed=1)
    assert s.images.shape == (3, 20, *data.shape) and s.n_steps == 6 and s.inner.name == 'adam' and s.meta['data']['name'] == 'digits'
    assert (torch.bincount(s.labels.flatten()) == 6).all()
    if name not in ('means', 'kmeans'):   # real examples, of their class, none twice
        for c in range(10):
            mine = s.images.detach()[s.labels == c].flatten(1).double()
            d = torch.cdist(mine, data.x_train[data.y_train == c].flatten(1).double())
            assert (d.min(1).values < 1e-5).all() and len(d.argmin(1).unique()) == 6


def test_features_are_what_enters_the_classifier(data):
    net = feature_net(ConvNet(data.shape, 10, width=8, depth=2, seed=0), data, epochs=1)
    x = data.x_test[:50]
    out = net[-1](features(x, net).float())
    assert torch.allclose(out, net(x), atol=1e-5) and torch.equal(features(x), x.flatten(1).double())
    assert not torch.equal(coreset('herding', data, 3, net=net).images, coreset('herding', data, 3).images)


def test_test_labels_and_images_play_no_part(data):
    "A data set with other test data gives the same coresets."
    g = torch.Generator().manual_seed(0)
    other = data_from_tensors(data.raw_train, data.y_train, torch.randint(256, data.raw_test.shape, generator=g, dtype=torch.uint8), torch.randint(10, data.y_test.shape, generator=g), name='digits')
    for name in CORESETS: assert torch.equal(coreset(name, data, 2).images, coreset(name, other, 2).images), name


def test_bad_input(data):
    with pytest.raises(ValueError, match="name must be one of real, means.*got 'best'"): coreset('best', data)
    with pytest.raises(ValueError, match='ipc . steps must be at most'): coreset('herding', data, ipc=500)
    with pytest.raises(ValueError, match=r'net must take examples of shape \(1, 8, 8\), got Linear'): Synthetic.herding(data, net=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match='net must end in one linear layer'): Synthetic.herding(data, net=torch.nn.Flatten())
    assert all(hasattr(Synthetic, s) for s in STARTS)


def test_a_start_by_name():
    data = load_data('digits', size=8)
    assert all(started(s, data, ipc=2, seed=1).images.shape == (1, 20, 1, 8, 8) for s in STARTS)
    assert torch.equal(started('noise', data, seed=1).images, Synthetic.noise(data.shape, 10, seed=1).images)
    with pytest.raises(ValueError, match="start must be one of noise, real, .*, got 'nosie'"): started('nosie', data)
