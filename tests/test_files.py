"Files of others, written by the very calls that their code makes, and every way out read back."
import math
import re
import warnings

import numpy as np
import pytest
import torch
from forge import torch_file
from torch import nn

from dd_nb.data import data_from_tensors, load_data
from dd_nb.protocols import Protocol,benchmark
from dd_nb.evaluation import evaluate
from dd_nb.files import as_examples, as_normalised, check_pair, is_distribution, read_set
from dd_nb.inits import FixedInit
from dd_nb.pools import PretrainedPool,pretrain
from dd_nb.networks import MLP
from dd_nb.synthetic import Synthetic
from dd_nb.zoo import load_zoo

NET = dict(name='MLP', hidden=(16,))


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


@pytest.fixture(scope='module')
def syn(data):
    "Images that reach beyond black and white, as learned ones do."
    s = Synthetic.real(data, ipc=1, steps=3, epochs=2, lr=.02)
    s.images.data.add_(.3*torch.randn(s.images.shape, generator=torch.Generator().manual_seed(0)))
    return s


@pytest.fixture
def xy(syn): return syn.images.detach()[0], syn.labels[0]


def colour(data):
    "The digits in three colours, as another data set."
    def three(x): return torch.cat([x, x//2, 255 - x], 1)
    return data_from_tensors(three(data.raw_train), data.y_train, three(data.raw_test), data.y_test, name='colour')


def level(data, low=0., high=1.):
    "Half a level of a picture, on the scale of networks."
    return .51*(high - low)/255/data.norm.std.min().item()


# --- VICO: DC, DSA, DM

@pytest.mark.parametrize('number', [np.float64(.5), np.float32(.25), np.int64(3), np.bool_(True)])
@pytest.mark.parametrize('old', [False, True])
def test_vicos_file(data, xy, tmp_path, number, old):
    saved = {'data': [list(xy), [xy[0] + 1, xy[1]]], 'accs_all_exps': {'ConvNet': [number, number]}}
    torch.save(saved, tmp_path/'res.pt', _use_new_zipfile_serialization=not old)
    before = set(torch.serialization.get_safe_globals())
    sets = read_set(tmp_path/'res.pt', data)
    assert len(sets) == 2 and torch.equal(sets[0][0], xy[0]) and torch.equal(sets[1][0], xy[0] + 1) and torch.equal(sets[1][1], xy[1])
    assert set(torch.serialization.get_safe_globals()) == before, 'what a reader may read is as it was'


@pytest.mark.parametrize('name', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_numpys_scalars_are_known_by_the_old_and_the_new_name(data, xy, tmp_path, name):
    blob = torch_file({'data': [list(xy)], 'accs_all_exps': {'ConvNet': [np.float64(.5)]}}, old=True)
    assert re.search(rb'cnumpy\.(_core|core)\.multiarray\nscalar\n', blob)
    (tmp_path/'res.pt').write_bytes(re.sub(rb'cnumpy\.(_core|core)\.multiarray\n', b'c' + name + b'\n', blob))
    assert torch.equal(read_set(tmp_path/'res.pt', data)[0][0], xy[0])


@pytest.mark.parametrize('strange', [np.zeros(3), np.str_('x'), np.complex128(1j), np.datetime64('2020-01-01'), Protocol(), print])
@pytest.mark.parametrize('old', [False, True])
def test_nothing_else_is_allowed_and_one_plain_sentence_says_so(data, xy, tmp_path, strange, old):
    (tmp_path/'res.pt').write_bytes(torch_file({'data': [list(xy)], 'accs_all_exps': strange}, old))
    with pytest.raises(ValueError, match='cannot be read as tensors') as e: read_set(tmp_path/'res.pt', data)
    assert '\x1b' not in str(e.value) and '\n' not in str(e.value) and 'weights_only' not in str(e.value) and len(str(e.value)) < 400


# --- MTT, DATM

def test_mtts_files(data, xy, tmp_path):
    "`images_best.pt` beside `labels_best.pt`: hard labels, or soft ones that are distributions."
    torch.save(xy[0], tmp_path/'images_best.pt')
    torch.save(xy[1], tmp_path/'labels_best.pt')
    assert torch.equal(read_set(tmp_path/'images_best.pt', data)[0][1], xy[1])
    soft = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    for t in (soft, soft.half()):
        torch.save(t, tmp_path/'labels_best.pt')
        assert torch.equal(read_set(tmp_path/'images_best.pt', data)[0][1], t.to(torch.float32))
        assert torch.equal(read_set(tmp_path/'images_best.pt', data, labels_are='probabilities')[0][1], t.to(torch.float32))


def test_datms_logits_are_asked_about(data, xy, tmp_path):
    logits = 12*torch.nn.functional.one_hot(xy[1], 10).float() - 2 + torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    torch.save(xy[0], tmp_path/'images_best.pt')
    torch.save(logits, tmp_path/'labels_best.pt')
    with pytest.raises(ValueError, match="labels_are must say what the labels are, 'logits'.*or 'plain'") as e: read_set(tmp_path/'images_best.pt', data)
    assert '\n' not in str(e.value) and 'images_best.pt' in str(e.value)
    with pytest.raises(ValueError, match="labels_are='probabilities' needs rows of sum 1"): read_set(tmp_path/'images_best.pt', data, labels_are='probabilities')
    with pytest.raises(ValueError, match='labels_are must be one of auto, plain, logits, probabilities'): read_set(tmp_path/'images_best.pt', data, labels_are='soft')
    [(_, y)] = read_set(tmp_path/'images_best.pt', data, labels_are='logits')
    assert torch.allclose(y, logits.softmax(1))
    assert torch.equal(read_set(tmp_path/'images_best.pt', data, labels_are='plain')[0][1], logits)


def test_pairs_are_asked_the_same(data, xy):
    "Cross-entropy takes distributions alone; a `Synthetic` says itself what its labels are."
    x, y = xy[0], 9*torch.eye(10)[xy[1]]
    short = Protocol(epochs=2)
    with pytest.raises(ValueError, match=r"labels.softmax\(1\) if they are logits, or a Protocol\(loss='squared_error'\)"): benchmark((x, y), data, NET, short, 1)
    assert benchmark((x, y.softmax(1)), data, NET, short, 1).mean > 0
    assert benchmark((x, y), data, NET, Protocol(epochs=2, loss='squared_error'), 1).mean > 0
    assert benchmark(Synthetic(x[None], y[None]), data, NET, short, 1).mean > 0
    assert is_distribution(y.softmax(1).half()) and not is_distribution(y) and not is_distribution(y - y.mean(1, keepdim=True))
    assert not is_distribution(torch.tensor([[1.5, -.5]])) and is_distribution(torch.eye(3))


# --- KIP, FRePo

def test_kips_archive(data, tmp_path):
    "Channels last, and centred targets of a regression."
    data = colour(data)
    x, y = data.x_train[:20], torch.eye(10)[data.y_train[:20]] - .1
    np.savez(tmp_path/'kip.npz', images=x.movedim(1, -1).numpy(), labels=y.numpy())
    with pytest.raises(ValueError, match="labels_are must say"): read_set(tmp_path/'kip.npz', data)
    [(a, b)] = read_set(tmp_path/'kip.npz', data, labels_are='plain')
    assert torch.equal(a, x) and torch.equal(b, y)


# --- Wang et al. 2018, and soft labels

def wangs(syn, lr):
    "Its file of steps, by its own way: the images of an epoch are the same tensors, and the step sizes rows of a (T, 1) table."
    kept = [(x.detach().cpu(), y.detach().cpu()) for x, y in zip(syn.images, syn.labels)]
    lrs = syn.lrs.detach()[:, None].unbind()
    return [(*kept[t % syn.steps], lr(lrs[t])) for t in range(syn.n_steps)]


@pytest.mark.parametrize('lr', [lambda v: v, lambda v: v[0], float], ids=['1-dim', '0-dim', 'float'])
def test_wangs_file_is_a_set_with_its_schedule(data, syn, tmp_path, lr):
    syn = syn.changed(lr=torch.linspace(.01, .1, 6))
    torch.save(wangs(syn, lr), tmp_path/'results.pth')
    got = read_set(tmp_path/'results.pth', data)
    assert isinstance(got, Synthetic) and (got.steps, got.epochs, got.n_steps, got.order) == (3, 2, 6, None)
    assert torch.equal(got.images, syn.images) and torch.equal(got.labels, syn.labels) and torch.allclose(got.lrs, syn.lrs, rtol=1e-6)
    source = FixedInit(MLP(data.shape, 10, hidden=(16,), seed=0))
    assert evaluate(got, source, data).all == evaluate(syn, source, data).all


def test_thirty_steps_of_ten_images_each_and_three_epochs(data, tmp_path):
    s = Synthetic.real(data, steps=10, epochs=3)
    torch.save(wangs(s, lambda v: v), tmp_path/'results.pth')
    assert (read_set(tmp_path/'results.pth', data).steps, read_set(tmp_path/'results.pth', data).epochs) == (10, 3)
    torch.save([(x.clone(), y.clone(), v) for x, y, v in wangs(s, lambda v: v)], tmp_path/'copies.pth')   # the same by contents, not by memory
    assert torch.equal(read_set(tmp_path/'copies.pth', data).images, s.images)


def test_another_sequence_of_steps_becomes_an_order(data, syn, tmp_path):
    which = [0, 2, 1, 1, 0]
    torch.save([(syn.images[i].detach(), syn.labels[i], .01*(t + 1)) for t, i in enumerate(which)], tmp_path/'results.pth')
    got = read_set(tmp_path/'results.pth', data)
    assert got.n_steps == 5 and len(got) == 30 and got.order.shape == (5, 10)
    for t, i in enumerate(which):
        x, y, lr = got.batch(t)
        assert torch.equal(x, syn.images[i]) and torch.equal(y, syn.labels[i]) and lr.item() == pytest.approx(.01*(t + 1))


def test_soft_labels_of_steps(data, syn, tmp_path):
    y = torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0))
    def save(y): torch.save([(syn.images[t % 3].detach(), y[t % 3], torch.tensor([.02])) for t in range(6)], tmp_path/'results.pth')
    save(y)
    with pytest.raises(ValueError, match='labels_are must say'): read_set(tmp_path/'results.pth', data)
    assert torch.equal(read_set(tmp_path/'results.pth', data, labels_are='plain').labels, y)
    got = read_set(tmp_path/'results.pth', data, labels_are='logits')
    assert torch.equal(got.raw_labels, y) and got.label_form == 'softmax'
    save(y.softmax(-1))
    assert torch.equal(read_set(tmp_path/'results.pth', data).labels, y.softmax(-1))


@pytest.mark.parametrize('spoil, why', [
    (lambda s: [s[0], (s[1][0][:5], s[1][1][:5], s[1][2])], 'as many images each'), (lambda s: [(x, y, -v) for x, y, v in s], 'lr must be positive'),
    (lambda s: [(x, y + 5, v) for x, y, v in s], 'labels must lie in 0..9'), (lambda s: [(x[..., :4], y, v) for x, y, v in s], 'images must have shape|must hold'),
    (lambda s: [(x*float('nan'), y, v) for x, y, v in s], 'must be finite'), (lambda s: [(x, y, None) for x, y, _ in s], 'must hold'),
    (lambda s: [(x.to_sparse(), y, v) for x, y, v in s], 'not a plain one'), (lambda s: [(x.expand(10, 9_000, 8, 8), y, v) for x, y, v in s]*200, 'bytes|would hold')])
def test_bad_steps(data, syn, tmp_path, spoil, why):
    torch.save(spoil(wangs(syn, lambda v: v)), tmp_path/'results.pth')
    with pytest.raises(ValueError, match=why) as e: read_set(tmp_path/'results.pth', data)
    assert 'results.pth' in str(e.value) and '\n' not in str(e.value)


# --- RDED and other folders


# --- every way out

def same_set(got, syn, atol):
    "The same examples, whatever their order."
    x, y = got
    a, b = syn.images.detach().flatten(0, 1), syn.labels.detach().flatten(0, 1)
    assert len(x) == len(a)
    left = list(range(len(a)))
    for u, v in zip(x, y):
        j = next(j for j in left if torch.equal(b[j], v.to(b.dtype)) and (a[j] - u).abs().max() <= atol)
        left.remove(j)


def test_tensors_and_files_come_back(data, syn, tmp_path):
    "A dataset's tensors saved as a pair, our own file, hard and soft labels, with an order and without."
    soft = syn.changed(labels=torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0)), label_form='softmax')
    for s in (syn, soft, syn.minibatches(5)):
        torch.save(s.to_dataset().tensors, tmp_path/'pair.pt')
        [(x, y)] = read_set(tmp_path/'pair.pt', data)
        assert torch.equal(x, s.images.detach().flatten(0, 1)) and torch.equal(y, s.labels.detach().flatten(0, 1))
        again = read_set(s.save(tmp_path/'ours.safetensors'), data)
        assert torch.equal(again.images, s.images) and torch.equal(again.labels, s.labels) and torch.equal(again.lrs, s.lrs)
        assert (again.order is None) == (s.order is None) and again.n_steps == s.n_steps and again.scale == s.scale
        x, y = zip(*s.to_dataset())
        torch.save([torch.stack(x), torch.stack(y)], tmp_path/'list.pt')
        assert torch.equal(read_set(tmp_path/'list.pt', data)[0][0], s.images.detach().flatten(0, 1))


# --- scales

def test_scales_that_cannot_be_are_refused(data, tmp_path):
    x, y = data.x_train[:50], data.y_train[:50]
    raw = data.raw_train[:50].float()
    def read(x, **kw):
        torch.save((x, y), tmp_path/'a.pt')
        return read_set(tmp_path/'a.pt', data, **kw)[0][0]
    for bad in (raw, raw + .25, raw - 128.3, 20*x, raw/255*40.5):
        with pytest.raises(ValueError, match="scale must say what the images are, one of 'normalised'.*'pixels'.*'bytes'"): read(bad)
    assert torch.allclose(read(raw, scale='bytes'), x, atol=1e-5) and torch.allclose(read(raw/255), x, atol=1e-5) and torch.allclose(read(raw.to(torch.uint8)), x, atol=1e-5)
    assert torch.equal(read(20*x, scale='normalised'), 20*x)
    assert torch.allclose(read(raw.to(torch.int32), scale='bytes'), x, atol=1e-5)
    with pytest.raises(ValueError, match="scale='pixels' needs numbers of about 0 to 1"): read(raw, scale='pixels')
    with pytest.raises(ValueError, match="scale must be 'bytes' or 'auto' for images of bytes"): read(raw.to(torch.uint8), scale='normalised')
    with pytest.raises(ValueError, match='scale must be one of auto, normalised, pixels, bytes, or a pair'): read(x, scale='z')
    for bad in ((1, 0), (0,), ('a', 'b')):
        with pytest.raises(ValueError, match='scale must be .low, high.'): read(x, scale=bad)
    assert torch.allclose(read(raw/255*2 - 1, scale='normalised'), raw/255*2 - 1)


def test_learned_images_reach_further_and_are_known(tmp_path):
    "Our own ten images of MNIST reach from -35 to 24; nobody need say that they are normalised."
    z = load_zoo('mnist-fixed-10')
    def white(*size): return torch.rand(size, generator=torch.Generator().manual_seed(0))
    data = data_from_tensors(white(40, 1, 28, 28), torch.arange(40) % 10, norm=z.norm)
    torch.save(z.to_dataset().tensors, tmp_path/'a.pt')
    assert torch.equal(read_set(tmp_path/'a.pt', data)[0][0], z.images.detach()[0])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        same_set(read_set(z.to_image_folder(tmp_path/'set'), data)[0], z, level(data, -10.65, 7.65))


def test_whitened_images_are_known_and_their_pictures_too_coarse(tmp_path):
    data = load_data('digits', size=8, zca=True)
    x, y = data.x_train[:200], data.y_train[:200]
    torch.save((x, y), tmp_path/'a.pt')
    assert torch.equal(read_set(tmp_path/'a.pt', data)[0][0], x)
    torch.save((data.raw_train[:200].float(), y), tmp_path/'a.pt')
    with pytest.raises(ValueError, match='scale must say'): read_set(tmp_path/'a.pt', data)
    smooth = load_data('digits', zca=True)
    with pytest.warns(UserWarning, match='these pictures are .* off the images'): Synthetic.means(smooth).to_image_folder(tmp_path/'set')


# --- shapes

def test_shapes_that_can_mean_one_thing_only(data):
    gray, rgb = data, colour(data)
    x, y = gray.x_train[:20], gray.y_train[:20]
    for other in (x[:, 0], x.movedim(1, -1), x.flatten(1)): assert torch.equal(check_pair(other, y[:, None], gray)[0], x)
    c = rgb.x_train[:20]
    a, b = check_pair(c.movedim(1, -1), y[:, None].float(), rgb)
    assert torch.equal(a, c) and torch.equal(b, y)
    assert torch.equal(check_pair(x, torch.nn.functional.one_hot(y, 10), gray)[1], y)
    for bad in (c.flatten(1), c[:, 0], c.movedim(1, 2)):
        with pytest.raises(ValueError, match=r'images must have shape \(n, 3, 8, 8\)'): check_pair(bad, y, rgb)
    with pytest.raises(ValueError, match='rows of one 1 and else 0'): check_pair(x, torch.ones(20, 10, dtype=torch.long), gray)
    cube = data_from_tensors(torch.rand(40, 3, 3, 3), torch.arange(40) % 2)
    assert as_examples(cube.x_train, cube) is cube.x_train, 'what fits as it is, is not turned'


@pytest.mark.parametrize('end', ['.pt', '.npz'])
def test_shapes_in_files(data, xy, tmp_path, end):
    x, y = xy
    for other in (x[:, 0], x.movedim(1, -1)):
        path = tmp_path/f'a{end}'
        if end == '.pt': torch.save((other, y[:, None]), path)
        else: np.savez(path, images=other.numpy(), labels=y[:, None].numpy().astype('>i2'))
        [(a, b)] = read_set(path, data)
        assert torch.equal(a, x) and torch.equal(b, y)
    assert as_normalised(data.raw_train[:3], data).shape == (3, 1, 8, 8)


# --- what was checked is what is used

def test_a_loaded_pool_is_not_its_files(data, tmp_path):
    pretrain(lambda: MLP(data.shape, 10, hidden=(4,)), data, tmp_path, 3, 1, progress=False)
    pool = PretrainedPool(tmp_path)
    before = [{k: v.clone() for k, v in s.params.items()} for s in pool.draw(2) + pool.held_out().draw(1)]
    for f in tmp_path.glob('net-*'): open(f, 'r+b').truncate(0)
    assert all(torch.isfinite(v).all() for s in before for v in s.values())
    again = PretrainedPool.draw(pool, 2)
    assert all(torch.isfinite(v).all() for s in again for v in s.params.values())


def test_tensors_of_others_are_not_the_file(data, xy, tmp_path):
    torch.save(xy, tmp_path/'a.pt')
    np.savez(tmp_path/'a.npz', images=xy[0].numpy(), labels=xy[1].numpy())
    for name in ('a.pt', 'a.npz'):
        [(x, y)] = read_set(tmp_path/name, data)
        (tmp_path/name).write_bytes(b'')
        assert torch.equal(x, xy[0]) and torch.equal(y, xy[1])


def test_no_warning_from_readers(data, xy, tmp_path):
    torch.save(xy, tmp_path/'a.pt', _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_set(tmp_path/'a.pt', data)


def test_what_is_said_twice_is_refused(data, syn, xy, tmp_path):
    "An argument that would be passed over without a word."
    torch.save(xy, tmp_path/'a.pt')
    torch.save(xy[1], tmp_path/'y.pt')
    folder = syn.to_image_folder(tmp_path/'set')
    torch.save(wangs(syn, float), tmp_path/'results.pth')
    for path in (tmp_path/'a.pt', folder, tmp_path/'results.pth'):
        with pytest.raises(ValueError, match='labels must be left out for .*, which holds labels itself'): read_set(path, data, labels=tmp_path/'y.pt')
    with pytest.raises(ValueError, match='labels_are must be left out for labels that are classes'): read_set(tmp_path/'a.pt', data, labels_are='logits')
    syn.save(tmp_path/'ours.safetensors')
    for kw in (dict(labels=tmp_path/'y.pt'), dict(scale='pixels'), dict(labels_are='plain')):
        with pytest.raises(ValueError, match='which says itself what it is'): read_set(tmp_path/'ours.safetensors', data, **kw)


def test_what_was_learned_is_no_longer(data, xy, tmp_path):
    "A tensor that was saved with its `requires_grad`."
    torch.save((torch.nn.Parameter(xy[0]), torch.eye(10).requires_grad_()), tmp_path/'a.pt')
    [(x, y)] = read_set(tmp_path/'a.pt', data)
    assert not x.requires_grad and not y.requires_grad


# --- what goes into a benchmark

@pytest.fixture(scope='module')
def four(data): return Synthetic.real(data, ipc=2, steps=2)


@pytest.fixture
def forty(four): return four.images.detach().flatten(0, 1), four.labels.flatten()


def test_reads_what_peers_write(data, forty, tmp_path):
    x, y = forty
    by_class = y.argsort(stable=True)
    forms = {'pair': (x, y), 'dict': dict(images=x, labels=y), 'short': dict(x=x, y=y), 'dc': dict(data=[[x, y], [x + 1, y]], accs_all_exps=dict(a=[1.])), 'list': [[x, y], [x + 1, y]]}
    for name, obj in forms.items():
        torch.save(obj, tmp_path/f'{name}.pt')
        sets = read_set(tmp_path/f'{name}.pt', data)
        assert len(sets) == (2 if name in ('dc', 'list') else 1), name
        assert torch.equal(sets[0][0], x) and torch.equal(sets[0][1], y) and sets[0][1].dtype == torch.long
    torch.save(x[by_class], tmp_path/'bare.pt')   # class after class, the field's habit
    assert torch.equal(read_set(tmp_path/'bare.pt', data)[0][1], y[by_class])
    torch.save(x, tmp_path/'images_best.pt'); torch.save(y, tmp_path/'labels_best.pt')
    assert torch.equal(read_set(tmp_path/'images_best.pt', data)[0][1], y)
    torch.save(nn.functional.one_hot(y, 10).double(), tmp_path/'soft.pt')
    assert read_set(tmp_path/'bare.pt', data, labels=tmp_path/'soft.pt')[0][1].shape == (40, 10)
    np.savez(tmp_path/'a.npz', images=x.numpy(), labels=y.numpy().astype('uint8'))
    assert torch.equal(read_set(tmp_path/'a.npz', data)[0][0], x)


def test_bytes_and_pixels_are_normalised(data, four, forty, tmp_path):
    x, y = forty
    pixels = four.display_images().flatten(0, 1)
    for name, images, scale, tol in (('bytes', (pixels*255).round().to(torch.uint8), 'auto', .02), ('pixels', pixels, 'auto', 1e-4), ('said', pixels, 'pixels', 1e-4)):
        torch.save((images, y), tmp_path/f'{name}.pt')
        assert (read_set(tmp_path/f'{name}.pt', data, scale=scale)[0][0] - x).abs().max() < tol, name
    torch.save((pixels, y), tmp_path/'n.pt')
    assert torch.equal(read_set(tmp_path/'n.pt', data, scale='normalised')[0][0], pixels)
    four.norm = data.norm
    four.to_image_folder(tmp_path/'folder')
    [(a, b)] = read_set(tmp_path/'folder', data)
    assert sorted(b.tolist()) == sorted(y.tolist()) and (a[b == 3].sum() - x[y == 3].sum()).abs() < 5
    four.save(tmp_path/'ours.safetensors')
    assert isinstance(read_set(tmp_path/'ours.safetensors', data), Synthetic)


class Evil:
    def __reduce__(self): return (open, ('marker', 'w'))


@pytest.mark.parametrize('what, match', [
    (lambda x, y: (x[:, :, :4], y), r'images must have shape \(n, 1, 8, 8\) for digits, got \(40, 1, 4, 8\)'),
    (lambda x, y: (x, y[:7]), r'labels must have shape \(40,\) or \(40, 10\), got \(7,\)'),
    (lambda x, y: (x, y + 5), r'labels must lie in 0..9, got 5..14'),
    (lambda x, y: (x*math.nan, y), 'images must be finite'),
    (lambda x, y: (x, y + .5), 'labels must be whole numbers'),
    (lambda x, y: x[:7], 'labels must be given: the 7 images'),
    (lambda x, y: dict(weights=x), 'must hold a tensor of images'),
    (lambda x, y: 'text', 'must hold a tensor of images'),
    (lambda x, y: (x.to(torch.int32), y), 'images must be floats or bytes'),
    (lambda x, y: Evil(), 'cannot be read as tensors'),
])
def test_bad_files(data, forty, tmp_path, what, match, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(what(*forty), 'a.pt')
    with pytest.raises(ValueError, match=match): read_set('a.pt', data)
    assert not (tmp_path/'marker').exists()


def test_other_bad_input(data, tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file'): read_set('nowhere.pt', data)
    with pytest.raises(ValueError, match='path must be a folder or a file .safetensors'): read_set('a.txt', data)
    (tmp_path/'a.npz').write_bytes(b'not a zip')
    with pytest.raises(ValueError, match='cannot be read as tensors'): read_set(tmp_path/'a.npz', data)
    np.savez(tmp_path/'o.npz', images=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match='cannot be read as tensors'): read_set(tmp_path/'o.npz', data)
    with pytest.raises(ValueError, match="scale must be one of auto, normalised, pixels, bytes, .*got 'grey'"): read_set('a.pt', data, scale='grey')
