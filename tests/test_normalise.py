"Room `normalise`: statistics, whitening, files, and what is refused."
import json

import numpy as np
import pytest
import torch

from dd_nb.data import data_from_tensors,load_data
from dd_nb.normalise import Normalise,Vectors,norm_from_state
from test_data import tensors


@pytest.fixture(scope='module')
def digits(): return load_data('digits')


@pytest.mark.parametrize('shape', [(3, 7, 5), (1, 4, 4), (6, ), (2, 9), (4, 2, 2, 2)])
@pytest.mark.parametrize('byte', [True, False])
def test_normalise_statistics(shape, byte):
    x, _ = tensors(50, shape, byte=byte)
    if not byte: x = x*3 + torch.arange(shape[0]).view(-1, *[1]*(len(shape)-1))
    n = Normalise.fit(x, dtype=torch.float64)
    f = x.double()/255 if byte else x.double()
    dims = [0, *range(2, x.ndim)]
    assert torch.allclose(n.mean.flatten(), f.mean(dims), atol=1e-14) and torch.allclose(n.std.flatten(), f.std(dims, unbiased=False), atol=1e-14)
    z = n(x)
    assert z.dtype == torch.float64 and z.mean(dims).abs().max() < 1e-12 and (z.std(dims, unbiased=False) - 1).abs().max() < 1e-12
    assert torch.allclose(n.inverse(z), f, atol=1e-12)


def test_normalise_folds_without_changing_values(digits):
    x = digits.raw_train[:100]
    want = (x.double()/255 - digits.norm.mean)/digits.norm.std
    assert (digits.norm(x).double() - want).abs().max() < 1e-6
    assert torch.allclose(digits.norm(x.float()/255), digits.norm(x), atol=1e-6)      # floats count as [0, 1]


def test_normalise_leaves_its_input_alone():
    x = torch.rand(8, 3, requires_grad=True)
    n = Normalise(torch.tensor([1., 2., 3.]), torch.tensor([2., 2., 2.]))
    keep = x.detach().clone()
    n(x).sum().backward()
    assert x.detach().equal(keep) and torch.allclose(x.grad, torch.full((8, 3), .5))


def test_constant_channel_becomes_zero():
    x = torch.cat([torch.randn(40, 2), torch.full((40, 1), 7.3)], 1)
    d = data_from_tensors(x, torch.arange(40) % 2)
    assert d.x_train.isfinite().all() and d.x_train[:, 2].abs().max() < 1e-6 and d.x_train[:, 0].std() > .9


def test_small_scale_feature_is_not_constant():
    x = torch.randn(100, 1)*1e-9
    assert abs(data_from_tensors(x, torch.arange(100) % 2).x_train.std() - 1) < .05


def test_statistics_come_from_the_training_split_only():
    x, y = tensors(byte=False)
    a, b = (data_from_tensors(x, y, x_test=t, y_test=y) for t in (x, x*100 + 5))
    assert a.norm.mean.equal(b.norm.mean) and a.norm.std.equal(b.norm.std)


@pytest.mark.parametrize('zca', [False, .1])
def test_state_round_trip(digits, zca, tmp_path):
    from safetensors.torch import load_file, save_file
    d = load_data('digits', size=8, zca=zca)
    save_file(d.norm.state(), tmp_path/'n.safetensors')
    n = Normalise.from_state(load_file(tmp_path/'n.safetensors'))
    assert n(d.raw_test).equal(d.norm(d.raw_test)) and n.to_dict() == d.norm.to_dict() and repr(n) == repr(d.norm)
    z = n(d.raw_test)
    assert n.inverse(z).equal(d.norm.inverse(z))


@pytest.mark.parametrize('change', [lambda s: s.pop('mean'), lambda s: s.pop('zca_mean'), lambda s: s.update(zca_triu=s['zca_triu'][:-1]),
                                    lambda s: s.update(std=s['std']*0), lambda s: s.update(std=torch.ones(2, 1, 1)), lambda s: s.update(mean=s['mean']*np.nan)])
def test_broken_state(change):
    s = load_data('digits', size=8, zca=True).norm.state()
    change(s)
    with pytest.raises(ValueError): Normalise.from_state(s)


def test_normalise_refuses_other_shapes(digits):
    n = Normalise.fit(tensors(shape=(3, 4, 4))[0])
    with pytest.raises(ValueError, match='3 channels'): n(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match='3 channels'): n.inverse(torch.zeros(4, 4))
    with pytest.raises(TypeError, match='x must be a tensor'): n([1, 2])
    w = load_data('digits', size=8, zca=True).norm
    with pytest.raises(ValueError, match='64 numbers'): w(torch.zeros(64, 1, 7, 7))


def test_to_dict_is_small_json():
    x = torch.randn(200, 100)
    d = data_from_tensors(x, torch.arange(200) % 2, zca=True)
    t = json.dumps(d.describe())
    assert len(t) < 1000 and json.loads(t)['norm'] == dict(mean=None, std=None, channels=100, zca=dict(reg=.1, dim=100))


def test_a_column_of_large_numbers_is_centred_before_it_is_rounded():
    t = 1_764_000_000 + torch.arange(1400, dtype=torch.float64)*2.5
    n = Normalise.fit(t[:, None])
    z = n(t[:, None])
    assert z.dtype == torch.float32 and len(z.unique()) == 1400 and abs(z.std() - 1) < 1e-2
    assert len(Normalise.from_state(n.state())(t[:, None]).unique()) == 1400 and len(n(t.long()[:, None]).unique()) == 1400
    within = Normalise.fit(t[:, None]/1e6 + 1_764_000_000)       # within milliseconds: float64 tells them apart, and so do we
    assert abs(within(t[:, None]/1e6 + 1_764_000_000).std() - 1) < .05
    assert Normalise.fit(torch.full((9, 1), 7.3, dtype=torch.float64)).std.item() == 1



# ---- ZCA --------------------------------------------------------------------------------------------------------------

def test_zca_whitens():
    "Covariance of the whitened split: e/(e + lambda) along each eigenvector, so the identity where the data vary much more than lambda."
    plain, white = (load_data('digits', size=8, zca=z, dtype=torch.float64) for z in (False, 1e-4))
    C, Cw = (torch.cov(d.x_train.flatten(1).T, correction=0) for d in (plain, white))
    e, U = torch.linalg.eigh(C)
    lam = 1e-4*e.mean()
    got = U.T@Cw@U
    assert (got - torch.diag(e/(e + lam))).abs().max() < 1e-5
    good = e > 1000*lam
    assert good.sum() > 40
    assert (got[good][:, good] - torch.eye(int(good.sum()))).abs().max() < 2e-3
    assert white.x_train.flatten(1).mean(0).abs().max() < 1e-6
    W = white.norm.zca_W
    assert W.equal(W.T) and torch.linalg.eigvalsh(W.double()).min() > 0


@pytest.mark.parametrize('zca', [True, 1e-3])
def test_zca_inverse(zca):
    d = load_data('digits', zca=zca)
    assert (d.norm.inverse(d.x_test) - d.raw_test/255).abs().max() < 1e-4
    x = d.x_test[:6].view(2, 3, 1, 28, 28)      # leading dimensions as in `syn.images`
    assert torch.allclose(d.norm.inverse(x).flatten(0, 1), d.norm.inverse(d.x_test[:6]), atol=1e-6)


def test_zca_true_is_the_documented_ridge():
    a, b = load_data('digits', size=8, zca=True), load_data('digits', size=8, zca=.1)
    assert a.norm.zca_W.equal(b.norm.zca_W) and a.norm.zca_reg == .1 and 'zca' in repr(a)


def test_zca_for_tables_and_series():
    for shape in ((5, ), (2, 4)):
        x, y = tensors(300, shape, byte=False)
        x[:, 1] = x[:, 0] + .1*x[:, 1]
        z = data_from_tensors(x, y, zca=1e-6).x_train.flatten(1)
        assert (torch.cov(z.T, correction=0) - torch.eye(z.shape[1])).abs().max() < 1e-2


def test_zca_too_large():
    x = torch.randint(0, 256, (4, 3, 65, 65), dtype=torch.uint8)
    with pytest.raises(ValueError, match='at most 12288 numbers, got 12675'): data_from_tensors(x, torch.tensor([0, 1, 0, 1]), x, torch.tensor([0, 1, 0, 1]), zca=True)


def test_zca_of_identical_examples():
    with pytest.raises(ValueError, match='all training examples are the same'): data_from_tensors(torch.ones(9, 4), torch.arange(9) % 2, zca=True)


# ---- names ------------------------------------------------------------------------------------------------------------

def test_public_names():
    from dd_nb import normalise
    assert set(normalise.__all__) == {'Normalise', 'Vectors'}


def test_the_fingerprint_has_four_digits():
    a, b, c = (Normalise(torch.tensor([m]), torch.tensor([2.])) for m in (0., -1e-9, .001))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint() and json.dumps(a.fingerprint()) == '[[1], ["0.0000"], ["2"], []]'


def test_vectors_say_what_does_not_fit():
    for words, v, says in ((['', 'a'], torch.zeros(3, 2), r'vectors must have shape \(2, D\), one for each word, got \(3, 2\)'), (['a', 'b'], torch.zeros(2, 2), "words must begin with ''"),
                           (['', 'a'], torch.full((2, 2), torch.inf), 'vectors must be finite')):
        with pytest.raises(ValueError, match=says): Vectors(words, v)
    v = Vectors(['', 'a'], torch.ones(2, 3))
    assert not v.vectors[0].any() and norm_from_state(v.state()).fingerprint() == v.fingerprint()
    with pytest.raises(TypeError, match='ids must be whole numbers of words, got torch.float32'): v(torch.zeros(2))
