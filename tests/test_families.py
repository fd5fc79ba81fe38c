"The table of all methods, and their recipes."
import json
from pathlib import Path

import pytest

from dd_nb.cli import dd_reproduce
from dd_nb.families import FAMILIES, WORDS, plot_workflow
from dd_nb.recipes import OBJECTIVES,get_recipe


def test_the_loop_knows_no_method():
    import dd_nb
    text = (Path(dd_nb.__file__).parent/'distillation.py').read_text().lower()
    for word in ('kernel', 'gradientmatch', 'gradient_match', 'trajectory', 'distribution_matching', 'expert', 'frepo', 'poison', 'families'): assert word not in text

def test_workflow():
    assert set(OBJECTIVES) >= {get_recipe(f'mnist-{m}-1').objective for m in FAMILIES}
    assert len(plot_workflow().axes[0].texts) >= len(FAMILIES)*len(WORDS)
    with pytest.raises(ValueError, match='methods'): plot_workflow(('x',))


def test_table_from_the_command_line(monkeypatch, tmp_path, capsys):
    table = dict(benchmark='families', seed=0, nets=1, protocols={}, machine={}, tables=[], cost={}, cost_of=['mnist', 1], not_run=[['cifar10', 1]])
    asked = []
    monkeypatch.setattr('dd_nb.cli.families', lambda *a, **kw: asked.append((a, kw)) or table)
    dd_reproduce('families', out=str(tmp_path), quiet=True)
    assert json.loads((tmp_path/'families.json').read_text()) == table and (tmp_path/'families.png').exists() and 'not run here: cifar10 1 a class' in capsys.readouterr().out
    assert asked[0][1]['folder'] == tmp_path/'families'
    with pytest.raises(SystemExit) as e: dd_reproduce('families', out=str(tmp_path), iters=3)
    assert e.value.code == 2 and 'iters must be left out' in capsys.readouterr().err
