"Room `data`: splits, batches, own tensors, names, and what they say about bad input."
import json
import zlib

import numpy as np
import pytest
import torch

from dd_nb import data as D
from dd_nb.data import Data,data_from_tensors,load_data,split_validation
from dd_nb.normalise import Normalise


@pytest.fixture(scope='module')
def digits(): return load_data('digits')


def tensors(n=60, shape=(1, 6, 5), k=3, seed=0, byte=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *shape), generator=g, dtype=torch.uint8) if byte else torch.randn(n, *shape, generator=g)
    return x, torch.arange(n) % k



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
    with pytest.raises(ValueError, match='split must be one of train, test'): digits.show(split='val')
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
        keep, held = D.stratified(y, n, 0)
        assert len(held) == n and len(set(keep.tolist()) | set(held.tolist())) == 101 and set(y[keep].tolist()) == {0, 1, 2, 3}
    keep, held = D.stratified(torch.arange(12) % 3, 5, 7)
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
    ((X, Y-1), {}, ValueError, 'y_train must hold class indices of at least 0, got -1'),
    ((X, Y*2), {}, ValueError, 'class 1 has no training examples'),
    ((X, Y), dict(classes=list('abcd')), ValueError, "class 3 .'d'. has no training examples"),
    ((X, Y), dict(classes=['a', 'b']), ValueError, 'y_train must hold class indices below 2, got 2'),
    ((X, Y), dict(classes='abc'), TypeError, 'classes must be a list of names'),
    ((X, Y), dict(classes=3), TypeError, 'classes must be a list of names'),
    ((X, Y.float()), {}, TypeError, 'y_train must hold whole numbers'),
    ((X, Y[:, None, None]), {}, ValueError, r'y_train must have shape \(N,\)'),
    ((X, torch.eye(3)[Y]), {}, ValueError, r'y_train must have shape \(N,\), one label per example, got \(60, 3\): .*argmax'),
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
    ((X, Y, X, Y + 1), {}, ValueError, 'y_test must hold class indices below 3, got 3'),
    ((X, Y, X, Y - 1), {}, ValueError, 'y_test must hold class indices of at least 0'),
    ((X, Y, X, Y[1:]), {}, ValueError, 'y_test has 59 labels, but x_test has 60'),
    ((X[:3], Y[:3]), {}, ValueError, 'too few to split'),
    ((X, Y), dict(test_frac=0), ValueError, 'test_frac must be a number between 0 and 1'),
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


# ---- load_data: arguments ---------------------------------------------------------------------------------------------

def test_unknown_name():
    with pytest.raises(ValueError, match="^name must be one of cifar10, .*mnist, .*did you mean 'fashion_mnist'") as e: load_data('fashionmnist')
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match="got 'quite-other'$"): load_data('quite-other')
    with pytest.raises(TypeError, match='name must be'): load_data(3)
    assert load_data('DIGITS', size=8).name == 'digits'



@pytest.mark.parametrize('kw,err,words', [
    (dict(size=0), ValueError, 'size must be at least 1, got 0'), (dict(size=-2), ValueError, 'size must be'),
    (dict(size=10**6), ValueError, 'size must be'), (dict(size=2.5), TypeError, 'size must be'), (dict(size='28'), TypeError, 'size must be'),
    (dict(size=(28, )), ValueError, 'size must be one side'), (dict(size=True), TypeError, 'size must be'), (dict(channels=4), ValueError, 'channels must be'),
    (dict(device='nowhere'), ValueError, 'device must be'), (dict(dtype=int), TypeError, 'dtype must be'), (dict(zca=-1), ValueError, 'zca must be'),
    (dict(seed=2**32), ValueError, 'seed must be'), (dict(root=3, name='mnist'), TypeError, 'root must be a folder'),
])
def test_load_bad_arguments(kw, err, words):
    with pytest.raises(err, match=words): load_data(**kw)


# ---- the package -----------------------------------------------------------------------------------------------------

def test_import_is_light():
    import subprocess
    import sys
    code = "import sys, dd_nb.data; print([m for m in ('matplotlib', 'sklearn', 'pandas', 'ipywidgets', 'scipy', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'



def test_public_names():
    assert set(D.__all__) == {'Data', 'load_data', 'data_from_tensors', 'split_validation'}
    assert isinstance(load_data('digits', size=8), Data)


def test_a_reader_of_ones_own(monkeypatch):
    "A function to `Data` that is entered in READERS gets the arguments that it takes, and no others."
    x, y = tensors()
    monkeypatch.setitem(D.READERS, 'mine', lambda name, seed, dtype, times=1: data_from_tensors(x*times, y, name=name, seed=seed, dtype=dtype))
    assert load_data('Mine', seed=3, times=2, dtype=torch.float64).raw_test.equal(data_from_tensors(x*2, y, seed=3).raw_test) and D.known_name('mine') and not D.known_name('./mine')
    with pytest.raises(TypeError, match="loud must be left out for the set 'mine', got True: its reader takes seed, dtype, times"): load_data('mine', loud=True)
    for kw in (dict(size=8), dict(channels=1), dict(zca=True)):
        with pytest.raises(ValueError, match="size, zca and channels must be left out for 'mine', which is read as it is"): load_data('mine', **kw)
    assert load_data('mine', size=(6, 5)).shape == (1, 6, 5)      # nothing to change


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
