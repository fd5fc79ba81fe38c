"""A dozen small seeded runs, whose results a change of structure must not change. `python tests/test_goldens.py` writes
them anew, which is right only where results are meant to change."""
import hashlib
import json
import platform
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dd_nb.all import *

FILE = Path(__file__).with_name('goldens.json')


def data(): return load_data('digits', size=8, dtype=torch.float64)


def smooth(d, **kw): return lambda seed=None: make_net('MLP', shape=d.shape, n_classes=10, hidden=(16,), act='tanh', seed=seed, **kw)


def convolutional(d):
    kw = dict(width=4, depth=2, norm='batch', act='softplus', pool='avg')
    return lambda seed=None: make_net('ConvNet', shape=d.shape, n_classes=10, seed=seed, **kw)


def noisy(d):
    def make(seed=None):
        net = make_net('MLP', shape=d.shape, n_classes=10, hidden=(16,), act='tanh', seed=seed)
        return nn.Sequential(*list(net)[:-1], nn.Dropout(.3), net[-1])
    return make


def run(tmp_path, start='real', inner='sgd', make=smooth, source=None, objective=Unroll, seed=0, steps=2, epochs=2, bn='tracked',
        soft=False, cut=None, **kw):
    "The set after a few outer steps."
    d = data()
    new = make(d)
    args = dict(steps=steps, epochs=epochs, lr=.02 if inner == 'adam' else .1, inner=inner, seed=1)
    syn = Synthetic.noise(d.shape, 10, **args).to(dtype=torch.float64) if start == 'noise' else getattr(Synthetic, start)(d, **args)
    if soft: syn = syn.softened('smoothed', 'softmax')
    if bn != 'tracked': syn = syn.with_bn(bn, new(0), d, per_class=2)
    if source is None: source = FixedInit(new(0))
    elif source == 'random': source = RandomInit(new, 0)
    else: source = source(new, d, tmp_path)
    objective = objective(d, new, tmp_path) if getattr(objective, '__name__', '') == '<lambda>' else objective()
    a = dict(iters=4, every=2, batch_size=64, n_valid=100, n_eval=2, keep='last', progress=False, seed=seed, **kw)
    if cut:
        class Cut:
            def after_step(self, loop):
                if loop.it == 2: raise StopDistill
        distill(syn.copy(), source, d, objective, **a, cbs=[Cut()], checkpoint=tmp_path/'run')
        a['checkpoint'] = tmp_path/'run'
    distill(syn, source, d, objective, **a)
    return syn


def aging(new, d, tmp_path): return AgingPool(RandomInit(new, 0), size=3, max_age=4, inner='adam')
def pool(new, d, tmp_path): return pretrain(new, d, tmp_path/'pool', 4, 1, progress=False)
def trajectories(d, new, tmp_path):
    return TrajectoryMatch(record_experts(new, d, tmp_path/'experts', 2, records=4, every=3, progress=False), span=1, max_start=2)


RUNS = dict(
    sgd=dict(start='noise'), momentum=dict(inner='momentum', objective=lambda *_: Unroll('recompute')),
    adam=dict(inner='adam', objective=lambda *_: Unroll('segments'), soft=True), window=dict(objective=lambda *_: Unroll('graph', window=2), source='random'),
    random=dict(source='random', n_nets=2, average=.9), batchnorm=dict(make=convolutional), calibrated=dict(make=convolutional, bn='calibrated'),
    learned=dict(make=convolutional, bn='learned', inner='momentum'), dropout=dict(make=noisy, source='random'), aging=dict(source=aging, objective=lambda *_: FeatureRidge()),
    pool=dict(source=pool), kernel=dict(objective=lambda *_: KernelRidge()), gradient=dict(source='random', objective=lambda *_: GradientMatch()),
    distribution=dict(source='random', objective=lambda *_: DistributionMatch('crop_rotate')), trajectory=dict(objective=lambda *a: trajectories(*a)),
    resumed=dict(source='random', inner='adam', cut=True))


def result(name, tmp_path):
    "Digest of images and step sizes, and some of their numbers."
    syn = run(tmp_path, **RUNS[name])
    x, lrs = syn.images.detach().contiguous(), syn.lrs.detach().contiguous()
    digest = hashlib.sha256(x.numpy().tobytes() + lrs.numpy().tobytes()).hexdigest()[:16]
    return dict(digest=digest, images=x.flatten()[::97].tolist(), lrs=lrs.tolist())


def here():
    try: cpu = next(l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name'))
    except (OSError, StopIteration): cpu = platform.processor()
    return [cpu, torch.__version__, torch.backends.cpu.get_cpu_capability()]


@pytest.mark.parametrize('name', RUNS)
def test_a_run_ends_where_it_did(name, tmp_path):
    want, threads = json.loads(FILE.read_text()), torch.get_num_threads()
    torch.set_num_threads(1)
    try: got, golden = result(name, tmp_path), want['runs'][name]
    finally: torch.set_num_threads(threads)
    if here() == want['machine']: assert got['digest'] == golden['digest']
    if RUNS[name].get('make') is noisy and torch.__version__ != want['machine'][1]: pytest.skip('another torch draws other masks')
    for k in ('images', 'lrs'): assert got[k] == pytest.approx(golden[k], rel=1e-6, abs=1e-6)


if __name__ == '__main__':
    import tempfile
    torch.set_num_threads(1)
    out = {}
    for name in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as tmp: out[name] = result(name, Path(tmp))
    old = json.loads(FILE.read_text())['runs'] if FILE.exists() and sys.argv[1:] else {}
    text = json.dumps(dict(machine=here(), runs={**old, **out}), indent=0)
    FILE.write_text(text + '\n')
