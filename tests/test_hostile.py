"Files from strangers: nothing in them is believed, and nothing in them runs."
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from forge import Bomb, head_of, npy_claim, ours_again, png, torch_file
from safetensors.torch import load as st_load
from safetensors.torch import save as st_save

from dd_nb.data import load_data
from dd_nb.readers import data_from_folder
from dd_nb.files import read_set
from dd_nb.evaluation import stored_source
from dd_nb.format import FORMAT, digest, read_tensors, write_tensors
from dd_nb.inits import FixedInit,known_net,stored_init
from dd_nb.pools import PretrainedPool,pretrain
from dd_nb.networks import MLP, make_net
from dd_nb.synthetic import Synthetic


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


@pytest.fixture
def file(data, tmp_path): return Synthetic.noise(data.shape, 10, seed=0).save(tmp_path/'a.safetensors')


def forged(blob, tensors=None, head=None):
    "The same file with other tensors and header, and the checksum that belongs to them."
    def change(t, h): h.update(head or {}); return t | (tensors or {})
    return ours_again(blob, change)


def test_every_single_bit_counts(file):
    "Any flip of one bit, in tensors, names, header or length, is found: a sample of the tensors' bits, and of the rest every one."
    blob = file.read_bytes()
    n = 8 + struct.unpack('<Q', blob[:8])[0]
    for i in [*range(8*8), *range(8*8, 8*n, 3), *range(8*n, 8*len(blob), 997)]:
        b = bytearray(blob)
        b[i//8] ^= 1 << i % 8
        file.write_bytes(b)
        with pytest.raises(ValueError, match='not a readable dd_nb file|has format'): Synthetic.load(file)
    file.write_bytes(blob)
    Synthetic.load(file)


@pytest.mark.parametrize('tensors, head, why', [
    (dict(images=torch.full((1, 10, 1, 8, 8), float('nan'))), {}, 'images must be finite'), (dict(lrs=torch.tensor([[.1, .1, .1]])), {}, 'lrs must have one dimension'),
    (dict(raw_lrs=torch.zeros(7)), {}, 'raw_lrs and lrs differ'), (dict(raw_lrs=torch.zeros(3, dtype=torch.complex64)), {}, 'raw_lrs must be real'), (dict(labels=torch.zeros(3, dtype=torch.long)), {}, 'labels'), ({}, dict(meta=7), 'meta must be an object'), ({}, dict(inner='newton'), 'inner must be'),
    ({}, dict(n_classes='ten'), 'n_classes|TypeError'), ({}, dict(epochs=-1), 'epochs'), ({}, dict(learn=['weights']), 'learn'), ({}, dict(kind='network'), 'it holds a network, not a set'), ({}, dict(kind=3), 'it holds a 3'),
    ({}, dict(format='2'), 'names no format'), ({}, dict(format=True), 'names no format'), ({}, dict(format=-1), 'names no format'), ({}, dict(format=FORMAT + 1, dd_nb='9.9'), 'written by dd_nb 9.9; .* upgrade with pip')])
def test_a_checksum_that_fits_is_not_enough(file, tensors, head, why):
    file.write_bytes(forged(file.read_bytes(), tensors, head))
    with pytest.raises(ValueError, match=why) as e: Synthetic.load(file)
    assert str(file) in str(e.value) and len(str(e.value).splitlines()) == 1


def test_sizes_are_bounded_before_anything_is_read(file):
    with pytest.raises(ValueError, match='at most 100 are read'): read_tensors(file, limit=100)
    file.write_bytes(struct.pack('<Q', 2**40) + b'{}')
    with pytest.raises(ValueError, match='a header of 1099511627776 bytes'): Synthetic.load(file)


def test_files_of_the_first_format_are_still_read(file):
    "Their checksum stood in the header and covered the tensors alone."
    blob = file.read_bytes()
    head = head_of(blob)
    t = st_load(blob)
    h = {k: v for k, v in head.items() if k != 'kind'} | dict(format=1, sha256=digest(t))
    want = Synthetic.load(file)
    file.write_bytes(st_save(t, dict(dd_nb=json.dumps(h))))
    assert torch.equal(Synthetic.load(file).images, want.images)
    file.write_bytes(st_save(t | dict(images=t['images'] + 1), dict(dd_nb=json.dumps(h))))
    with pytest.raises(ValueError, match='do not match their checksum'): Synthetic.load(file)


def test_a_network_of_a_terabyte_is_not_made(data, tmp_path):
    "A few bytes can name it; its shapes are looked at without memory."
    spec = dict(name='MLP', shape=[1, 8, 8], n_classes=10, hidden=[10**6, 10**6])
    for bad in (spec, dict(spec, name='Nothing'), dict(spec, hidden='wide'), dict(spec, rm='-rf'), 7, dict(spec, shape=[10**9, 10**9])):
        with pytest.raises(ValueError): known_net(bad)
    with pytest.raises(ValueError, match='4,000,'): known_net(spec)
    with pytest.raises(ValueError, match='would have'): stored_init(dict(spec=spec, params={}, buffers={}))
    syn = Synthetic.noise(data.shape, 10, seed=0)
    syn.meta['source'] = dict(source='RandomInit', net=spec)
    with pytest.raises(ValueError, match='would have'): stored_source(syn)
    for name in ('LeNet', 'ConvNet', 'AlexCifarNet', 'VGG11', 'ResNet18', 'AlexNet', 'MLP', 'Logistic'):
        for init in ('xavier', 'kaiming', 'orthogonal', 'default'): assert known_net(make_net(name, shape=(1, 28, 28), n_classes=10, **({'init': init} if name != 'Logistic' else {})).spec)


def test_a_pool_holds_networks_of_one_kind(data, tmp_path):
    pretrain(lambda: MLP(data.shape, 10, hidden=(4,)), data, tmp_path, 3, 1, progress=False)
    files = sorted(tmp_path.glob('net-*'))
    tensors, head = read_tensors(files[1], 'network')
    write_tensors(files[1], tensors, dict(head, accuracy='x'), 'network')
    with pytest.raises(ValueError, match='another kind of network'): PretrainedPool(tmp_path)
    Synthetic.noise(data.shape, 10).save(files[1])
    with pytest.raises(ValueError, match='it holds a set, not a network'): PretrainedPool(tmp_path)
    with pytest.raises(ValueError, match='it holds a network, not a set'): Synthetic.load(files[0])


@pytest.mark.parametrize('name, blob, why', [
    ('a.pt', lambda m: torch_file(Bomb(m)), 'cannot be read as tensors'), ('a.pt', lambda m: torch_file((torch.zeros(10, 1, 8, 8), Bomb(m)), old=True), 'cannot be read as tensors'),
    ('a.pth', lambda m: pickle.dumps(Bomb(m)), 'cannot be read'), ('a.npz', lambda m: pickle.dumps(Bomb(m)), 'cannot be read'),
    ('a.pt', lambda m: torch_file(torch.zeros(1).expand(10**15)), 'holds a tensor of 4,000,000,000,000,000 bytes'), ('a.pt', lambda m: torch_file(torch.zeros(1).expand(10**15), old=True), 'holds a tensor of'),
    ('a.pt', lambda m: torch_file(torch.eye(3).to_sparse()), 'not a plain one'), ('a.pt', lambda m: torch_file(torch.zeros(10, 1, 8, 8, device='meta')), 'not a plain one'),
    ('a.npz', lambda m: npy_claim('(10000000000, 1, 8, 8)'), 'says it has 2,560,000,000,000 bytes'), ('a.npz', lambda m: npy_claim('(1000000, 1, 8, 8)', bytes(50_000_000)), 'unpacked it says it has'), ('a.npz', lambda m: npy_claim('(10, 1, 8, 8)', b'xx'), 'cannot be read'),
    ('a.npz', lambda m: npy_claim('(-5, 1, 8, 8)'), 'cannot be read')])
def test_files_of_others(data, tmp_path, name, blob, why):
    (tmp_path/name).write_bytes(blob(tmp_path/'mark'))
    with pytest.raises(ValueError, match=why): read_set(tmp_path/name, data)
    assert not (tmp_path/'mark').exists()


def test_objects_in_an_archive_do_not_run(data, tmp_path):
    np.savez(tmp_path/'a.npz', images=np.array([Bomb(tmp_path/'mark')], dtype=object), others=data.x_train[:10].numpy(), labels=np.arange(10))
    with pytest.raises(ValueError): read_set(tmp_path/'a.npz', data)
    assert not (tmp_path/'mark').exists()


def test_a_picture_that_says_it_is_huge(data, tmp_path):
    for c in data.classes:
        (tmp_path/c).mkdir()
        (tmp_path/c/'0.png').write_bytes(png(9_000, 8_000))
    for f in (lambda: read_set(tmp_path, data), lambda: data_from_folder(tmp_path, size=8)):
        with pytest.raises(ValueError, match='says it has 9000 x 8000 pixels'): f()


def test_the_stored_weights_must_be_those_of_the_network(data):
    syn = Synthetic.noise(data.shape, 10, seed=0)
    init = FixedInit(MLP(data.shape, 10, hidden=(4,))).stored()
    with pytest.raises(ValueError, match='do not fit'): stored_init(dict(init, params={k: v[:1] for k, v in init['params'].items()}))
    assert syn.init is None
