"Room `data`: splits, normalisation, batches, loaders and what they say about bad input."
import bz2
import hashlib
import http.server
import json
import pickle
import threading
import time
import zlib
from functools import partial
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from dd_nb import data as D
from dd_nb.data import Data, Normalise, data_from_dataset, data_from_folder, data_from_tensors, load_data, split_validation


@pytest.fixture(scope='module')
def digits(): return load_data('digits')


def tensors(n=60, shape=(1, 6, 5), k=3, seed=0, byte=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *shape), generator=g, dtype=torch.uint8) if byte else torch.randn(n, *shape, generator=g)
    return x, torch.arange(n) % k


def md5(p): return hashlib.md5(p.read_bytes()).hexdigest()


# ---- digits -----------------------------------------------------------------------------------------------------------

def test_digits(digits):
    assert digits.shape == (1, 28, 28) and digits.n_classes == 10 and digits.classes == [str(i) for i in range(10)]
    assert digits.raw_train.dtype == torch.uint8 and digits.raw_train.shape == (1257, 1, 28, 28) and digits.raw_test.shape == (540, 1, 28, 28)
    assert digits.y_train.dtype == torch.long and digits.x_train.dtype == torch.float32
    share = torch.bincount(digits.y_test)/540 - digits.counts/1257
    assert share.abs().max() < .002     # stratified
    assert repr(digits) == "Data('digits': 1257 train + 540 test, 1x28x28 uint8, 10 classes, cpu, float32)"


def test_digits_split_is_fixed(digits):
    "The split is part of the set's definition: these numbers must never change."
    assert zlib.crc32(digits.y_test.to(torch.uint8).numpy().tobytes()) == 0x8860070c
    d8 = load_data('digits', size=8, seed=99)
    assert zlib.crc32(d8.raw_test.numpy().tobytes()) == 0xe602c64f
    assert d8.y_test.equal(digits.y_test)


def test_digits_are_sklearns_resized(digits):
    from sklearn.datasets import load_digits
    d8 = load_data('digits', size=8)
    both = torch.cat([d8.raw_train, d8.raw_test])[:, 0].reshape(-1, 64)
    want = torch.from_numpy(load_digits().data*255/16).round().to(torch.uint8)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, want.tolist()))
    up = torch.nn.functional.interpolate(d8.raw_test.float(), size=(28, 28), mode='bilinear', align_corners=False)
    assert (up - digits.raw_test.float()).abs().max() <= .5 + 1e-3


@pytest.mark.parametrize('size,shape', [(16, (1, 16, 16)), ((20, 12), (1, 20, 12)), (8, (1, 8, 8)), (4, (1, 4, 4))])
def test_size(size, shape): assert load_data('digits', size=size).shape == shape


def test_channels():
    d = load_data('digits', size=8, channels=3)
    assert d.shape == (3, 8, 8) and d.raw_train[:, 0].equal(d.raw_train[:, 2])
    rgb = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)[:, :, None, None]
    assert D._to_channels(rgb, 1).flatten().tolist() == [76, 150, 29, 255]


# ---- normalisation ----------------------------------------------------------------------------------------------------

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
    with pytest.raises(ValueError, match='at most 12288 numbers, not 12675'): data_from_tensors(x, torch.tensor([0, 1, 0, 1]), x, torch.tensor([0, 1, 0, 1]), zca=True)


def test_zca_of_identical_examples():
    with pytest.raises(ValueError, match='all training examples are the same'): data_from_tensors(torch.ones(9, 4), torch.arange(9) % 2, zca=True)


# ---- Data -------------------------------------------------------------------------------------------------------------

def test_batch_is_seeded(digits):
    draw = [digits.batch(64, digits.generator(s)) for s in (0, 0, 1)]
    assert draw[0][0].equal(draw[1][0]) and draw[0][1].equal(draw[1][1]) and not draw[0][1].equal(draw[2][1])
    g = digits.generator(0)
    assert not digits.batch(64, g)[1].equal(digits.batch(64, g)[1])
    torch.manual_seed(3); a = digits.batch(20)[1]
    torch.manual_seed(3); assert digits.batch(20)[1].equal(a)


def test_batch_rows_belong_together():
    x = torch.arange(90, dtype=torch.float32)[:, None].repeat(1, 2)
    d = data_from_tensors(x, torch.arange(90) % 3, x, torch.arange(90) % 3)
    bx, by = d.batch(500, d.generator(0))
    row = d.norm.inverse(bx)[:, 0].round().long()
    assert (row % 3).equal(by) and len(row.unique()) > 80
    bx, by = split_validation(d, 30).batch(500, d.generator(0), classes=[0, 2])
    assert (d.norm.inverse(bx)[:, 0].round().long() % 3).equal(by) and by.unique().tolist() == [0, 2]


@pytest.mark.parametrize('classes,want', [(3, [3]), ([1, 8], [1, 8]), ((2, ), [2]), (torch.tensor([4, 4, 5]), [4, 5]), (np.int64(7), [7]), (range(2), [0, 1])])
def test_batch_of_classes(digits, classes, want):
    x, y = digits.batch(200, digits.generator(0), classes=classes)
    assert x.shape == (200, 1, 28, 28) and y.unique().tolist() == want


def test_batch_without_replacement():
    x = torch.arange(40.)[:, None]
    d = data_from_tensors(x, torch.arange(40) % 2, x, torch.arange(40) % 2)
    bx, _ = d.batch(40, d.generator(0), replace=False)
    assert d.norm.inverse(bx)[:, 0].round().sort().values.equal(x[:, 0])
    with pytest.raises(ValueError, match='n must be at most 20'): d.batch(21, classes=1, replace=False)
    assert len(d.batch(100, classes=1)[0]) == 100


@pytest.mark.parametrize('kw,err', [(dict(n=0), ValueError), (dict(n=-1), ValueError), (dict(n=2.5), TypeError), (dict(n=True), TypeError),
                                    (dict(n=2, classes=10), ValueError), (dict(n=2, classes=[0, -1]), ValueError), (dict(n=2, classes=[]), ValueError),
                                    (dict(n=2, classes='3'), TypeError), (dict(n=2, classes=1.5), TypeError), (dict(n=2, classes=[None, 1]), TypeError)])
def test_batch_bad_input(digits, kw, err):
    with pytest.raises(err, match='^(n|classes) must'): digits.batch(**kw)


def test_batches_in_order(digits):
    for it, x, y in ((digits.test_batches(100), digits.x_test, digits.y_test), (digits.train_batches(), digits.x_train, digits.y_train)):
        xs, ys = zip(*it)
        assert torch.cat(xs).equal(x) and torch.cat(ys).equal(y)
    assert [len(y) for _, y in digits.test_batches(256)] == [256, 256, 28]
    with pytest.raises(ValueError, match='bs must be'): digits.test_batches(0)


def test_x_train_is_norm_of_raw(digits): assert digits.x_train.equal(digits.norm(digits.raw_train)) and digits.x_test.equal(digits.norm(digits.raw_test))


def test_whole_split_is_kept_only_when_small(monkeypatch):
    d = load_data('digits', size=8)
    assert d.x_test is d.x_test
    monkeypatch.setattr(D, '_SMALL', 100)
    d = load_data('digits', size=8)
    assert d.x_test is not d.x_test and d.x_test.equal(d.x_test)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(digits, dtype):
    d = digits.to(dtype=dtype)
    assert d.x_test.dtype == d.batch(3)[0].dtype == next(d.test_batches(5))[0].dtype == d.dtype == dtype
    assert digits.x_test.dtype == torch.float32 and d.raw_train is digits.raw_train and d.norm.mean is digits.norm.mean
    assert (d.x_test.float() - digits.x_test).abs().max() < {torch.float64: 1e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    assert load_data('digits', dtype=dtype).x_test.equal(d.x_test)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_cuda(digits):
    d = load_data('digits', device='cuda', zca=True)
    assert d.raw_train.is_cuda and d.y_test.is_cuda and d.batch(8, d.generator(1))[0].is_cuda and d.batch(8, torch.Generator().manual_seed(0))[0].is_cuda
    assert d.norm.mean.equal(digits.norm.mean)
    v = split_validation(d, 100)
    assert v.raw_test.is_cuda and v.batch(5, classes=3)[1].tolist() == [3]*5
    c = v.to('cpu')
    assert not c.raw_train.is_cuda and c.raw_test.equal(v.raw_test.cpu()) and torch.allclose(c.x_test, v.x_test.cpu(), atol=1e-3)
    assert digits.to('cuda').x_test.cpu().allclose(digits.x_test, atol=1e-6)


def test_describe(digits):
    d = digits.describe()
    assert json.loads(json.dumps(d)) == d
    assert d['name'] == 'digits' and d['shape'] == [1, 28, 28] and d['n_train'] == 1257 and d['n_test'] == 540 and d['stored'] == 'uint8'
    assert set(d['versions']) == {'dd_nb', 'torch'} and abs(d['norm']['mean'][0] - digits.norm.mean.item()) < 1e-6


def test_show(digits):
    import matplotlib.pyplot as plt
    fig = digits.show(n=3)
    ax, = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == digits.classes and ax.images[0].get_array().shape == (10*30-2, 3*30-2)
    first = digits.raw_train[digits.y_train == 4][0, 0]
    assert (ax.images[0].get_array()[4*30:4*30+28, :28] == first.numpy()).all()
    assert not plt.get_fignums()
    x, y = tensors(30, (3, 4, 4), byte=False)
    assert data_from_tensors(x, y).show(n=2, split='test', max_classes=2).axes[0].images[0].get_array().shape == (10, 10, 3)
    with pytest.raises(ValueError, match='show draws images'): data_from_tensors(torch.randn(30, 4), y).show()
    with pytest.raises(ValueError, match="split must be 'train' or 'test'"): digits.show(split='val')
    with pytest.raises(ValueError, match='n must be'): digits.show(n=0)


# ---- validation split -------------------------------------------------------------------------------------------------

def test_split_validation_holds_out_training_examples(digits):
    v = split_validation(digits, 200, seed=1)
    assert len(v.y_train) == 1057 and len(v.y_test) == 200 and v.name == 'digits' and v.norm.mean.equal(digits.norm.mean)
    key = lambda x: [zlib.crc32(o.numpy().tobytes()) for o in x]    # noqa: E731
    tr, held, whole, test = map(key, (v.raw_train, v.raw_test, digits.raw_train, digits.raw_test))
    assert sorted(tr + held) == sorted(whole) and not set(held) & (set(test) - set(whole))
    assert (torch.bincount(v.y_test)/200 - digits.counts/1257).abs().max() < .005
    assert v.x_test.equal(digits.norm(v.raw_test))
    assert v._train.x.data_ptr() == digits._train.x.data_ptr() == v._test.x.data_ptr()      # shared, not copied


def test_split_validation_sizes(digits):
    assert len(split_validation(digits).y_test) == 251 and len(split_validation(digits, .1).y_test) == 126
    assert len(split_validation(digits, np.int64(7)).y_test) == 7
    big = data_from_tensors(torch.zeros(40000, 1, dtype=torch.uint8).random_(), torch.arange(40000) % 4)
    assert len(split_validation(big).y_test) == 5000
    most = split_validation(digits, 1247)
    assert most.counts.tolist() == [1]*10


def test_split_validation_seeds_and_nesting(digits):
    a, b, c = (split_validation(digits, 100, seed=s) for s in (0, 0, 1))
    assert a.raw_test.equal(b.raw_test) and not a.raw_test.equal(c.raw_test)
    n = split_validation(a, 100)
    assert len(n.y_train) == 1057
    key = lambda x: {zlib.crc32(o.numpy().tobytes()) for o in x}    # noqa: E731
    assert key(n.raw_test) <= key(a.raw_train) and len(key(n.raw_test) & key(a.raw_test)) == 0
    rows = n._train.rows(torch.arange(len(n.y_train)))
    assert rows.equal(n.raw_train) and n.x_train.equal(n.norm(rows))
    assert n.to(dtype=torch.float64).x_test.float().allclose(n.x_test, atol=1e-6)


@pytest.mark.parametrize('n,err', [(0, ValueError), (-3, ValueError), (1248, ValueError), (10**6, ValueError), (0., ValueError), (1., ValueError), (1.5, ValueError),
                                   ('10', TypeError), (True, TypeError), (float('nan'), ValueError)])
def test_split_validation_bad_n(digits, n, err):
    with pytest.raises(err, match='^n must'): split_validation(digits, n)


def test_split_validation_bad_data():
    with pytest.raises(TypeError, match='data must be a Data'): split_validation('digits')
    d = data_from_tensors(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='nothing can be held out'): split_validation(d)


def test_stratified_is_exact_and_frozen():
    y = torch.tensor([0]*70 + [1]*20 + [2]*10 + [3])
    for n in (1, 7, 33, 97):
        keep, held = D._stratified(y, n, 0)
        assert len(held) == n and len(set(keep.tolist()) | set(held.tolist())) == 101 and set(y[keep].tolist()) == {0, 1, 2, 3}
    keep, held = D._stratified(torch.arange(12) % 3, 5, 7)
    assert held.tolist() == [3, 4, 6, 10, 11]


# ---- own tensors ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shape', [(5, ), (3, 20), (1, 8, 8), (3, 6, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize('byte', [True, False])
def test_any_shape(shape, byte):
    x, y = tensors(60, shape, byte=byte)
    d = data_from_tensors(x, y)
    assert d.shape == shape and len(d.y_train) == 42 and len(d.y_test) == 18 and d.counts.tolist() == [14, 14, 14]
    assert d.raw_train.dtype == x.dtype and d.batch(5)[0].shape == (5, *shape)
    assert d.is_image == (len(shape) == 3 and shape[0] in (1, 3))


def test_tensors_are_shared_not_copied():
    x, y = tensors()
    assert data_from_tensors(x, y, x, y).raw_train.data_ptr() == x.data_ptr()


def test_numpy_lists_and_other_integers():
    x, y = tensors(byte=False)
    a = data_from_tensors(x, y, seed=3)
    assert data_from_tensors(x.numpy(), y.numpy().astype(np.uint16), seed=3).x_test.equal(a.x_test)
    assert data_from_tensors(x, y.tolist(), seed=3).y_test.equal(a.y_test)
    assert data_from_tensors((x*10).int(), y).raw_train.dtype == torch.float32 and data_from_tensors(x > 0, y).raw_train.dtype == torch.float32


def test_seed_of_the_split():
    x, y = tensors()
    a, b, c = (data_from_tensors(x, y, seed=s, test_frac=.5).raw_test for s in (0, 0, 1))
    assert a.equal(b) and not a.equal(c) and len(a) == 30


def test_given_norm():
    x, y = tensors(byte=False)
    n = data_from_tensors(x, y, x, y).norm
    d = data_from_tensors(x*5 + 1, y, x, y, norm=n)
    assert d.norm.mean.equal(n.mean) and torch.allclose(d.x_train, n(x*5 + 1))
    with pytest.raises(ValueError, match='zca and norm'): data_from_tensors(x, y, norm=n, zca=True)
    with pytest.raises(TypeError, match='norm must be'): data_from_tensors(x, y, norm=(0, 1))
    with pytest.raises(ValueError, match='channels'): data_from_tensors(torch.randn(60, 4), y, norm=Normalise(torch.zeros(3), torch.ones(3)))


X, Y = tensors()
F = X.float()
nan, inf = F.clone(), F.clone()
nan[3, 0, 1, 1], inf[-1, 0, 0, 0] = np.nan, np.inf

@pytest.mark.parametrize('args,kw,err,words', [
    ((X, Y[:-1]), {}, ValueError, 'y_train has 59 labels, but x_train has 60'),
    ((X, Y-1), {}, ValueError, 'y_train must hold class indices of at least 0, not -1'),
    ((X, Y*2), {}, ValueError, 'class 1 has no training examples'),
    ((X, Y), dict(classes=list('abcd')), ValueError, "class 3 .'d'. has no training examples"),
    ((X, Y), dict(classes=['a', 'b']), ValueError, 'y_train holds label 2, but there are 2 classes'),
    ((X, Y), dict(classes='abc'), TypeError, 'classes must be a list of names'),
    ((X, Y), dict(classes=3), TypeError, 'classes must be a list of names'),
    ((X, Y.float()), {}, TypeError, 'y_train must hold whole numbers'),
    ((X, Y[:, None, None]), {}, ValueError, r'y_train must have shape \(N,\)'),
    ((X, torch.eye(3)[Y]), {}, ValueError, r'y_train must have shape \(N,\), one label per example, not \(60, 3\); .*argmax'),
    ((X, Y[:, None].float()), {}, TypeError, 'y_train must hold whole numbers'),
    ((X, 'abc'), {}, TypeError, 'y_train must be'),
    ((X, Y*0), {}, ValueError, 'a single class'),
    ((X, Y + 2**40), {}, ValueError, 'y_train must hold class indices below'),
    ((nan, Y), {}, ValueError, 'x_train holds NaN or infinite'),
    ((inf, Y), {}, ValueError, 'x_train holds NaN or infinite'),
    ((F, Y, nan, Y), {}, ValueError, 'x_test holds NaN'),
    ((X[:0], Y[:0]), {}, ValueError, 'x_train is empty'),
    ((torch.zeros(60, 0), Y), {}, ValueError, 'examples without numbers'),
    ((torch.zeros(60), Y), {}, ValueError, r'x_train must have shape \(N, ...\)'),
    ((X.tolist(), Y), {}, TypeError, 'x_train must be a tensor or an array'),
    ((np.array([['a']]*60), Y), {}, TypeError, 'x_train must be a tensor or an array of numbers'),
    ((F + 1j, Y), {}, TypeError, 'x_train must hold real numbers'),
    ((X, Y, X), {}, ValueError, 'x_test and y_test must be given together'),
    ((X, Y, X[:, :, 1:], Y), {}, ValueError, 'x_test must hold examples of shape'),
    ((X, Y, F, Y), {}, TypeError, 'x_test must be torch.uint8 like x_train'),
    ((X, Y, X, Y + 1), {}, ValueError, 'y_test holds label 3, but there are 3 classes'),
    ((X, Y, X, Y - 1), {}, ValueError, 'y_test must hold class indices of at least 0'),
    ((X, Y, X, Y[1:]), {}, ValueError, 'y_test has 59 labels, but x_test has 60'),
    ((X[:3], Y[:3]), {}, ValueError, 'too few to split'),
    ((X, Y), dict(test_frac=0), ValueError, 'test_frac must lie between 0 and 1'),
    ((X, Y), dict(test_frac='a'), TypeError, 'test_frac must be a number'),
    ((X, Y), dict(seed=-1), ValueError, 'seed must be'),
    ((X, Y), dict(seed=.5), TypeError, 'seed must be'),
    ((X, Y), dict(zca=-1), ValueError, 'zca must be'),
    ((X, Y), dict(zca=0.), ValueError, 'zca must be'),
    ((X, Y), dict(zca='yes'), TypeError, 'zca must be'),
    ((X, Y), dict(dtype=torch.int64), TypeError, 'dtype must be a floating-point torch dtype'),
    ((X, Y), dict(dtype='float32'), TypeError, 'dtype must be'),
    ((X, Y), dict(device='gpu'), ValueError, "device must be one that torch can use here.*'gpu'"),
])
def test_tensors_bad_input(args, kw, err, words):
    with pytest.raises(err, match=words) as e: data_from_tensors(*args, **kw)
    assert '\n' not in str(e.value)


# ---- Datasets ---------------------------------------------------------------------------------------------------------

class Pairs(torch.utils.data.Dataset):
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


def test_dataset_forms_agree():
    x, y = tensors(20, (3, 6, 5), k=2)
    hwc = [o.permute(1, 2, 0).numpy() for o in x]
    want = data_from_tensors(x, y)
    for items in ([(Image.fromarray(o), int(k)) for o, k in zip(hwc, y)], [(o, np.int64(k)) for o, k in zip(hwc, y)], list(zip(x, y))):
        d = data_from_dataset(Pairs(items))
        assert d.raw_test.equal(want.raw_test) and d.y_test.equal(want.y_test) and d.name == 'pairs'


def test_dataset_gray_and_sizes():
    ims = [(Image.fromarray(np.full((7+i % 2, 6), 10*i, dtype=np.uint8)), i % 2) for i in range(10)]
    with pytest.raises(ValueError, match=r'different shapes, \(1, 7, 6\) and \(item 1\) \(1, 8, 6\): pass size='): data_from_dataset(Pairs(ims))
    assert data_from_dataset(Pairs(ims), size=8).shape == (1, 8, 8) and data_from_dataset(Pairs(ims), size=(4, 6), channels=3).shape == (3, 4, 6)


def test_dataset_from_torchvision():
    from torchvision import datasets, transforms
    a = datasets.FakeData(24, (3, 8, 8), 3)
    b = datasets.FakeData(24, (3, 8, 8), 3, transform=transforms.ToTensor())
    ys = {int(a[i][1]) for i in range(24)}
    assert ys == {0, 1, 2}
    da, db = data_from_dataset(a, a), data_from_dataset(b, b)
    assert da.raw_train.dtype == torch.uint8 and db.raw_train.dtype == torch.float32 and torch.allclose(da.x_train, db.x_train, atol=1e-5)


def test_dataset_class_names():
    ds = Pairs([(torch.randn(4), i % 2) for i in range(10)])
    ds.classes = ['cat', 'dog']
    assert data_from_dataset(ds).classes == ['cat', 'dog'] and data_from_dataset(torch.utils.data.Subset(ds, range(8))).classes == ['cat', 'dog']
    assert data_from_dataset(ds, classes=['x', 'y'], name='pets').name == 'pets'


@pytest.mark.parametrize('ds,kw,err,words', [
    (Pairs([]), {}, ValueError, 'train_ds is empty'),
    (7, {}, TypeError, 'train_ds must be a map-style Dataset'),
    (iter([]), {}, TypeError, 'train_ds must be a map-style Dataset'),
    (Pairs([torch.zeros(3)]*4), {}, TypeError, r'train_ds must yield pairs \(example, class\)'),
    (Pairs([(torch.zeros(3), .5)]*4), {}, TypeError, 'train_ds must yield classes as whole numbers; item 0 has 0.5'),
    (Pairs([(torch.zeros(3), 'a')]*4), {}, TypeError, 'whole numbers'),
    (Pairs([('abc', 1)]*4), {}, TypeError, 'an example must be'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(4), 1)]), {}, ValueError, 'different shapes'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(3), -1)]), {}, ValueError, 'at least 0'),
    (Pairs([(torch.zeros(1, 3, 3), i % 2) for i in range(9)]), dict(size=5), ValueError, 'size= resizes images of bytes'),
    (Pairs([(X[0], i % 2) for i in range(9)]), dict(size=0), ValueError, 'size must be'),
    (Pairs([(X[0], i % 2) for i in range(9)]), dict(channels=2), ValueError, 'channels must be'),
])
def test_dataset_bad_input(ds, kw, err, words):
    with pytest.raises(err, match=words): data_from_dataset(ds, **kw)


# ---- folders ----------------------------------------------------------------------------------------------------------

def write(p, x):
    p.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(p)


def gray(v, h=6, w=5): return np.full((h, w), v, dtype=np.uint8)


def folder(root, n=10, classes=('ant', 'bee'), **kw):
    for c, nm in enumerate(classes):
        for i in range(n): write(root/nm/f'{i:02}.png', gray(100*c + i, **kw))
    return root


def test_folder_of_classes(tmp_path):
    d = data_from_folder(folder(tmp_path/'bugs'))
    assert d.name == 'bugs' and d.classes == ['ant', 'bee'] and d.shape == (1, 6, 5) and (len(d.y_train), len(d.y_test)) == (14, 6)
    seen = torch.cat([d.raw_train, d.raw_test])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == [*range(10), *range(100, 110)] and (torch.cat([d.y_train, d.y_test]) == seen//100).all()
    assert load_data(tmp_path/'bugs', seed=4).raw_test.equal(load_data(str(tmp_path/'bugs'), seed=4).raw_test)


@pytest.mark.parametrize('test', ['test', 'val', 'valid'])
def test_folder_with_test(tmp_path, test):
    folder(tmp_path/'train'); folder(tmp_path/test, n=3)
    (tmp_path/'.hidden').mkdir(); (tmp_path/'train'/'notes.txt').write_text('x'); (tmp_path/'train'/'ant'/'.x.png').write_text('x')
    d = load_data(tmp_path)
    assert (len(d.y_train), len(d.y_test)) == (20, 6)


def test_folder_with_train_only(tmp_path): assert len(data_from_folder(folder(tmp_path/'train').parent).y_test) == 6


def test_folder_modes(tmp_path):
    rgb = np.stack([gray(1), gray(2), gray(3)], -1)
    write(tmp_path/'a'/'0.png', gray(9)); write(tmp_path/'a'/'1.png', np.full((6, 5), 9*256+7, dtype=np.uint16))
    for i in range(2): write(tmp_path/'b'/f'{i}.png', gray(50))
    with pytest.raises(ValueError, match='depth must be given: images of 8 and of 16 bits lie side by side, and the largest number of the latter is 2311'): data_from_folder(tmp_path)
    assert data_from_folder(tmp_path, depth=16).shape == (1, 6, 5)
    d = data_from_folder(tmp_path, channels=3, depth=16)
    seen = (torch.cat([d.raw_train, d.raw_test])[:, 0, 0, 0].double()*65535).round()
    assert d.shape == (3, 6, 5) and set(seen.tolist()) == {9*257, 9*256 + 7, 50*257}     # nothing of the 16 bits is lost
    (tmp_path/'a'/'1.png').unlink()
    for i in (1, 5): write(tmp_path/'a'/f'{i}.png', gray(9))
    write(tmp_path/'b'/'2.png', rgb); write(tmp_path/'b'/'3.png', np.concatenate([rgb, rgb[..., :1]], -1))
    Image.fromarray(rgb).convert('P').save(tmp_path/'b'/'4.png')
    d = data_from_folder(tmp_path)
    assert d.shape == (3, 6, 5)
    x = torch.cat([d.raw_train, d.raw_test])
    assert sum((o[:, 0, 0] == torch.tensor([1, 2, 3])).all() for o in x) >= 1
    assert sum((o[:, 0, 0] >= 253).all() for o in x) == 1     # all but transparent: what is seen is the background
    assert data_from_folder(tmp_path, channels=1).shape == (1, 6, 5)


def test_folder_sizes(tmp_path):
    folder(tmp_path)
    write(tmp_path/'bee'/'big.png', gray(3, 12, 10))
    with pytest.raises(ValueError, match=r'different sizes \(00.png 6x5, big.png 12x10\): pass size='): data_from_folder(tmp_path)
    assert data_from_folder(tmp_path, size=(6, 5)).shape == (1, 6, 5) and load_data(tmp_path, size=4).shape == (1, 4, 4)


def test_folder_bad_input(tmp_path):
    with pytest.raises(ValueError, match='is not a folder'): data_from_folder(tmp_path/'none')
    with pytest.raises(ValueError, match='holds no class folders'): data_from_folder(tmp_path)
    folder(tmp_path/'x')
    (tmp_path/'x'/'cow').mkdir()
    with pytest.raises(ValueError, match="class folder .*cow holds no images"): data_from_folder(tmp_path/'x')
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(b'not a picture')
    with pytest.raises(ValueError, match='bad.png cannot be read as an image'): data_from_folder(tmp_path/'x')
    good = (tmp_path/'x'/'ant'/'00.png').read_bytes()
    Image.fromarray(np.random.RandomState(0).randint(256, size=(6, 5)).astype(np.uint8)).save(tmp_path/'x'/'cow'/'bad.png')
    cut = (tmp_path/'x'/'cow'/'bad.png').read_bytes()
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(cut[:50])
    with pytest.raises(ValueError, match='bad.png cannot be read as an image'): data_from_folder(tmp_path/'x')
    (tmp_path/'x'/'cow'/'bad.png').write_bytes(good)
    assert data_from_folder(tmp_path/'x').n_classes == 3
    folder(tmp_path/'y'/'train'); folder(tmp_path/'y'/'test', classes=('ant', 'cow'))
    with pytest.raises(ValueError, match="class folder 'cow' that the training folder lacks"): data_from_folder(tmp_path/'y')
    folder(tmp_path/'z'/'test')
    with pytest.raises(ValueError, match="none called 'train'"): data_from_folder(tmp_path/'z')
    folder(tmp_path/'v', classes=('train', 'plane', 'test'))      # vehicles, not splits
    assert data_from_folder(tmp_path/'v').classes == ['plane', 'test', 'train']
    folder(tmp_path/'w'/'train'); folder(tmp_path/'w'/'more')
    with pytest.raises(ValueError, match="holds a folder 'train' beside others"): data_from_folder(tmp_path/'w')


def test_floating_point_images(tmp_path):
    for c in 'ab': write(tmp_path/c/'0.tif', np.ones((4, 4), dtype=np.float32)); write(tmp_path/c/'1.tif', np.ones((4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="mode 'F' cannot be read"): data_from_folder(tmp_path)


# ---- load_data: arguments ---------------------------------------------------------------------------------------------

def test_unknown_name():
    with pytest.raises(ValueError, match="^name must be one of digits, mnist, .*did you mean 'fashion_mnist'") as e: load_data('fashionmnist')
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match="got 'quite-other'$"): load_data('quite-other')
    with pytest.raises(TypeError, match='name must be'): load_data(3)
    assert load_data('DIGITS', size=8).name == 'digits'


@pytest.mark.parametrize('kw,err,words', [
    (dict(size=0), ValueError, 'size must be a whole number from 1 to 1024, not 0'), (dict(size=-2), ValueError, 'size must be'),
    (dict(size=10**6), ValueError, 'size must be'), (dict(size=2.5), TypeError, 'size must be'), (dict(size='28'), TypeError, 'size must be'),
    (dict(size=(28, )), ValueError, 'size must be one side'), (dict(size=True), TypeError, 'size must be'), (dict(channels=4), ValueError, 'channels must be'),
    (dict(device='nowhere'), ValueError, 'device must be'), (dict(dtype=int), TypeError, 'dtype must be'), (dict(zca=-1), ValueError, 'zca must be'),
    (dict(seed=2**32), ValueError, 'seed must be'), (dict(root=3, name='mnist'), TypeError, 'root must be a folder'),
])
def test_load_bad_arguments(kw, err, words):
    with pytest.raises(err, match=words): load_data(**kw)


def test_size_that_would_not_fit(monkeypatch):
    monkeypatch.setattr(D, '_MAX_BYTES', 2**20)
    with pytest.raises(ValueError, match=r'size=\(64, 64\) would make'): load_data('digits', size=64)


def test_root(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_NB_DATA', str(tmp_path/'a'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'c'))
    assert D._data_root(None) == tmp_path/'a' and D._data_root(tmp_path/'b') == tmp_path/'b'
    monkeypatch.delenv('DD_NB_DATA'); assert D._data_root(None) == tmp_path/'c'/'dd_nb'
    monkeypatch.delenv('XDG_CACHE_HOME'); monkeypatch.setenv('HOME', str(tmp_path)); assert D._data_root(None) == tmp_path/'.cache'/'dd_nb'
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='root must be a folder'): load_data('mnist', root=tmp_path/'file')


# ---- absent, damaged, downloaded --------------------------------------------------------------------------------------

ALL = ['mnist', 'fashion_mnist', 'usps', 'svhn', 'cifar10', 'cifar100', 'tiny_imagenet']

@pytest.mark.parametrize('name', ALL)
def test_absent(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^data set '{name}' was not found: looked for .*download=False.*root= or DD_NB_DATA") as e:
        load_data(name, root=tmp_path, download=False)
    assert '\n' not in str(e.value) and str(tmp_path) in str(e.value) and 'damaged' not in str(e.value) and len(str(e.value)) < 600
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ALL)
def test_offline(name, tmp_path, monkeypatch, capsys):
    import urllib.request
    def offline(*a, **k): raise URLError('Name or service not known')
    monkeypatch.setattr(urllib.request, 'urlopen', offline)
    with pytest.raises(FileNotFoundError, match='it could not be downloaded') as e: load_data(name, root=tmp_path/'new'/'root')
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())        # nothing is left behind
    assert 'Downloading' in capsys.readouterr().out


def test_read_only_root(tmp_path, monkeypatch):
    def mkdtemp(*a, **k): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(D.tempfile, 'mkdtemp', mkdtemp)
    with pytest.raises(FileNotFoundError, match='could not be downloaded .PermissionError'): load_data('mnist', root=tmp_path)


@pytest.mark.parametrize('name,file', [('mnist', 'MNIST/raw/train-images-idx3-ubyte'), ('cifar10', 'cifar-10-batches-py/data_batch_1'), ('usps', 'USPS/usps.bz2'),
                                       ('svhn', 'SVHN/train_32x32.mat'), ('tiny_imagenet', 'tiny-imagenet-200/wnids.txt')])
def test_damaged(name, file, tmp_path):
    (tmp_path/file).parent.mkdir(parents=True)
    (tmp_path/file).write_bytes(b'half a file')
    with pytest.raises(FileNotFoundError, match='incomplete or damaged') as e: load_data(name, root=tmp_path, download=False)
    assert '\n' not in str(e.value) and (tmp_path/file).read_bytes() == b'half a file'


def usps_file(p, n=30, seed=0):
    rng = np.random.RandomState(seed)
    p.parent.mkdir(parents=True, exist_ok=True)
    p.write_bytes(bz2.compress(''.join(f'{i % 10 + 1} ' + ' '.join(f'{j+1}:{v:.3f}' for j, v in enumerate(rng.uniform(-1, 1, 256))) + ' \n' for i in range(n)).encode()))


@pytest.fixture
def server(tmp_path, monkeypatch):
    "A web server of the folder `tmp_path/'web'`"
    (tmp_path/'web').mkdir()
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path/'web')))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    monkeypatch.setenv('no_proxy', '127.0.0.1'); monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    yield f'http://127.0.0.1:{s.server_port}'
    s.shutdown(); s.server_close()


def test_download(tmp_path, server, monkeypatch):
    "Through torchvision's own downloader, from a server of ours: what arrives whole is kept, what does not is not."
    from torchvision import datasets
    web, root = tmp_path/'web', tmp_path/'root'
    usps_file(web/'usps.bz2'); usps_file(web/'usps.t.bz2', 10, seed=1)
    table = {s: [f'{server}/{f}', f, md5(web/f)] for s, f in (('train', 'usps.bz2'), ('test', 'usps.t.bz2'))}
    monkeypatch.setattr(datasets.USPS, 'split_list', table)
    whole = (web/'usps.t.bz2').read_bytes()
    (web/'usps.t.bz2').write_bytes(whole[:100])
    with pytest.raises(FileNotFoundError, match='could not be downloaded'): load_data('usps', root=root)
    assert not root.exists()
    (web/'usps.t.bz2').write_bytes(whole)
    d = load_data('usps', root=root)
    assert sorted(p.name for p in (root/'USPS').iterdir()) == ['usps.bz2', 'usps.t.bz2'] and d.shape == (1, 16, 16)
    assert load_data('usps', root=root, download=False).raw_train.equal(d.raw_train)
    (root/'USPS'/'usps.bz2').write_bytes(b'broken')      # a damaged file is replaced
    assert load_data('usps', root=root).raw_train.equal(d.raw_train)


# ---- the sets, in their own layouts -----------------------------------------------------------------------------------

def test_usps_layout(tmp_path):
    usps_file(tmp_path/'USPS'/'usps.bz2', 40); usps_file(tmp_path/'USPS'/'usps.t.bz2', 20)
    d = load_data('usps', root=tmp_path, download=False)
    assert d.shape == (1, 16, 16) and d.counts.tolist() == [4]*10 and len(d.y_test) == 20
    assert load_data('usps', root=tmp_path/'USPS', size=28, download=False).shape == (1, 28, 28)


@pytest.mark.parametrize('sub', ['', 'SVHN'])
def test_svhn_layout(tmp_path, monkeypatch, sub):
    from scipy.io import savemat
    from torchvision import datasets
    (tmp_path/sub).mkdir(exist_ok=True)
    rng, table = np.random.RandomState(0), {}
    X = {s: rng.randint(256, size=(32, 32, 3, n)).astype(np.uint8) for s, n in (('train', 30), ('test', 20))}
    for s, x in X.items():
        f = tmp_path/sub/f'{s}_32x32.mat'
        savemat(f, dict(X=x, y=(np.arange(x.shape[-1]) % 10 + 1)[:, None].astype(np.uint8)))
        table[s] = ['http://127.0.0.1:1/none', f.name, md5(f)]
    monkeypatch.setattr(datasets.SVHN, 'split_list', table)
    d = load_data('svhn', root=tmp_path, download=False)
    assert d.shape == (3, 32, 32) and len(d.y_train) == 30 and len(d.y_test) == 20 and d.n_classes == 10
    assert d.y_train[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]           # in the files the digit 0 has label 10
    assert (d.raw_train[4].permute(1, 2, 0).numpy() == X['train'][..., 4]).all() and d.norm.mean.shape == (3, 1, 1)


def test_cifar100_layout(tmp_path, monkeypatch):
    from torchvision import datasets
    p, rng = tmp_path/'cifar-100-python', np.random.RandomState(0)
    p.mkdir()
    raw = rng.randint(256, size=(200, 3072)).astype(np.uint8)
    names = [f'thing {i}' for i in range(100)]
    for f, o in dict(train=dict(data=raw, fine_labels=list(range(100))*2), test=dict(data=raw[:100], fine_labels=list(range(100))),
                     meta=dict(fine_label_names=names)).items(): (p/f).write_bytes(pickle.dumps(o))
    monkeypatch.setattr(datasets.CIFAR100, 'train_list', [['train', md5(p/'train')]])
    monkeypatch.setattr(datasets.CIFAR100, 'test_list', [['test', md5(p/'test')]])
    monkeypatch.setattr(datasets.CIFAR100, 'meta', dict(filename='meta', key='fine_label_names', md5=md5(p/'meta')))
    d = load_data('cifar100', root=tmp_path, download=False)
    assert d.shape == (3, 32, 32) and d.n_classes == 100 and d.classes == names and d.counts.tolist() == [2]*100
    assert (d.raw_train[7].flatten().numpy() == raw[7]).all() and d.y_train[7] == 7
    assert len(d.show(n=1).axes[0].get_yticklabels()) == 20


def test_tiny_imagenet_layout(tmp_path):
    p, wnids = tmp_path/'tiny-imagenet-200', ['n03', 'n01', 'n02']
    (p/'train').mkdir(parents=True)
    (p/'wnids.txt').write_text('\n'.join(wnids) + '\n')
    (p/'words.txt').write_text('n01\tgoldfish, Carassius auratus\nn02\tbeetle\nn99\tother\n')
    flat = lambda v: np.full((64, 64, 3), v, dtype=np.uint8)     # noqa: E731
    for c, w in enumerate(wnids):
        for i in range(4): write(p/'train'/w/'images'/f'{w}_{i}.JPEG', flat(40*c + 10) if i else flat(40*c + 10)[..., 0])       # some are gray
    (p/'val'/'images').mkdir(parents=True)
    for i in range(6): write(p/'val'/'images'/f'val_{i}.JPEG', flat(40*(i % 3) + 10))
    (p/'val'/'val_annotations.txt').write_text(''.join(f'val_{i}.JPEG\t{wnids[i % 3]}\t0\t0\t62\t62\n' for i in range(6)))
    d = load_data('tiny_imagenet', root=tmp_path, download=False)
    assert d.shape == (3, 64, 64) and d.classes == ['n03', 'goldfish', 'beetle'] and d.counts.tolist() == [4, 4, 4]
    assert d.y_test.tolist() == [0, 1, 2, 0, 1, 2]
    for x, y in ((d.raw_train, d.y_train), (d.raw_test, d.y_test)): assert (x[:, 0, 9, 9].int() - (40*y + 10)).abs().max() <= 2
    assert load_data('tiny_imagenet', root=tmp_path, size=32, download=False).shape == (3, 32, 32)
    (p/'val'/'images'/'val_3.JPEG').unlink()
    with pytest.raises(FileNotFoundError, match='incomplete or damaged.*val_3.JPEG.*cs231n'): load_data('tiny_imagenet', root=tmp_path, download=False)


# ---- the real sets ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name,shape,n,test,mean,std', [
    ('mnist', (1, 28, 28), 60000, 10000, [.1307], [.3081]), ('fashion_mnist', (1, 28, 28), 60000, 10000, [.2860], [.3530]),
    ('cifar10', (3, 32, 32), 50000, 10000, [.4914, .4822, .4465], [.2470, .2435, .2616]), ('usps', (1, 16, 16), 7291, 2007, None, None)])
def test_real(data_root, name, shape, n, test, mean, std, capsys):
    load_data('digits')     # so that the time is not that of imports
    t = time.perf_counter()
    d = load_data(name, root=data_root, download=False)
    t = time.perf_counter() - t
    with capsys.disabled(): print(f'\n{d} loaded in {t:.2f} s')
    assert d.shape == shape and len(d.y_train) == n and len(d.y_test) == test and d.n_classes == 10
    if mean is not None:
        assert torch.allclose(d.norm.mean.flatten(), torch.tensor(mean).double(), atol=6e-5)
        assert torch.allclose(d.norm.std.flatten(), torch.tensor(std).double(), atol=6e-5)
    x, y = d.batch(512, d.generator(0))
    assert x.shape == (512, *shape) and abs(x.mean()) < .1 and abs(x.std() - 1) < .1 and y.unique().tolist() == list(range(10))
    if name == 'cifar10': assert d.classes[0] == 'airplane'
    if name == 'fashion_mnist': assert d.classes[9] == 'Ankle boot'


def test_mnist_is_fast(data_root):
    "A set of 60,000 images in under 2 s, a batch of 256 in well under 1 ms (best of several: other work may be running)."
    d = load_data('mnist', root=data_root, download=False)
    load = min(_time(lambda: load_data('mnist', root=data_root, download=False)) for _ in range(3))
    assert load < 2, f'{load:.2f} s'
    g = d.generator(0)
    draw = min(_time(lambda: [d.batch(256, g) for _ in range(20)])/20 for _ in range(10))
    assert draw < 1e-3, f'{draw*1e3:.2f} ms'


def _time(f):
    t = time.perf_counter(); f()
    return time.perf_counter() - t


def test_usps_digits_are_the_digits_they_say(data_root):
    "Labels 1..10 in the file are the digits 0..9: class means of USPS must resemble those of MNIST."
    from scipy.optimize import linear_sum_assignment
    u, m = (load_data(n, root=data_root, download=False) for n in ('usps', 'mnist'))
    m = data_from_tensors(D._resize(m.raw_test[..., 4:24, 4:24], (16, 16)), m.y_test)     # without MNIST's empty border
    mu, mm = (torch.stack([d.x_train[d.y_train == c].mean(0).flatten() for c in range(10)]) for d in (u, m))
    mu, mm = (o - o.mean(0) for o in (mu, mm))
    like = torch.nn.functional.cosine_similarity(mu[:, None], mm[None], dim=-1)
    assert linear_sum_assignment(-like)[1].tolist() == list(range(10))      # the best one-to-one match


# ---- the package ------------------------------------------------------------------------------------------------------

def test_import_is_light():
    import subprocess
    import sys
    code = "import sys, dd_nb.data; print([m for m in ('matplotlib', 'sklearn', 'pandas', 'ipywidgets', 'scipy', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_public_names():
    assert set(D.__all__) == {'ZCA_REG', 'DATASETS', 'Normalise', 'Data', 'load_data', 'data_from_tensors', 'split_validation',
                              'progress_bar', 'no_progress', 'AUGMENTATIONS', 'Siamese', 'standard_augment', 'READERS', 'Vectors', 'norm_from_state', 'known_name', 'remark', 'remarked'}
    assert isinstance(load_data('digits', size=8), Data)
    assert D.data_from_folder is data_from_folder and D.data_from_dataset is data_from_dataset      # they live in `readers`, and were here once
    with pytest.raises(AttributeError, match='has no attribute'): D.data_from_nowhere


# ---- the digest of a set ----------------------------------------------------------------------------------------------

def test_the_digest_knows_contents_and_not_names(digits):
    x, y = tensors()
    d = data_from_tensors(x, y, x, y)
    same = data_from_tensors(x.clone(), y.clone(), x, y, name='other', dtype=torch.float64)
    assert d.digest == same.digest == d.describe()['digest'] and len(d.digest) == 32 and int(d.digest, 16)
    other = x.clone()
    other[3, 0, 2, 2] ^= 1
    changed = dict(image=data_from_tensors(other, y, x, y), test_image=data_from_tensors(x, y, other, y, norm=d.norm), label=data_from_tensors(x, y.flip(0), x, y),
                   classes=data_from_tensors(x, y, x, y, classes=list('abc')), whitened=data_from_tensors(x, y, x, y, zca=True), ridge=data_from_tensors(x, y, x, y, zca=.2),
                   norm=data_from_tensors(x, y, x, y, norm=Normalise(d.norm.mean, d.norm.std*1.01)), floats=data_from_tensors(x.float(), y, x.float(), y),
                   split=split_validation(d), another_split=split_validation(d, seed=1), shape=data_from_tensors(x.flatten(1), y, x.flatten(1), y))
    assert len({d.digest, *(c.digest for c in changed.values())}) == len(changed) + 1
    assert data_from_tensors(x, y, x, y, norm=Normalise(d.norm.mean*(1 + 1e-9), d.norm.std)).digest == d.digest     # another machine's rounding


def test_copies_share_the_digest_and_it_is_computed_once(digits, monkeypatch):
    v = split_validation(digits, 100)
    a = v.to(dtype=torch.float64)
    assert a.digest == v.digest
    monkeypatch.setattr(D, '_digest_split', None)
    assert v.to(dtype=torch.float16).digest == a.digest == v.describe()['digest']


def test_the_digest_of_centred_data_does_not_depend_on_the_last_bits():
    x, y = tensors(byte=False)
    x = x - x.mean((0, 2, 3), keepdim=True)
    a = data_from_tensors(x, y, x, y)
    assert data_from_tensors(x, y, x, y, norm=Normalise(a.norm.mean + 3e-9, a.norm.std)).digest == a.digest


# ---- balance, scale, shapes, remarks ----------------------------------------------------------------------------------

@pytest.fixture
def lopsided():
    "200 : 40 : 5 examples; each knows its number."
    y = torch.tensor([0]*200 + [1]*40 + [2]*5)
    x = torch.arange(245.)[:, None].repeat(1, 2)
    with pytest.warns(UserWarning, match="^tensors has from 5 .'2'. to 200 .'0'. training examples a class, so that always answering '0' would score 81.6%$"): return data_from_tensors(x, y, x, y)


def test_balanced_batches_have_as_many_of_each_class(lopsided):
    x, y = lopsided.batch(60, lopsided.generator(0), balanced=True)
    assert y.bincount().tolist() == [20, 20, 20] and y[:20].unique().tolist() == [0, 1, 2]      # in no order
    rows = lopsided.norm.inverse(x)[:, 0].round().long()
    assert lopsided.y_train[rows].equal(y)
    extra = torch.stack([lopsided.batch(4, lopsided.generator(s), balanced=True)[1].bincount(minlength=3) for s in range(300)])
    assert extra.min() == 1 and extra.max() == 2 and (extra.float().mean(0) - 4/3).abs().max() < .1       # what is left over goes to any of them
    one = torch.cat([lopsided.batch(1, lopsided.generator(s), balanced=True)[1] for s in range(300)]).bincount(minlength=3)
    assert one.min() > 70
    assert lopsided.batch(10, balanced=True, classes=[0, 2])[1].bincount(minlength=3).tolist() == [5, 0, 5]
    x, y = lopsided.batch(15, lopsided.generator(1), replace=False, balanced=True)
    assert y.bincount().tolist() == [5]*3 and len(x.unique(dim=0)) == 15
    with pytest.raises(ValueError, match="n must leave at most 5 draws for class '2'"): lopsided.batch(18, replace=False, balanced=True)
    a, b = (lopsided.batch(30, lopsided.generator(3), balanced=True)[0] for _ in range(2))
    assert a.equal(b)
    v = split_validation(lopsided, 100, seed=1)
    assert v.batch(30, balanced=True)[1].bincount().tolist() == [10]*3
    with pytest.raises(ValueError, match="balanced needs training examples of every class, and 'c' has none"):
        Data(lopsided._train, lopsided._test, 'x', list('abdc'), lopsided.norm).batch(8, balanced=True)


@pytest.mark.parametrize('change, scale', [(lambda x: x, (0, 1)), (lambda x: x.float()/255, (0, 1)), (lambda x: x.float(), (0, 255)), (lambda x: x.double(), (0, 255)), (lambda x: x.float()*2, None),
                                           (lambda x: (x.float()/255 - .13)/.31, None), (lambda x: x.float()/2, None)])
def test_the_scale_is_seen_from_the_numbers(change, scale):
    x, y = tensors(60)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0, 255
    x = change(x)
    d = data_from_tensors(x, y, x, y)
    want = scale or (x.min().item(), x.max().item())
    assert d.scale == want and d.to(dtype=torch.float64).scale == want and d.describe()['scale'] == list(want) and json.dumps(d.describe())


def test_show_cuts_nothing_off():
    x, y = tensors(60)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0, 255
    bytes_ = data_from_tensors(x, y, x, y).show(n=4).axes[0]
    for change, title in ((lambda x: x.float()/255, ''), (lambda x: x.float(), 'drawn from 0 (black) to 255 (white)'), (lambda x: (x.float()/255 - .13)/.308, 'drawn from -0.4221 (black) to 2.825 (white)')):
        ax = data_from_tensors(change(x), y, change(x), y).show(n=4).axes[0]
        assert ax.get_title() == title and (ax.images[0].get_array() == bytes_.images[0].get_array()).all(), title


def test_labels_in_a_column_and_shapes_that_can_mean_one_thing():
    x, y = tensors(60, (12, 10))
    d = data_from_tensors(x, y[:, None], x, y.numpy()[:, None].astype(np.uint8))
    assert d.y_train.equal(y) and d.y_test.equal(y) and d.shape == (1, 12, 10) and d.norm.mean.numel() == 1
    rgb = torch.stack([x, 255 - x, x//2], -1)
    for change in (lambda x: x, lambda x: x.float()/255, lambda x: x.numpy()):
        d = data_from_tensors(change(rgb), y, change(rgb), y)
        assert d.shape == (3, 12, 10) and d.norm.mean.shape == (3, 1, 1) and d.is_image
        assert d.raw_train.reshape(60, 3, -1)[:, 0].float().mul(1 if d.raw_train.dtype == torch.uint8 else 255).round().equal(x.flatten(1).float())
    assert data_from_tensors(torch.cat([rgb, rgb[..., :1]], -1), y).shape == (4, 12, 10)
    for shape in ((3, 12, 10), (1, 12, 3), (3, 12, 3), (5, 12), (12,), (2, 9, 9)): assert data_from_tensors(tensors(60, shape)[0], y).shape == shape      # as they are
    assert data_from_tensors(torch.randn(60, 20, 9), y).shape == (20, 9)      # a series
    with pytest.warns(UserWarning, match=r'x_train of shape \(42, 9, 9\) is taken as series of 9 rows; gray images have shape \(N, 1, H, W\)'):
        data_from_tensors(torch.randn(42, 9, 9), y[:42])
    with pytest.warns(UserWarning, match=r'taken as images of 16 channels; if the channels come last, give x.permute'): assert data_from_tensors(torch.randn(60, 16, 4, 4), y).shape == (16, 4, 4)


def test_what_is_odd_is_remarked_on_once(recwarn, digits):
    x, y = tensors(60)
    load_data('digits', size=8), split_validation(digits), data_from_tensors(x, y)
    assert not recwarn.list
    y = y.clone(); y[y == 2] = 0; y[5] = 2
    data_from_tensors(x, y, classes=['a', 'b', 'solo'])
    assert [str(w.message) for w in recwarn.list] == ["tensors has class 'solo' with a single training example; class 'solo' with no test example; from 1 ('solo') to 27 ('a') training examples a class, "
                                                      "so that always answering 'a' would score 66.7%"] and recwarn.list[0].filename == __file__


@pytest.mark.parametrize('name', ['usps', 'fashion_mnist'])
def test_ordinary_sets_are_not_remarked_on(data_root, name, recwarn):
    load_data(name, root=data_root, download=False)
    assert not recwarn.list


def test_a_column_of_large_numbers_is_centred_before_it_is_rounded():
    t = 1_764_000_000 + torch.arange(1400, dtype=torch.float64)*2.5
    n = Normalise.fit(t[:, None])
    z = n(t[:, None])
    assert z.dtype == torch.float32 and len(z.unique()) == 1400 and abs(z.std() - 1) < 1e-2
    assert len(Normalise.from_state(n.state())(t[:, None]).unique()) == 1400 and len(n(t.long()[:, None]).unique()) == 1400
    within = Normalise.fit(t[:, None]/1e6 + 1_764_000_000)       # within milliseconds: float64 tells them apart, and so do we
    assert abs(within(t[:, None]/1e6 + 1_764_000_000).std() - 1) < .05
    assert Normalise.fit(torch.full((9, 1), 7.3, dtype=torch.float64)).std.item() == 1
