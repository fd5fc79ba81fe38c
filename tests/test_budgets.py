"Ways to store a set at equal bytes."
import json

import pytest

from dd_nb.budgets import BUDGET_ROWS, budget_recipe, budgets, print_budgets
from dd_nb.data import load_data
from dd_nb.protocols import Protocol
from dd_nb.recipes import recipe_start


@pytest.fixture(scope='module')
def digits8(): return load_data('digits', size=8)


@pytest.mark.parametrize('ipc', [1, 10])
@pytest.mark.parametrize('row', BUDGET_ROWS)
def test_every_row_stays_within_the_budget(digits8, row, ipc):
    "Of bytes of images, but for the ranges that quantised ones keep."
    syn = recipe_start(budget_recipe(row, 'dm', digits8, ipc), digits8)
    allowed, used = 10*ipc*64*4, syn.bytes_by_part()['images']
    ranges = 8*10*ipc*BUDGET_ROWS[row][0] + 20 if 'bits' in (BUDGET_ROWS[row][1] or {}) else 0
    assert .7*allowed <= used <= allowed + ranges


def test_unrolling_takes_about_forty_steps(digits8):
    for row in BUDGET_ROWS:
        for ipc in (1, 10):
            syn = recipe_start(budget_recipe(row, 'dd', digits8, ipc), digits8)
            x, _, _ = syn.batch(0)
            assert 32 <= syn.n_steps <= 40 and len(x) <= 50, (row, ipc)


def test_the_table_is_made_once(tmp_path, capsys):
    def run(**kw):
        return budgets(progress=False, folder=tmp_path, tables=[('digits', 1)], rows=('pixels', 'both'), methods=('dm',), iters=2, nets=1,
                       protocol=Protocol(epochs=2), net=dict(name='MLP'), **kw)
    out = run()
    rows = out['tables'][0]['methods']['dm']
    assert rows['pixels']['examples'] == 10 and rows['both']['examples'] == 160 and rows['both']['image_bytes'] < 1.05*rows['pixels']['image_bytes']
    files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert run()['tables'] == json.loads(json.dumps(out['tables'])) and {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == files
    print_budgets(json.loads(json.dumps(out)))
    assert 'dm both' in capsys.readouterr().out
    with pytest.raises(ValueError, match='rows must be one of pixels'): budgets(rows=('none',))
