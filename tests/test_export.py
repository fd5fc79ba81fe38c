"Sets for programs that know nothing of this library."
import csv
import json

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

from dd_nb import cli
from dd_nb.all import MLP, Synthetic, data_from_tensors, load_data
from dd_nb.core import BadArgument
from dd_nb.export import EXPORTS, plain_parts
from dd_nb.soft_labels import confusion  # noqa: F401 - it gives S soft labels
from dd_nb.structure import functional
from dd_nb.train import trained


@pytest.fixture(scope='module')
def syn(digits): return Synthetic.means(digits, ipc=2, epochs=3, lr=.1)


def test_tensors_are_those_of_the_set(syn, digits, tmp_path):
    d = torch.load(syn.export(tmp_path/'a.pt', 'pt'), weights_only=True)
    again = (d['images'] - d['mean'])/d['std']
    assert torch.allclose(again, syn.images.flatten(0, 1), atol=1e-5) and torch.equal(d['labels'], syn.labels.flatten())
    assert d['class_names'] == digits.classes and torch.equal(d['lrs'], syn.lrs.detach()) and (d['steps'], d['epochs'], d['inner']) == (1, 3, 'sgd')


def test_a_loop_of_ordinary_pytorch_arrives_where_the_set_does(syn, digits, tmp_path):
    d = torch.load(syn.export(tmp_path/'a.pt', 'pt'), weights_only=True)
    x, net = (d['images'] - d['mean'])/d['std'], MLP(digits.shape, 10, seed=0)
    want = trained(syn, functional(net)).params
    opt = torch.optim.SGD(net.parameters(), lr=1)
    for lr in d['lrs']:
        opt.param_groups[0]['lr'] = lr.item()
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x), d['labels']).backward()
        opt.step()
    assert all(torch.allclose(p, want[k], atol=1e-5) for k, p in net.named_parameters())


def test_arrays_are_read_back_as_data(syn, digits, tmp_path):
    a = np.load(syn.export(tmp_path/'a.npz', 'npz'))
    assert a['x'].shape == (20, 1, 8, 8) and a['y'].tolist() == syn.labels.flatten().tolist() and list(a['class_names']) == digits.classes
    back = load_data(tmp_path/'a.npz', test_frac=.5)
    assert back.shape == digits.shape and back.n_classes == 10


def test_pictures_for_torchvision(syn, digits, tmp_path):
    found = ImageFolder(syn.export(tmp_path/'f'))
    assert found.classes == digits.classes and len(found) == 20


def test_the_layout_of_hugging_face(syn, digits, tmp_path):
    soft = syn.softened('smoothed')
    for s, name in ((syn, 'hard'), (soft, 'soft')):
        folder = s.export(tmp_path/name, 'hf')
        rows = list(csv.DictReader((folder/'train'/'metadata.csv').open()))
        assert sorted(r['file_name'] for r in rows) == sorted(p.name for p in (folder/'train').glob('*.png')) and len(rows) == 20
        assert [r['label'] for r in rows] == [digits.classes[c] for c in syn.labels.flatten()]
    assert json.loads(rows[0]['soft_label']) == pytest.approx(soft.labels[0, 0].tolist())
    assert json.loads((folder/'about.json').read_text())['class_names'] == digits.classes


def test_other_normalisations_are_handed_out_as_networks_see_them(tmp_path):
    d = load_data('digits', size=8, zca=True)
    parts = plain_parts(Synthetic.means(d))
    assert 'mean' not in parts and torch.allclose(parts['images'], Synthetic.means(d).images[0], atol=1e-5)


def test_an_order_and_numbers_go_along(tmp_path):
    d = data_from_tensors(torch.randn(40, 3), torch.randn(40, 2), task='numbers', name='n', classes=['a', 'b'])
    s = Synthetic.real(d, ipc=6).minibatches(3)
    parts = torch.load(s.export(tmp_path/'n.pt', 'pt'), weights_only=True)
    assert torch.equal(parts['order'], s.order) and parts['labels'].shape == (6, 2) and parts['class_names'] == ['a', 'b']
    for to in ('hf', 'folder'):
        with pytest.raises(BadArgument, match="be 'classes' for a folder of pictures"): s.export(tmp_path/to, to)


def test_what_is_refused(syn, tmp_path, blobs):
    with pytest.raises(BadArgument, match=f'to must be one of {", ".join(EXPORTS)}'): syn.export(tmp_path/'x', 'tfrecord')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'a').touch()
    for to in ('folder', 'hf'):
        with pytest.raises(BadArgument, match='be a new or an empty folder'): syn.export(tmp_path/'full', to)
    with pytest.raises(ValueError, match='cannot be written'): syn.export(tmp_path/'no'/'a.pt', 'pt')
    with pytest.raises(BadArgument, match='be npz or pt'): Synthetic.real(blobs).export(tmp_path/'b', 'hf')
    assert not (tmp_path/'b').exists()


@pytest.mark.parametrize('to', EXPORTS)
def test_by_a_command(syn, tmp_path, capsys, monkeypatch, to):
    monkeypatch.chdir(tmp_path)
    syn.save('ten.safetensors')
    cli.dd_export('ten.safetensors', to=to)
    said = capsys.readouterr().out.split()
    assert said[0] == 'saved' and (tmp_path/said[1]).exists()
    with pytest.raises(SystemExit) as e: cli.dd_export('ten.safetensors', to=to, out='ten.safetensors')
    assert e.value.code == 2
