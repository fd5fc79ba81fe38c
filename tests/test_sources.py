"Room `sources`: the sets of the field, where they lie, how they are fetched, and what is said where they are not."
import bz2
import hashlib
import http.server
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

from dd_nb import sources as S
from dd_nb import pictures as P
from dd_nb.data import data_from_tensors,load_data


@pytest.fixture(scope='module')
def digits(): return load_data('digits')


def md5(p): return hashlib.md5(p.read_bytes()).hexdigest()


def write(p, x):
    p.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(p)


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


# ---- where they lie -----------------------------------------------------------------------------------------------------

def test_size_that_would_not_fit(monkeypatch):
    monkeypatch.setattr(P, 'MAX_BYTES', 2**20)
    with pytest.raises(ValueError, match=r'size must keep 1257 images below 0 GiB, got \(64, 64\)'): load_data('digits', size=64)


def test_root(tmp_path, monkeypatch):
    monkeypatch.setenv('DD_NB_DATA', str(tmp_path/'a'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'c'))
    assert S.data_root(None) == tmp_path/'a' and S.data_root(tmp_path/'b') == tmp_path/'b'
    monkeypatch.delenv('DD_NB_DATA'); assert S.data_root(None) == tmp_path/'c'/'dd_nb'
    monkeypatch.delenv('XDG_CACHE_HOME'); monkeypatch.setenv('HOME', str(tmp_path)); assert S.data_root(None) == tmp_path/'.cache'/'dd_nb'
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
    monkeypatch.setattr(S.tempfile, 'mkdtemp', mkdtemp)
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
    m = data_from_tensors(P.resize(m.raw_test[..., 4:24, 4:24], (16, 16)), m.y_test)     # without MNIST's empty border
    mu, mm = (torch.stack([d.x_train[d.y_train == c].mean(0).flatten() for c in range(10)]) for d in (u, m))
    mu, mm = (o - o.mean(0) for o in (mu, mm))
    like = torch.nn.functional.cosine_similarity(mu[:, None], mm[None], dim=-1)
    assert linear_sum_assignment(-like)[1].tolist() == list(range(10))      # the best one-to-one match


# ---- the package ------------------------------------------------------------------------------------------------------

def test_public_names(): assert S.__all__ == ['DATASETS'] and S.DATASETS == ['digits', *ALL]
