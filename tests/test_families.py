"The table of all methods, and their recipes."
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dd_nb.bench import families, plot_families, print_families
from dd_nb.cli import dd_reproduce
from dd_nb.evaluate import PROTOCOLS, Protocol
from dd_nb.families import FAMILIES, WORDS, plot_workflow
from dd_nb.zoo import OBJECTIVES, RECIPES, baselines, family_recipe, get_recipe, reproduce


def test_the_loop_knows_no_method():
    import dd_nb
    text = (Path(dd_nb.__file__).parent/'distill.py').read_text().lower()
    for word in ('kernel', 'gradientmatch', 'gradient_match', 'trajectory', 'distribution_matching', 'expert', 'frepo', 'poison', 'families'): assert word not in text

def test_workflow():
    assert set(OBJECTIVES) >= {get_recipe(f'mnist-{m}-1').objective for m in FAMILIES}
    assert len(plot_workflow().axes[0].texts) >= len(FAMILIES)*len(WORDS)
    with pytest.raises(ValueError, match='methods'): plot_workflow(('x',))

@pytest.mark.parametrize('method', FAMILIES)
def test_recipes(method, monkeypatch, tmp_path):
    for name in (f'mnist-{method}-1', f'mnist-{method}-10', f'fashion-mnist-{method}-1'): assert RECIPES[name] == get_recipe(name)
    for ipc in (1, 10, 50, 7):
        r = get_recipe(f'cifar10-{method}-{ipc}')
        assert r.syn['ipc']*r.syn['steps'] == ipc and r.net['width'] == 128 and r.data == 'cifar10'
    small = replace(family_recipe(method, 'digits', 1), name='small', size=8, net=dict(name='ConvNet', width=4, depth=1), syn=dict(family_recipe(method, 'digits', 1).syn, epochs=3), n_nets=2)
    if small.experts: small = replace(small, experts=dict(n=2, records=3, every=2), unroll=dict(span=1, max_start=2, epochs=5))
    if small.unroll.get('window'): small = replace(small, unroll=dict(small.unroll, window=2))
    monkeypatch.setitem(RECIPES, 'small', small)
    syn,history,score = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64, checkpoint=tmp_path/'run')
    assert 0 <= score.mean <= 1 and len(syn) == 10 and len(syn.meta['curve']['seconds']) == len(history.it) == 3
    json.dumps(syn.meta)
    same,_,again = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64)
    assert torch.equal(same.images, syn.images) and again.all == score.all
    if method == 'kip': assert len(score.all) == 1 and set(baselines('small', many=2)) >= {'random real images', 'class means'}

def test_unknown_recipes():
    with pytest.raises(ValueError, match='method'): family_recipe('x')
    with pytest.raises(ValueError, match='name must be one of'): get_recipe('mnist-x-1')
    with pytest.raises(ValueError, match='ipc'): family_recipe('dm', ipc=0)

def test_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PROTOCOLS, 'plain', Protocol(epochs=2))
    kw = dict(folder=tmp_path, progress=False, tables=(('digits', 1),), methods=('kip', 'dm'), archs={'MLP': dict(name='MLP')}, nets=dict(plain=2), repeats=1, seeds={'digits-kip-1': (0, 1)}, iters=2, every=1, n_eval=1, batch_size=32)
    out = families(**kw)
    json.dumps(out)
    rows = out['tables'][0]['rows']
    assert list(rows) == ['random real', 'class means', 'herding', 'kip', 'dm'] and rows['kip']['seeds'] == 2 and rows['kip']['accuracy']['plain']['sets'] == 2
    assert {p.name for p in tmp_path.glob('*.safetensors')} == {'digits-kip-1-s0.safetensors', 'digits-kip-1-s1.safetensors', 'digits-dm-1-s0.safetensors'} and not list(tmp_path.glob('*.run'))
    assert out['cost']['dm']['whole'] > 0 and out['cost']['dm']['bytes'] >= 0
    monkeypatch.setattr('dd_nb.bench.benchmark', None)
    monkeypatch.setattr('dd_nb.bench.reproduce', None)   # nothing is made or judged again
    assert {**families(**kw), 'machine': 0} == {**out, 'machine': 0}
    print_families(out)
    assert 'digits, 1 a class' in capsys.readouterr().out
    assert len(plot_families(out).axes) == 6

def test_table_from_the_command_line(monkeypatch, tmp_path, capsys):
    table = dict(benchmark='families', seed=0, nets=1, protocols={}, machine={}, tables=[], cost={}, cost_of=['mnist', 1], not_run=[['cifar10', 1]])
    asked = []
    monkeypatch.setattr('dd_nb.cli.families', lambda *a, **kw: asked.append((a, kw)) or table)
    dd_reproduce('families', out=str(tmp_path), quiet=True)
    assert json.loads((tmp_path/'families.json').read_text()) == table and (tmp_path/'families.png').exists() and 'not run here: cifar10 1 a class' in capsys.readouterr().out
    assert asked[0][1]['folder'] == tmp_path/'families'
    with pytest.raises(SystemExit) as e: dd_reproduce('families', out=str(tmp_path), iters=3)
    assert e.value.code == 2 and 'iters must be left out' in capsys.readouterr().err
