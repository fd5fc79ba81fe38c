"Our files: what goes in comes out, damage is noticed, and nothing is half-written."
import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from test_synthetic import ORDER, ordered

from dd_nb.data import load_data
from dd_nb.evaluation import evaluate
from dd_nb.format import read_tensors, write_atomic
from dd_nb.inits import FixedInit
from dd_nb.networks import MLP
from dd_nb.rules import Inner
from dd_nb.synthetic import Synthetic


@pytest.fixture(scope='module')
def data(): return load_data('digits')


@pytest.fixture
def means(data): return Synthetic.means(data, lr=.1)


def test_round_trip(means, tmp_path):
    means.init = dict(spec=dict(name='LeNet'), params=dict(w=torch.randn(3)), buffers=dict(n=torch.tensor(3)))
    means.meta['note'] = 'x'
    again = Synthetic.load(means.save(tmp_path/'a.safetensors'))
    for k in ('images', 'labels', 'raw_lrs'): assert torch.equal(getattr(again, k), getattr(means, k))
    assert again.meta == json.loads(json.dumps(means.meta)) and again.inner == means.inner and again.epochs == 3
    assert torch.equal(again.init['params']['w'], means.init['params']['w']) and again.init['buffers']['n'] == 3
    assert again.images.requires_grad and again.raw_lrs.requires_grad
    assert all(torch.equal(v, again.norm.state()[k]) for k, v in means.norm.state().items())


def test_a_small_file_keeps_weights_in_16_bits_and_all_else_as_it_is(data, tmp_path):
    net = MLP(data.shape, 10, seed=0)
    syn = Synthetic.means(data, lr=.1)
    syn.init = FixedInit(net).stored()
    whole, small = (syn.save(tmp_path/n, small=n == 'b') for n in 'ab')
    assert small.stat().st_size < .6*whole.stat().st_size
    again = Synthetic.load(small)
    for k in ('images', 'labels', 'raw_lrs'): assert torch.equal(getattr(again, k), getattr(syn, k))
    for k, v in syn.init['params'].items():
        w = again.init['params'][k]
        assert w.dtype == torch.float32 and torch.equal(w, v if v.dim() < 2 else v.half().float())
    assert all(torch.equal(v, again.norm.state()[k]) for k, v in syn.norm.state().items())   # a mean and a deviation are no vectors
    assert evaluate(again, None, data).mean == pytest.approx(evaluate(syn, None, data).mean, abs=.05)
    head = read_tensors(small)[1]
    assert head['small'] is True and head['format'] == 4


def test_weights_that_16_bits_cannot_hold_stay_as_they_are(data, tmp_path):
    syn = Synthetic.means(data)
    syn.init = dict(spec=None, params=dict(w=torch.full((2, 2), 1e5)), buffers={})
    assert torch.equal(Synthetic.load(syn.save(tmp_path/'a', small=True)).init['params']['w'], syn.init['params']['w'])


def test_soft_labels_round_trip(data, tmp_path):
    syn = Synthetic(torch.randn(2, 5, 1, 28, 28), torch.rand(2, 5, 10), learn=('images', 'labels', 'lrs'), inner='adam')
    assert [k for k in syn.named_parameters()] == ['images', 'raw_labels', 'raw_lrs']
    again = Synthetic.load(syn.save(tmp_path/'a.safetensors'))
    assert torch.equal(again.labels, syn.labels) and again.labels.requires_grad and again.inner == Inner('adam')
    syn.show()


def test_a_flipped_bit_is_noticed(means, tmp_path):
    path = means.save(tmp_path/'a.safetensors')
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ValueError, match='checksum'): Synthetic.load(path)


@pytest.mark.parametrize('keep', [0, 4, 8, 100, 2000, -1])
def test_truncated_files(means, tmp_path, keep):
    path = means.save(tmp_path/'a.safetensors')
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match='not a readable dd_nb file'): Synthetic.load(path)


def test_files_of_another_kind(tmp_path):
    path = tmp_path/'a.safetensors'
    save_file(dict(images=torch.zeros(3)), path)
    with pytest.raises(ValueError, match='no dd_nb header'): Synthetic.load(path)
    path.write_bytes(struct.pack('<Q', 2**40) + b'{}')
    with pytest.raises(ValueError, match='not a readable dd_nb file'): Synthetic.load(path)
    torch.save(dict(a=1), path)
    with pytest.raises(ValueError, match='not a readable dd_nb file'): Synthetic.load(path)
    with pytest.raises(FileNotFoundError, match='there is no file'): Synthetic.load(tmp_path/'none')


def test_files_from_the_future(means, tmp_path, monkeypatch):
    monkeypatch.setattr('dd_nb.format.FORMAT', 99)
    path = means.changed(inner=dict(loss='mse')).save(tmp_path/'a.safetensors')   # which format 3 does not know
    monkeypatch.undo()
    with pytest.raises(ValueError, match='format 99.*upgrade'): Synthetic.load(path)


def test_unwritable_outputs_leave_nothing_behind(means, tmp_path):
    with pytest.raises(ValueError, match='cannot be written'): means.save(tmp_path/'no'/'folder'/'a.safetensors')
    (tmp_path/'d').mkdir()
    with pytest.raises(ValueError, match='cannot be written'): means.save(tmp_path/'d')
    assert [p.name for p in tmp_path.iterdir()] == ['d']


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path/'a'
    write_atomic(path, b'old')
    def broken(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', broken)
    with pytest.raises(ValueError, match='No space left'): write_atomic(path, b'new')
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('learn', [('images', 'lrs'), ('lrs',)])
def test_round_trip_with_an_order(tmp_path, learn):
    syn = ordered(learn=learn)
    again = Synthetic.load(syn.save(tmp_path/'a.safetensors'))
    assert torch.equal(again.order, ORDER) and torch.equal(again.raw_lrs, syn.raw_lrs) and again.n_steps == 4 and again.epochs == syn.epochs
    assert repr(again) == repr(syn)
    tensors, head = read_tensors(tmp_path/'a.safetensors')
    assert torch.equal(tensors['order'], ORDER) and head['format'] == 3   # nothing in it is newer
    plain = Synthetic.load(ordered(None, lr=.1).save(tmp_path/'b.safetensors'))
    assert plain.order is None and plain.n_steps == 6 and 'order' not in read_tensors(tmp_path/'b.safetensors')[0]


def test_a_flipped_bit_in_the_order_is_noticed(tmp_path):
    path = ordered().save(tmp_path/'a.safetensors')
    blob, row = path.read_bytes(), ORDER.numpy().tobytes()
    assert blob.count(row) == 1
    i = blob.index(row)
    path.write_bytes(blob[:i] + bytes([blob[i] ^ 1]) + blob[i+1:])   # 5 becomes 4: an order that no other check would refuse
    with pytest.raises(ValueError, match='checksum'): Synthetic.load(path)


@pytest.mark.parametrize('then', [lambda a, b: b, lambda a, b: b'', lambda a, b: a[:len(a)//2]])
def test_a_loaded_set_stays_what_was_checked(data, tmp_path, then):
    "Whatever is written into the file afterwards, in place."
    s = Synthetic.real(data, order=torch.arange(10)[None])
    s.init = dict(spec=dict(name='LeNet'), params=dict(w=torch.randn(1000)), buffers=dict(n=torch.tensor(3)))
    a, b = s.save(tmp_path/'a').read_bytes(), Synthetic.noise(data.shape, 10).save(tmp_path/'b').read_bytes()
    got = Synthetic.load(tmp_path/'a')
    with open(tmp_path/'a', 'r+b') as f: f.write(then(a, b)); f.truncate(len(then(a, b)))
    assert torch.equal(got.images, s.images) and torch.equal(got.init['params']['w'], s.init['params']['w']) and torch.equal(got.order, s.order)
    assert torch.equal(got.norm.mean, s.norm.mean) and torch.equal(got.init['buffers']['n'], s.init['buffers']['n'])


def test_what_is_loaded_lies_where_torch_puts_tensors(data, tmp_path):
    "The last bit of a product may depend on the alignment of memory, and a run that is taken up must be the uninterrupted one."
    s = Synthetic.real(data)
    s.init = dict(params=dict(a=torch.randn(3), b=torch.randn(5, 7), c=torch.randn(11)), buffers={})
    tensors, _ = read_tensors(s.save(tmp_path/'a'))
    assert list(tensors) == sorted(tensors), 'sums over them are taken in one order'
    assert all(t.data_ptr() % 64 == torch.empty(t.numel()).data_ptr() % 64 for t in tensors.values())


def test_a_loaded_set_is_not_the_file(tmp_path):
    "Another file copied over it in place, then an empty one: images, labels and initial weights stay."
    data = load_data('digits', size=8)
    syn = Synthetic.real(data, steps=3, epochs=2)
    syn.init = FixedInit(MLP(data.shape, 10, hidden=(16,), seed=0)).stored()
    a, b = tmp_path/'a.safetensors', tmp_path/'b.safetensors'
    syn.save(a)
    other = syn.changed(images=-syn.images.detach())
    other.init['params'] = {k: -v for k, v in other.init['params'].items()}
    other.save(b)
    got = Synthetic.load(a)
    want = {k: v.clone() for k, v in got.init['params'].items()}
    score = evaluate(got, data=data).all
    for blob in (b.read_bytes(), b''):
        with open(a, 'r+b') as f: f.write(blob); f.truncate(len(blob))
        assert torch.equal(got.images, syn.images) and all(torch.equal(want[k], v) for k, v in got.init['params'].items())
        assert evaluate(got, data=data).all == score
