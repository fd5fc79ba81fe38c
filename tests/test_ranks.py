"Several processes, by torchrun: the same result as one, clear failures, and runs that are taken up by another number of processes."
import json
import subprocess
import sys

import pytest
import torch

dist = pytest.importorskip('torch.distributed')
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='torch.distributed with gloo is not in this build of torch')

SCRIPT = '''
import json, os, sys
import torch
torch.set_num_threads(1)
from dd_nb.data import load_data
from dd_nb.distillation import StopDistill, distill
from dd_nb.inits import RandomInit
from dd_nb.ranks import Ranks,join_ranks
from dd_nb.networks import MLP
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll

a = dict(iters=20, nets=4, dtype='float64', stop=None, fail=None, die=None, checkpoint=None, out=None) | json.loads(sys.argv[1])
with join_ranks():
    ranks = Ranks()
    data = load_data('digits', size=8)
    syn = Synthetic.real(data, ipc=1, steps=2, epochs=3, lr=.1, inner='momentum')
    source = RandomInit(lambda: MLP(data.shape, 10, hidden=(16,), act='softplus'), seed=0)
    calls, first = 0, {}
    def objective(syn, state, batch):
        global calls
        calls += 1
        if ranks.rank == 1 and calls == a['fail']: raise ValueError('boom')
        if ranks.rank == 1 and calls == a['die']: os._exit(9)
        return Unroll('recompute')(syn, state, batch)
    class Stop:
        def after_step(self, loop):
            if loop.it == 1: first.update(grad=loop.params['images'].grad.tolist(), loss=loop.loss)
            if ranks.rank == ranks.size - 1 and loop.it == a['stop']: raise StopDistill   # one of them asks
    history = distill(syn, source, data, objective, iters=a['iters'], batch_size=32, n_nets=a['nets'], every=5, average=.9, dtype=getattr(torch, a['dtype']), clip=None,
                      cbs=[Stop()], progress=False, checkpoint=a['checkpoint'], keep='last')
    if ranks.rank == 0 and a['out']: json.dump(dict(first, images=syn.images.tolist(), it=syn.meta['outer_steps'], size=ranks.size, accuracy=history.accuracy), open(a['out'], 'w'))
'''


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp('ranks')/'script.py'
    path.write_text(SCRIPT)
    return path


def run(script, ranks, timeout=240, **args):
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={ranks}'] if ranks > 1 else [sys.executable]
    return subprocess.run([*start, str(script), json.dumps(args)], capture_output=True, text=True, timeout=timeout)


def result(script, ranks, tmp_path, **args):
    out = tmp_path/f'{ranks}.json'
    done = run(script, ranks, out=str(out), **args)
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(out.read_text())
    assert got['size'] == ranks
    return {k: torch.tensor(v, dtype=torch.float64) if k in ('grad', 'images', 'accuracy') else v for k, v in got.items()}


def error(a, b): return ((a - b).norm()/b.norm()).item()


slow = pytest.mark.slow
@pytest.mark.parametrize('nets', [pytest.param(4, marks=slow), 3, pytest.param(1, marks=slow)])   # shared evenly, unevenly, and with nothing to do for one of them
def test_two_processes_give_what_one_gives(script, tmp_path, nets):
    two, one = (result(script, n, tmp_path, nets=nets) for n in (2, 1))
    assert error(two['grad'], one['grad']) <= 1e-10 and two['loss'] == pytest.approx(one['loss'], rel=1e-10)
    assert two['it'] == one['it'] == 20 and error(two['images'], one['images']) <= 1e-8
    assert torch.equal(two['accuracy'], one['accuracy'])


@pytest.mark.slow
def test_two_processes_in_single_precision(script, tmp_path):
    two, one = (result(script, n, tmp_path, iters=1, dtype='float32') for n in (2, 1))
    assert error(two['grad'], one['grad']) <= 1e-4


@pytest.mark.slow
def test_a_run_is_taken_up_by_another_number_of_processes(script, tmp_path):
    "Stopped at the 10th step by the last of two, finished by one; and the other way round."
    whole = result(script, 1, tmp_path)
    for first, second in ((2, 1), (1, 2)):
        kept = str(tmp_path/f'run-{first}.pt')
        half = result(script, first, tmp_path, checkpoint=kept, stop=10)
        assert half['it'] == 10
        rest = result(script, second, tmp_path, checkpoint=kept)
        assert rest['it'] == 20 and error(rest['images'], whole['images']) <= 1e-8


def test_one_that_fails_stops_all_and_says_why(script):
    done = run(script, 2, fail=5)
    assert done.returncode != 0
    assert 'ValueError: boom' in done.stderr and 'process 1 of 2 failed with ValueError: boom' in done.stderr and 'at outer step 2' in done.stderr


@pytest.mark.slow
def test_one_that_dies_stops_all(script):
    assert run(script, 2, die=5, timeout=120).returncode != 0
