"S as folders of pictures, out and back in, and the folders of others."
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_files import colour, data, level, same_set, syn   # noqa: F401 - fixtures among them

from dd_nb.data import data_from_tensors, load_data
from dd_nb.files import read_set
from dd_nb.folders import LABELS_FILE, SCALE_FILE, folder_names
from dd_nb.synthetic import Synthetic

FASHION = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot']


@pytest.fixture
def means(data): return Synthetic.means(load_data('digits'), lr=.1)


@pytest.mark.parametrize('name', ['{:05d}', '{}', '{:03d}'])
def test_rdeds_folders_are_known_by_their_index(data, tmp_path, name):
    data = colour(data)
    data.classes = FASHION
    x = data.raw_train[[int((data.y_train == c).nonzero()[0]) for c in range(10)]]
    for c, im in enumerate(x):
        folder = tmp_path/name.format(c)
        folder.mkdir()
        Image.fromarray(im.movedim(0, -1).numpy()).save(folder/f'class{c:05d}_id00000.jpg', quality=95)
    want = torch.stack([torch.from_numpy(np.array(Image.open(f))).movedim(-1, 0) for f in sorted(tmp_path.rglob('*.jpg'))])
    [(a, b)] = read_set(tmp_path, data)
    assert b.tolist() == list(range(10)) and torch.equal(a, data.norm(want))


def test_numbers_that_may_be_names_are_refused(data, syn, tmp_path):
    from copy import copy
    moved = copy(data)
    moved.classes = [str(c) for c in range(1, 11)]
    for c in range(10): (tmp_path/f'{c:05d}').mkdir(); Image.new('L', (8, 8)).save(tmp_path/f'{c:05d}'/'0.png')
    assert read_set(tmp_path, data)[0][1].tolist() == list(range(10))
    with pytest.raises(ValueError, match="'00000' may be the number or the name of a class, as there is a class '1'"): read_set(tmp_path, moved)
    (tmp_path/'00009').rename(tmp_path/'00010')
    with pytest.raises(ValueError, match="named as the classes are, or be the numbers 0 to 9, got '00000'"): read_set(tmp_path, data)
    s = syn.changed(meta=dict(syn.meta, data=moved.describe()))
    [(x, y)] = read_set(s.to_image_folder(tmp_path/'names'), moved)   # by name, where all are names
    assert sorted(y.tolist()) == sorted(s.labels.flatten().tolist()) and torch.allclose(x[y == 9].sum(0), s.images.detach()[s.labels == 9].sum(0), atol=.2)


def test_strange_folders(data, tmp_path):
    with pytest.raises(ValueError, match='holds no class folders'): read_set(tmp_path, data)
    (tmp_path/'cat').mkdir()
    with pytest.raises(ValueError, match="class folders must be named as the classes are, or be the numbers 0 to 9, got 'cat'"): read_set(tmp_path, data)
    (tmp_path/'cat').rmdir()
    for n in ('3', '03'): (tmp_path/n).mkdir(); Image.new('L', (8, 8)).save(tmp_path/n/'0.png')
    with pytest.raises(ValueError, match="class folders must be named|of one class|got '03'"): read_set(tmp_path, data)
    with pytest.raises(ValueError, match='must be images of 1 or 3 channels'): read_set(tmp_path, data_from_tensors(torch.randn(20, 7), torch.arange(20) % 2))


@pytest.mark.parametrize('classes, want', [
    (FASHION, ['T-shirt_top', *FASHION[1:]]), (['a', 'A'], ['0_a', '1_A']), (['a/b', 'a_b'], ['0_a_b', '1_a_b']), (['', 'x'], ['0_', '1_x']), (['..', 'x'], ['0___', '1_x']),
    (['__init__', 'x'], ['0___init__', '1_x']), (['naïve café', '犬'], ['naïve café', '犬']), ([' x', 'y'], ['0_x', '1_y']), (['x'*300, 'y'], ['0_' + 'x'*50, '1_y'])])
def test_folder_names(data, tmp_path, classes, want):
    assert folder_names(classes) == want
    two = data_from_tensors(data.raw_train[:40], torch.arange(40) % len(classes), name='named', classes=classes)
    s = Synthetic.real(two, ipc=2)
    [(x, y)] = read_set(s.to_image_folder(tmp_path/'set'), two)
    assert sorted(y.tolist()) == sorted(s.labels[0].tolist())
    for c in range(len(classes)): assert torch.allclose(x[y == c], s.images[0, s.labels[0] == c], atol=level(two))


@pytest.mark.parametrize('channels', [1, 3])
def test_pictures_come_back(data, syn, tmp_path, channels):
    "Images beyond black and white, gray ones in gray files: to half a level of all that they span."
    if channels == 3:
        data = colour(data)
        syn = Synthetic.real(data, ipc=2, steps=2)
        syn.images.data.mul_(1.2)
    folder = syn.to_image_folder(tmp_path/'set')
    assert {Image.open(f).mode for f in folder.rglob('*.png')} == {'L' if channels == 1 else 'RGB'}
    low, high = json.loads((folder/SCALE_FILE).read_text())['scale']
    assert low < 0 and high > 1
    same_set(read_set(folder, data)[0], syn, level(data, low, high))


def test_pictures_within_black_and_white_are_plain_ones(data, tmp_path):
    s = Synthetic.real(data, ipc=12)
    folder = s.to_image_folder(tmp_path/'set')
    assert not (folder/SCALE_FILE).exists()
    [(x, y)] = read_set(folder, data)
    want = s.images.detach()[0][s.labels[0].argsort(stable=True)]
    assert torch.allclose(x, want, atol=1e-5), 'and they come back in the order of each class'
    again = load_data(folder)
    assert again.classes == data.classes and again.counts.sum() < 120


def test_a_scale_that_is_asked_for_cuts_off(data, syn, tmp_path):
    with pytest.warns(UserWarning, match=r'these pictures are \d+% off the images.*from 0 to 1 are too coarse, or too narrow'):
        folder = syn.to_image_folder(tmp_path/'set', scale=(0, 1))
    assert not (folder/SCALE_FILE).exists()
    cut = syn.changed(images=data.norm(data.norm.inverse(syn.images.detach()).clamp(0, 1)))
    same_set(read_set(folder, data)[0], cut, level(data))
    for bad in ((1, 0), (0, float('nan')), 'auto', 3):
        with pytest.raises((ValueError, TypeError), match='scale must be'): syn.to_image_folder(tmp_path/'other', scale=bad)
    assert not (tmp_path/'other').exists()


def test_float_data_on_a_scale_of_their_own(data, tmp_path):
    "Images that the user normalised before, and bytes as floats: nothing of them is cut off, in pictures, files or drawings."
    for lo, hi in ((-.4242, 2.8215), (0., 255.)):
        x = data.raw_train.float()/255*(hi - lo) + lo
        own = data_from_tensors(x, data.y_train, name='own')
        assert own.scale == pytest.approx((lo, hi))
        s = Synthetic.real(own, ipc=2)
        assert s.scale == own.scale and s.meta['data']['scale'] == list(own.scale)
        assert torch.allclose(s.display_images(), (own.norm.inverse(s.images.detach()) - lo)/(hi - lo), atol=1e-5)
        folder = s.to_image_folder(tmp_path/f'{hi}')
        same_set(read_set(folder, own)[0], s, level(own, lo, hi))
        again = Synthetic.load(s.save(tmp_path/'a.safetensors'))
        assert again.scale == s.scale
        assert own.show(n=2).axes[0].images[0].get_array().max() > 200
        (folder/SCALE_FILE).unlink()
        with pytest.raises(ValueError, match='scale must say what the bytes stand for'): read_set(folder, own)
        same_set(read_set(folder, own, scale=(lo, hi))[0], s, level(own, lo, hi))
    within = data_from_tensors(data.raw_train.float()/255*.7 + .1, data.y_train)
    assert within.scale == (0, 1), 'what never leaves [0, 1] is on that scale'


def test_a_set_without_data_comes_back_too(data, tmp_path):
    "No normalisation, or one without a word on its scale: the folder says what its levels are."
    bare = Synthetic.noise(data.shape, 10, ipc=2, seed=0)
    folder = bare.to_image_folder(tmp_path/'bare')
    low, high = json.loads((folder/SCALE_FILE).read_text())['scale']
    same_set(read_set(folder, data)[0], bare, .51*(high - low)/255)
    assert bare.display_images().min() == 0 and bare.display_images().max() == 1
    dumb = Synthetic(2*data.x_train[None, :5], data.y_train[None, :5], 10, norm=data.norm)
    assert dumb.scale is None
    folder = dumb.to_image_folder(tmp_path/'dumb')
    low, high = json.loads((folder/SCALE_FILE).read_text())['scale']
    same_set(read_set(folder, data)[0], dumb, level(data, low, high))
    for bad in ('{}', '[]', 'x', '{"scale": [1, 0], "normalised": false}', '{"scale": [0, "a"], "normalised": false}', '{"scale": [0, NaN], "normalised": false}', '['*900):
        (folder/SCALE_FILE).write_text(bad)
        with pytest.raises(ValueError, match='must hold a scale'): read_set(folder, data)


def test_soft_labels_come_back_with_the_pictures(data, syn, tmp_path):
    "Distributions as they are; free numbers are asked about, as in any other file."
    y = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0))
    for name, s, how in (('softmax', syn.changed(labels=y, label_form='softmax'), 'auto'), ('plain', syn.changed(labels=y), 'plain')):
        folder = s.to_image_folder(tmp_path/name)
        low, high = json.loads((folder/SCALE_FILE).read_text())['scale']
        same_set(read_set(folder, data, labels_are=how)[0], s, level(data, low, high))
    with pytest.raises(ValueError, match='labels_are must say'): read_set(folder, data)
    good = json.loads((folder/LABELS_FILE).read_text())
    one = next(iter(good))
    for bad in ('{}', '[]', 'x', json.dumps({**good, one: [1]}), json.dumps({**good, one: [None]*10}), json.dumps({**good, one: [float('nan')]*10}), '['*900, json.dumps({**good, one: [10**400]*10})):
        (folder/LABELS_FILE).write_text(bad)
        with pytest.raises(ValueError, match='must hold 10 numbers for each picture') as e: read_set(folder, data, labels_are='plain')
        assert '\n' not in str(e.value)


def test_to_dataset_and_image_folder(data, means, tmp_path):
    from torchvision.datasets import ImageFolder
    ds = means.to_dataset()
    assert len(ds) == 10 and torch.equal(ds[3][0], means.images[0, 3].detach()) and ds[3][1] == 3
    folder = means.to_image_folder(tmp_path/'pngs')
    images = ImageFolder(folder)
    assert images.classes == [str(c) for c in range(10)] and len(images) == 10
    from torchvision.transforms.functional import to_tensor
    back = to_tensor(images[3][0])[:1]
    assert torch.allclose(back, means.display_images()[0, 3], atol=1/255)
    with pytest.raises(ValueError, match='new or an empty folder'): means.to_image_folder(tmp_path/'pngs')
    table = data_from_tensors(torch.randn(60, 7), torch.arange(60) % 3)
    with pytest.raises(ValueError, match='needs images'): Synthetic.real(table).to_image_folder(tmp_path/'nowhere')
