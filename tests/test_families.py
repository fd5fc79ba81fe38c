"The table of all methods, and their recipes."
import json
from pathlib import Path

import pytest

from dd_nb.bench import families, plot_families, print_families
from dd_nb.cli import dd_reproduce
from dd_nb.protocols import PROTOCOLS,Protocol
from dd_nb.families import FAMILIES, WORDS, plot_workflow
from dd_nb.recipes import OBJECTIVES,get_recipe


def test_the_loop_knows_no_method():
    import dd_nb
    text = (Path(dd_nb.__file__).parent/'distill.py').read_text().lower()
    for word in ('kernel', 'gradientmatch', 'gradient_match', 'trajectory', 'distribution_matching', 'expert', 'frepo', 'poison', 'families'): assert word not in text

def test_workflow():
    assert set(OBJECTIVES) >= {get_recipe(f'mnist-{m}-1').objective for m in FAMILIES}
    assert len(plot_workflow().axes[0].texts) >= len(FAMILIES)*len(WORDS)
    with pytest.raises(ValueError, match='methods'): plot_workflow(('x',))

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
