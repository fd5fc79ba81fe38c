"Room `readers`: folders, datasets and arrays, read as what they are or refused in one sentence; names and paths."
import io
import subprocess
import sys
from pathlib import Path
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dd_nb import readers as R
from dd_nb.data import data_from_tensors,load_data
from dd_nb.readers import class_files,data_from_dataset,data_from_folder,data_from_npz,npz_arrays,split_of
from test_data import tensors


@pytest.fixture(autouse=True)
def every_warning_is_an_error(request):
    "A remark must be expected."
    with warnings.catch_warnings():
        if not request.node.get_closest_marker('filterwarnings'): warnings.simplefilter('error', UserWarning)
        yield


def write(p, x, **kw):
    p.parent.mkdir(parents=True, exist_ok=True)
    (x if isinstance(x, Image.Image) else Image.fromarray(x)).save(p, **kw)


def gray(v, h=6, w=5): return np.full((h, w), v, dtype=np.uint8)


def folder(root, n=6, classes=('ant', 'bee'), first=0):
    for c, nm in enumerate(classes):
        for i in range(first, first + n): write(root/nm/f'{i:02}.png', gray(100*c + i))
    return root


def one_sentence(e): assert '\n' not in str(e.value) and len(str(e.value)) < 700


def both(d): return torch.cat([d.raw_train, d.raw_test]), torch.cat([d.y_train, d.y_test])


# ---- folders ----------------------------------------------------------------------------------------------------------

def test_folder_of_classes(tmp_path):
    d = data_from_folder(folder(tmp_path/'bugs', 10))
    assert d.name == 'bugs' and d.classes == ['ant', 'bee'] and d.shape == (1, 6, 5) and (len(d.y_train), len(d.y_test)) == (14, 6)
    seen = torch.cat([d.raw_train, d.raw_test])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == [*range(10), *range(100, 110)] and (torch.cat([d.y_train, d.y_test]) == seen//100).all()
    assert load_data(tmp_path/'bugs', seed=4).raw_test.equal(load_data(str(tmp_path/'bugs'), seed=4).raw_test)


@pytest.mark.parametrize('test', ['test', 'val', 'valid'])
def test_folder_with_test(tmp_path, test):
    folder(tmp_path/'train', 10); folder(tmp_path/test, 3)
    (tmp_path/'.hidden').mkdir(); (tmp_path/'train'/'notes.txt').write_text('x'); (tmp_path/'train'/'ant'/'.x.png').write_text('x')
    d = load_data(tmp_path)
    assert (len(d.y_train), len(d.y_test)) == (20, 6)


def test_folder_with_train_only(tmp_path): assert len(data_from_folder(folder(tmp_path/'train', 10).parent).y_test) == 6


@pytest.mark.filterwarnings('ignore')
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
    folder(tmp_path, 10)
    write(tmp_path/'bee'/'big.png', gray(3, 12, 10))
    with pytest.raises(ValueError, match=r'different sizes \(00.png 6x5, big.png 12x10\): pass size='): data_from_folder(tmp_path)
    assert data_from_folder(tmp_path, size=(6, 5)).shape == (1, 6, 5) and load_data(tmp_path, size=4).shape == (1, 4, 4)


@pytest.mark.filterwarnings('ignore')
def test_folder_bad_input(tmp_path):
    with pytest.raises(ValueError, match='is not a folder'): data_from_folder(tmp_path/'none')
    with pytest.raises(ValueError, match='holds no class folders'): data_from_folder(tmp_path)
    folder(tmp_path/'x', 10)
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
    folder(tmp_path/'y'/'train', 10); folder(tmp_path/'y'/'test', 10, classes=('ant', 'cow'))
    with pytest.raises(ValueError, match="class folder 'cow' that the training folder lacks"): data_from_folder(tmp_path/'y')
    folder(tmp_path/'z'/'test', 10)
    with pytest.raises(ValueError, match="none called 'train'"): data_from_folder(tmp_path/'z')
    folder(tmp_path/'v', 10, classes=('train', 'plane', 'test'))      # vehicles, not splits
    assert data_from_folder(tmp_path/'v').classes == ['plane', 'test', 'train']
    folder(tmp_path/'w'/'train', 10); folder(tmp_path/'w'/'more', 10)
    with pytest.raises(ValueError, match="holds a folder 'train' beside others"): data_from_folder(tmp_path/'w')


def test_floating_point_images(tmp_path):
    for c in 'ab': write(tmp_path/c/'0.tif', np.ones((4, 4), dtype=np.float32)); write(tmp_path/c/'1.tif', np.ones((4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="mode 'F' cannot be read"): data_from_folder(tmp_path)


# ---- split folders ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('train, test', [('Training', 'Testing'), ('TRAIN', 'TEST'), ('train', 'validation'), ('train', 'val'), ('training_set', 'test_set'), ('seg_train', 'seg_test'),
                                         ('Train Data', 'Test Data'), ('trainset', 'eval'), ('train', 'dev'), ('Train', 'VALID'), ('training', 'evaluation'), ('train_images', 'test_images')])
def test_split_folders_are_known_by_their_usual_names_in_any_case(tmp_path, train, test):
    folder(tmp_path/'brain'/train, 4); folder(tmp_path/'brain'/test, 3, first=4)
    d = load_data(tmp_path/'brain')
    assert d.classes == ['ant', 'bee'] and (len(d.y_train), len(d.y_test)) == (8, 6)
    assert sorted(d.raw_test[:, 0, 0, 0].tolist()) == [4, 5, 6, 104, 105, 106] and (d.raw_test[:, 0, 0, 0]//100 == d.y_test).all()


@pytest.mark.parametrize('name, split', [('Training', 'train'), ('VAL', 'val'), ('test-set', 'test'), ('train2017', 'train'), ('trains', None), ('contest', None), ('tester', None), ('evaluation_data', 'val'),
                                         ('images', None), ('', None), ('protest', None)])
def test_names_of_splits(name, split): assert split_of(name) == split


def test_test_is_the_test_split_and_val_is_said_to_be_left(tmp_path):
    folder(tmp_path/'train', 4); folder(tmp_path/'valid', 2, first=30); folder(tmp_path/'Test', 3, first=10)
    with pytest.warns(UserWarning, match="'valid' is not used; the test split is 'Test'") as w: d = data_from_folder(tmp_path)
    assert len(w) == 1 and w[0].filename == __file__ and set((d.raw_test[:, 0, 0, 0] % 100).tolist()) == {10, 11, 12} and len(d.y_train) == 8
    folder(tmp_path/'extra', 1)
    with pytest.warns(UserWarning, match="'valid', 'extra' are not used"): data_from_folder(tmp_path)


def test_a_class_called_train_is_no_split(tmp_path):
    folder(tmp_path, classes=('train', 'plane', 'test'))
    assert data_from_folder(tmp_path).classes == ['plane', 'test', 'train']


@pytest.mark.parametrize('make, says', [
    (lambda p: [folder(p/a) for a in ('A', 'B')], "the same sub-folders .'ant', 'bee'. and no images of their own: if they are splits"),
    (lambda p: [folder(p/c, classes=('train', 'test')) for c in ('ant', 'bee')], "the same sub-folders .'test', 'train'."),
    (lambda p: [folder(p/'A', classes=('ant', 'bee')), folder(p/'B', classes=('bee', 'cow'))], "the same sub-folders .'bee'."),
    (lambda p: [folder(p/'archive'/'data'/s) for s in ('train', 'test')], "holds a single folder.*name '.*archive/data'$"),
    (lambda p: folder(p/'archive'/'data'), "holds a single folder.*name '.*archive/data'$"),
    (lambda p: [folder(p/'data'/'Training'), folder(p/'docs', classes=('figures',))], "'data' in it holds a training folder: name '.*data'$"),
    (lambda p: [folder(p/s) for s in ('train', 'Training', 'test')], "two folders for one split, '.rain.*' and '.rain.*'"),
    (lambda p: [folder(p, classes=('train', 'test'))], "images right in 'test', 'train': their classes are not known"),
    (lambda p: [folder(p/'train'), folder(p, classes=('test',))], "holds images without class folders.*name '.*train' to split"),
    (lambda p: [folder(p/'Testing'), folder(p/'more')], "holds a folder 'Testing' but none called 'train'"),
])
def test_layouts_that_are_not_clear_are_refused(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(ValueError, match=says.replace('/', r'[/\\]')) as e: data_from_folder(tmp_path)
    one_sentence(e)


def test_layouts_that_can_mean_one_thing_are_read(tmp_path):
    for c in 'ab': folder(tmp_path/'one'/c, classes=('images',))     # as Tiny-ImageNet has it
    assert data_from_folder(tmp_path/'one').classes == ['a', 'b']
    folder(tmp_path/'twice'/'training_set'/'training_set', 5); folder(tmp_path/'twice'/'test_set'/'test_set', 2)
    d = data_from_folder(tmp_path/'twice')
    assert (len(d.y_train), len(d.y_test)) == (10, 4) and d.classes == ['ant', 'bee']
    for k, cs in dict(animal=('cat', 'dog'), vehicle=('bus', 'car')).items(): folder(tmp_path/'kinds'/k, classes=cs)     # classes with kinds of their own
    assert data_from_folder(tmp_path/'kinds').classes == ['animal', 'vehicle']
    (tmp_path/'one'/'__MACOSX').mkdir(); (tmp_path/'one'/'.cache').mkdir()
    assert data_from_folder(tmp_path/'one').n_classes == 2


def test_images_beside_class_folders_are_said_to_be_left(tmp_path):
    write(folder(tmp_path)/'sample.png', gray(1))
    with pytest.warns(UserWarning, match="1 images beside the class folders are not read, such as 'sample.png'"): data_from_folder(tmp_path)


def test_class_files_and_a_tree_of_classes_that_are_known(tmp_path):
    files, y, names = class_files(folder(tmp_path))
    assert [f.parent.name for f in files] == ['ant']*6 + ['bee']*6 and y.tolist() == [0]*6 + [1]*6 and names == ['ant', 'bee']
    assert class_files(tmp_path, ['bee', 'cow', 'ant'])[1].tolist() == [2]*6 + [0]*6


# ---- datasets of pictures --------------------------------------------------------------------------------------------

class Pairs(torch.utils.data.Dataset):
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


def test_datasets_of_pictures_follow_the_same_rules():
    ims = [(Image.fromarray((np.arange(30).reshape(5, 6)*(100 + i)).astype(np.uint16)), i % 2) for i in range(8)]
    d = data_from_dataset(Pairs(ims), Pairs(ims))
    assert d.raw_train.dtype == torch.float32 and (d.raw_train[3]*4095).round().max() == 29*103 and d.shape == (1, 5, 6)
    assert data_from_dataset(Pairs(ims), size=4, depth=16).shape == (1, 4, 4)
    red = np.zeros((6, 5, 4), np.uint8); red[..., 0] = 255
    d = data_from_dataset(Pairs([(Image.fromarray(red), i % 2) for i in range(8)]))
    assert d.raw_train.eq(255).all()
    buf = io.BytesIO(); note = Image.Exif(); note[0x0112] = 6
    Image.fromarray(gray(9)).save(buf, 'jpeg', exif=note)
    assert data_from_dataset(Pairs([(Image.open(io.BytesIO(buf.getvalue())), np.array([i % 2])) for i in range(8)])).shape == (1, 5, 6)
    mixed = [*ims[:4], *[(Image.fromarray(gray(9, 5, 6)), i % 2) for i in range(4)]]
    with pytest.raises(ValueError, match='depth must be given'): data_from_dataset(Pairs(mixed))
    x, _ = both(data_from_dataset(Pairs(mixed), depth=12))
    assert (x == torch.tensor(9/255)).all((1, 2, 3)).sum() == 4
    for items in ([*ims, (torch.rand(1, 5, 6), 0)], [(torch.rand(1, 5, 6), 0), *ims]):
        with pytest.raises(ValueError, match='beside tensors'): data_from_dataset(Pairs(items))


# ---- datasets ---------------------------------------------------------------------------------------------------------

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
    (Pairs([(torch.zeros(3), .5)]*4), {}, TypeError, 'train_ds must yield classes as whole numbers, got 0.5 as item 0'),
    (Pairs([(torch.zeros(3), 'a')]*4), {}, TypeError, 'whole numbers'),
    (Pairs([('abc', 1)]*4), {}, TypeError, 'an example must be'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(4), 1)]), {}, ValueError, 'different shapes'),
    (Pairs([(torch.zeros(3), 0), (torch.zeros(3), -1)]), {}, ValueError, 'at least 0'),
    (Pairs([(torch.zeros(1, 3, 3), i % 2) for i in range(9)]), dict(size=5), ValueError, 'size and channels must be left out for examples of torch.float32'),
    (Pairs([(tensors()[0][0], i % 2) for i in range(9)]), dict(size=0), ValueError, 'size must be'),
    (Pairs([(tensors()[0][0], i % 2) for i in range(9)]), dict(channels=2), ValueError, 'channels must be'),
])
def test_dataset_bad_input(ds, kw, err, words):
    with pytest.raises(err, match=words): data_from_dataset(ds, **kw)


# ---- arrays in a file -------------------------------------------------------------------------------------------------

def arrays(n=40, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randint(0, 256, size=(n, 12, 10)).astype(np.uint8), (np.arange(n) % 4).astype(np.uint8)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('colour', [False, True])
def test_medmnist(tmp_path, save, colour):
    x, y = arrays()
    if colour: x = np.stack([x, 255 - x, x], -1)
    xt, yt = x[::-1], y[::-1]
    save(tmp_path/'bloodmnist.npz', train_images=x, train_labels=y[:, None], val_images=x[:8], val_labels=y[:8, None], test_images=xt, test_labels=yt[:, None])
    with pytest.warns(UserWarning, match="'val_images', 'val_labels' are not used"): d = load_data(tmp_path/'bloodmnist.npz')
    assert d.name == 'bloodmnist.npz' and d.shape == ((3, 12, 10) if colour else (1, 12, 10)) and d.y_train.tolist() == y.tolist() and d.y_test.tolist() == yt.tolist()
    want = torch.from_numpy(x).permute(0, 3, 1, 2) if colour else torch.from_numpy(x)[:, None]
    assert d.raw_train.equal(want) and d.raw_test.equal(want.flip(0)) and d.norm.mean.shape == (3 if colour else 1, 1, 1)


def test_keras_and_plain_names(tmp_path):
    x, y = arrays()
    np.savez(tmp_path/'mnist.npz', x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    d = load_data(tmp_path/'mnist.npz')
    assert d.shape == (1, 12, 10) and len(d.y_test) == 8 and d.name == 'mnist.npz'
    assert load_data(tmp_path/'mnist.npz', size=8, channels=3).shape == (3, 8, 8)
    for i, names in enumerate((('x', 'y'), ('X', 'Y'), ('images', 'labels'), ('data', 'target'), ('features', 'targets'))):
        np.savez(tmp_path/f'{i}.npz', **dict(zip(names, (x, y))))
        a = data_from_npz(tmp_path/f'{i}.npz')
        assert sorted(both(a)[0].flatten(1).sum(1).tolist()) == sorted(x.reshape(40, -1).sum(1).tolist()) and len(a.y_test) == 12
    np.savez(tmp_path/'p.npz', x, y)
    assert data_from_npz(tmp_path/'p.npz').shape == (1, 12, 10)
    np.savez(tmp_path/'v.npz', trainX=x, trainY=y, X_val=x[:9], Y_val=y[:9])
    assert len(data_from_npz(tmp_path/'v.npz').y_test) == 9
    np.savez(tmp_path/'w.npz', x=x, y=np.array(['ant', 'bee', 'cow', 'dog'])[y])
    d = data_from_npz(tmp_path/'w.npz')
    assert d.classes == ['ant', 'bee', 'cow', 'dog'] and d.y_train.bincount().tolist() == [7]*4


@pytest.mark.parametrize('make, says', [
    (lambda x, y: dict(a=x, b=y), "must hold arrays called x and y, x_train and y_train, or train_images and train_labels, got 'a', 'b'"),
    (lambda x, y: dict(x=x), "holds 'x', but no labels for it"), (lambda x, y: dict(x_train=x, y_train=y, x_test=x), "holds 'x_test', but no labels"),
    (lambda x, y: dict(x=x, y=y.astype(object)), 'arrays of Python objects are not read'), (lambda x, y: dict(data=x, images=x, target=y), "holds both 'data' and 'images'"),
    (lambda x, y: dict(x=x, y=y[:-1]), 'y_train has 39 labels'), (lambda x, y: dict(x=x, y=np.eye(4)[y]), 'argmax'), (lambda x, y: dict(x_test=x, y_test=y), 'must hold arrays called x and y'),
    (lambda x, y: dict(x=x.astype(str), y=y), 'must hold examples as numbers'), (lambda x, y: dict(x=x*1j, y=y), "holds 'y', but no examples"),
    (lambda x, y: dict(x_train=x[:20], y_train=np.array(list('abcd'))[y][:20], x_test=x, y_test=np.array(list('abce'))[y]), "the class 'e' in its test split alone")])
def test_arrays_that_are_no_set(tmp_path, make, says):
    np.savez(tmp_path/'a.npz', **make(*arrays()))
    with pytest.raises(ValueError, match=says) as e: load_data(tmp_path/'a.npz')
    one_sentence(e)


def test_what_claims_to_be_large_is_not_read(tmp_path):
    x, y = arrays()
    np.savez_compressed(tmp_path/'a.npz', x=np.zeros((200, 100, 100)), y=y)
    with pytest.raises(ValueError, match='unpacked it says it has 16,0.* bytes; at most 1,000,000 are read') as e: npz_arrays(tmp_path/'a.npz', 10**6)
    one_sentence(e)
    np.savez(tmp_path/'b.npz', x=x, o=np.array([{}], dtype=object))
    assert set(npz_arrays(tmp_path/'b.npz', 10**6)) == {'x'}
    (tmp_path/'c.npz').write_bytes(b'PK\3\4 no archive')
    with pytest.raises(ValueError, match='cannot be read as arrays'): load_data(tmp_path/'c.npz')
    with pytest.raises(FileNotFoundError, match='there is no file'): npz_arrays(tmp_path/'none.npz', 1)


# ---- names and paths --------------------------------------------------------------------------------------------------

def test_a_folder_called_like_a_known_set(tmp_path, monkeypatch):
    folder(tmp_path/'digits'); folder(tmp_path/'trec')
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="'digits' is taken for the data set of that name, not for the folder here: that is './digits'") as w: d = load_data('digits', size=8)
    assert len(w) == 1 and w[0].filename == __file__ and d.n_classes == 10 and d.name == 'digits'
    d = load_data('./digits')
    assert d.n_classes == 2 and d.name == './digits'     # so that whoever looks for it by its name finds it again
    assert load_data(tmp_path/'digits').classes == load_data(d.name).classes == ['ant', 'bee'] and load_data('./trec').name == './trec'
    with pytest.raises(FileNotFoundError), pytest.warns(UserWarning, match="that is './trec'"): load_data('trec', root=tmp_path/'none')


def test_load_data_alone_reads_every_kind(tmp_path):
    folder(tmp_path/'bugs'); x, y = arrays(); np.savez(tmp_path/'a.npz', x=x, y=y); (tmp_path/'a.tsv').write_text('animal\tthe cat is asleep\nmachine\tthe bus is late\nanimal\tthe dog is hungry\nmachine\tthe jet is loud\n'*8); (tmp_path/'b.csv').write_text('1,2,a\n3,4,b\n'*5)
    code = f"from dd_nb.data import load_data\nprint(*[load_data({str(tmp_path)!r} + n).n_classes for n in ('/bugs', '/a.npz', '/a.tsv', '/b.csv')])"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.split() == ['2', '4', '2', '2'], run.stderr
    (tmp_path/'a.xyz').write_text('x')
    with pytest.raises(ValueError, match='or a file that ends in .csv, .npz, .tsv, got'): load_data(tmp_path/'a.xyz')


def test_the_command_says_which_digits_it_takes(tmp_path):
    folder(tmp_path/'digits')
    run = subprocess.run([Path(sys.executable).parent/'dd_distill', 'digits', '--iters', '1', '--net', 'MLP', '--quiet', '--size', '8'], capture_output=True, text=True, cwd=tmp_path)
    warned = [line for line in run.stderr.splitlines() if line.startswith('warning')]
    assert run.returncode == 0 and warned == ["warning: 'digits' is taken for the data set of that name, not for the folder here: that is './digits'"], run.stderr


def test_public_names():
    assert set(R.__all__) == {'data_from_folder', 'data_from_dataset', 'data_from_npz'}
