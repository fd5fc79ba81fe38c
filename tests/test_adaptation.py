"Adaptation: what a network from elsewhere needs, on small generated data."
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dd_nb.adaptation import VOC_CLASSES, cub_data, full_target, voc_data
from dd_nb.data import load_data
from dd_nb.distillation import distill
from dd_nb.ordinary import accuracy
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit,judges
from dd_nb.pools import PretrainedPool,pretrain
from dd_nb.networks import MLP, torchvision_net
from dd_nb.synthetic import Synthetic
from dd_nb.recipes import get_recipe,recipe_source


@pytest.fixture(scope='module')
def digits(): return load_data('digits', size=8)


@pytest.fixture(scope='module')
def pool(digits, tmp_path_factory):
    "Networks that know digits upside down."
    from dd_nb.data import data_from_tensors
    folder = tmp_path_factory.mktemp('pool')
    turned = data_from_tensors(digits.norm.inverse(digits.x_train).flip(2), digits.y_train, digits.norm.inverse(digits.x_test).flip(2), digits.y_test, name='turned')
    pretrain(lambda: MLP(digits.shape, 10, hidden=(32,)), turned, folder, n=10, epochs=10, batch_size=32, progress=False)
    return PretrainedPool(folder, held_out=.4)


def test_full_target_training_is_the_upper_end(digits, pool):
    before = [accuracy(s, digits) for s in judges(pool, 2, 0)]
    full = full_target(pool, digits, n_nets=2, epochs=10, batch_size=32)
    assert len(full) == 2 and sum(full)/2 > .9 > sum(before)/2
    assert accuracy(judges(pool, 2, 0)[0], digits) == before[0]     # the pool's own networks stay as they are


def test_a_few_images_adapt_networks_that_were_not_used(digits, pool):
    syn = Synthetic.real(digits, steps=2, epochs=2, lr=.05)
    before = sum(accuracy(s, digits) for s in judges(pool, 2, 0))/2
    distill(syn, pool, digits, iters=120, batch_size=64, lr=.05, progress=False)
    assert evaluate(syn, pool, digits, n_nets=2).mean > before + .2


def voc(root, n=22):
    "A tiny VOC 2007: one large object, class by class, and a smaller one of the class before in each photograph."
    base = root/'VOCdevkit'/'VOC2007'
    for d in ('JPEGImages', 'Annotations', 'ImageSets/Main'): (base/d).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        name = f'{i:06}'
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(base/'JPEGImages'/f'{name}.jpg')
        def obj(c, x): return f'<object><name>{c}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{x}</xmax><ymax>{x}</ymax></bndbox></object>'
        (base/'Annotations'/f'{name}.xml').write_text(f'<annotation>{obj(VOC_CLASSES[i % 20 - 1], 5)}{obj(VOC_CLASSES[i % 20], 30)}</annotation>')
    for part, of in (('train', range(n - 2)), ('val', range(n - 2, n))): (base/'ImageSets'/'Main'/f'{part}.txt').write_text('\n'.join(f'{i:06}' for i in of))
    return root


def test_voc_has_the_class_of_the_largest_object(tmp_path):
    data = voc_data(voc(tmp_path), size=64)
    assert data.shape == (3, 64, 64) and data.n_classes == 20 and data.y_train.tolist() == list(range(20)) and data.y_test.tolist() == [0, 1] and data.classes[19] == 'tvmonitor'
    with pytest.raises(FileNotFoundError, match='there is no VOC 2007 in'): voc_data(tmp_path/'nowhere')


def cub(root):
    base = root/'CUB_200_2011'
    rng, lists = np.random.default_rng(0), {k: [] for k in ('images', 'image_class_labels', 'train_test_split')}
    for i in range(6):
        file = f'00{i % 3 + 1}.Bird_{i % 3}/{i}.jpg'
        (base/'images'/file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(base/'images'/file)
        for k, v in zip(lists, (file, i % 3 + 1, int(i < 3))): lists[k].append(f'{i + 1} {v}')
    for k, v in lists.items(): (base/f'{k}.txt').write_text('\n'.join(v) + '\n')
    (base/'classes.txt').write_text('\n'.join(f'{c + 1} 00{c + 1}.Bird_{c}' for c in range(3)) + '\n')
    return root


def test_cub_is_split_as_its_lists_say(tmp_path):
    data = cub_data(cub(tmp_path), size=32)
    assert data.shape == (3, 32, 32) and data.classes == ['Bird 0', 'Bird 1', 'Bird 2'] and data.y_train.tolist() == [0, 1, 2] == data.y_test.tolist()
    with pytest.raises(FileNotFoundError, match='there is no CUB-200-2011 in'): cub_data(tmp_path/'nowhere')
    (tmp_path/'CUB_200_2011'/'image_class_labels.txt').write_text('1 one\n')
    with pytest.raises(ValueError, match='is not the archive of CUB-200-2011'): cub_data(tmp_path)


@pytest.mark.slow
def test_alexnet_is_distilled_for(tmp_path):
    "The paper's largest case in small: random weights, generated pictures, one image a class, one step of three epochs."
    data = cub_data(cub(tmp_path), size=64)
    source = FixedInit(torchvision_net('alexnet', 3))
    syn = Synthetic.real(data, ipc=1, steps=1, epochs=3, lr=.001)
    h = distill(syn, source, data, iters=1, batch_size=3, n_valid=0, keep='last', progress=False)
    assert h.skipped == 0 and torch.isfinite(syn.images).all() and 0 <= evaluate(syn, source, data).mean <= 1


@pytest.mark.slow
def test_usps_in_the_frame_of_mnist(data_root):
    d = load_data('usps28', root=data_root)
    assert d.shape == (1, 28, 28) and (len(d.y_train), len(d.y_test)) == (7438, 1860) and d.name == 'usps28'
    assert not d.raw_train[:, :, :3].any() and d.norm.mean.item() == pytest.approx(.154, abs=2e-3) and d.norm.std.item() == pytest.approx(.256, abs=2e-3)
    assert torch.equal(d.raw_test, load_data('usps28', root=data_root).raw_test)   # one split for all
    assert load_data('usps28', root=data_root, size=28).shape == d.shape   # as it is asked for when a set for it is judged
    with pytest.raises(ValueError, match='size, zca and channels must be left out'): load_data('usps28', root=data_root, size=32)


def test_house_numbers_become_grey_and_small_for_mnist_s_networks(tmp_path, monkeypatch):
    "The recipe from SVHN, on files of its format that were made up: photographs of 32 x 32 pixels in colour, for networks of 1 x 28 x 28."
    from scipy.io import savemat
    from torchvision import datasets
    rng = np.random.RandomState(0)
    (tmp_path/'SVHN').mkdir()
    for split, n in (('train', 60), ('test', 20)): savemat(tmp_path/'SVHN'/f'{split}_32x32.mat', dict(X=rng.randint(0, 256, (32, 32, 3, n)).astype('uint8'), y=(np.arange(n) % 10 + 1)[:, None]))   # 10 stands for 0
    monkeypatch.setattr(datasets.SVHN, '_check_integrity', lambda self: True)   # they are not the published files
    recipe = get_recipe('svhn-mnist-100')
    recipe = replace(recipe, data='digits', pool={**recipe.pool, 'n': 4, 'held_out': .5, 'epochs': 1})
    pool = recipe_source(recipe, load_data('digits'), pools=tmp_path/'pools', root=tmp_path)
    assert pool.trained['data'] == 'svhn' and len(pool) == 4 and next(iter(pool[0].state.params.values())).shape[1] == 1
    assert get_recipe('svhn-mnist-fixed-100').fixed and get_recipe('svhn-mnist-fixed-100').paper == ''
