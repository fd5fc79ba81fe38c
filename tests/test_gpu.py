"`make gpu DRY_RUN=1`: every part of what a GPU is asked to show, in toy sizes on a CPU."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
ROOT = Path(__file__).parent.parent
PARTS = ['tests', 'exact', 'flows', 'hypergrad', 'judge', 'families', 'distil', 'compiled']


def gpu(*args, cwd):
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, ROOT/'tools/gpu.py', *map(str, args)], cwd=cwd, capture_output=True, text=True, env=env)


def test_a_dry_run_walks_through_every_part(tmp_path):
    r = gpu('--dry-run', '--out', 'out', cwd=tmp_path)
    assert r.returncode == 0, r.stdout + r.stderr
    got = json.loads((tmp_path/'out/gpu.json').read_text())
    assert got['dry_run'] and list(got['parts']) == PARTS and list(got['seconds']) == PARTS
    rows = {f'{p}: {k}': row for p, part in got['parts'].items() for k, row in part.items()}
    faults = {k: row['fault'] for k, row in rows.items() if 'fault' in row}
    assert not {k: v for k, v in faults.items() if not v.startswith('ModuleNotFoundError')}        # higher and torchopt are optional
    assert not [k for k, row in rows.items() if 'cut' in row or row.get('ok') is False or row.get('error', 0) > 1e-4], rows
    assert got['parts']['exact']['LeNet']['worst64'] < 1e-10 and (tmp_path/'out/gpu-cifar10-dm-10.safetensors').exists()


def test_a_row_that_fails_says_where_and_the_next_one_runs(tmp_path):
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import gpu, math, time\n"
            "c = gpu.Context('out', 'cpu'); c.results = dict(parts={}); c.ends = time.perf_counter() + 3\n"
            "c.row('p', 'bad', lambda: gpu.make_net('LeNet', shape=(1, 28, 28), n_classes=0)); c.row('p', 'good', lambda: dict(value=1)); c.row('p', 'slow', time.sleep, 60); c.row('p', 'late', time.sleep, 0)")
    r = subprocess.run([sys.executable, '-c', code, str(ROOT/'tools')], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert r.returncode == 0, r.stderr
    rows = json.loads((tmp_path/'out/gpu.json').read_text())['parts']['p']
    assert rows['bad']['fault'].startswith('BadArgument: n_classes') and rows['bad']['place'].startswith('dd_nb/networks.py:')
    assert rows['good']['value'] == 1 and 'cut off' in rows['slow']['cut'] and rows['late']['cut'] == 'no time left'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path):
    r = gpu('--out', 'out', cwd=tmp_path)
    assert r.returncode and r.stderr.strip() == 'no GPU was found: --dry-run walks through all parts on a CPU' and not (tmp_path/'out').exists()
    assert 'parts must be among' in gpu('--dry-run', '--parts', 'all', cwd=tmp_path).stderr
