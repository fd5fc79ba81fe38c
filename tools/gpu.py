"""What one GPU can show of dd_nb, in order of worth, in eight minutes: `make gpu`, or `make gpu DRY_RUN=1` for a walk through all of it on a CPU.

- tests:      the tests that are skipped where there is no GPU
- exact:      hypergradients in float64 and float32 against the CPU's, stacks of networks against one by one, accuracies against the CPU's
- flows:      small runs of everything, once with `device='cuda'` and once under `torch.set_default_device('cuda')`
- hypergrad:  time and memory of every strategy beside stepwise, whole graph, higher and torchopt; of four networks at once; as CUDA graphs
- judge:      `evaluate` and `benchmark` of twenty networks beside one by one
- families:   outer steps a second of every method of the review
- distil:     distillations of fixed length, whose sets are kept
- compiled:   compiled steps, which take a minute to compile

Each row stands by itself: one that fails is reported by its error and the line of dd_nb that raised it, and the next one runs. After every row the results so
far are written to OUT/gpu.json. A part ends when its seconds are over, whatever it is doing.

Data are read from DATA/mnist.npz and DATA/cifar10.npz, if `--data` names a folder that `--pack` has filled, else by `load_data`."""
import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dd_nb.contenders import CONTENDERS,Problem
from dd_nb.speed_bench import outer_step_cost
from dd_nb.coresets import coreset
from dd_nb.normalise import Normalise
from dd_nb.augment import Siamese,standard_augment
from dd_nb.data import data_from_tensors,load_data,split_validation
from dd_nb.core import no_progress
from dd_nb.distillation import TimeLimit, distill
from dd_nb.distribution_matching import DistributionMatch
from dd_nb.protocols import Protocol,benchmark,cross_architecture,fit
from dd_nb.ordinary import accuracy
from dd_nb.evaluation import evaluate,stored_source,tune_lr
from dd_nb.gradient_matching import GradientMatch
from dd_nb.pools import AgingPool,PretrainedPool,pretrain
from dd_nb.inits import FixedInit,Mixture,RandomInit,judges
from dd_nb.kernel import FeatureRidge, KernelRidge
from dd_nb.networks import make_net
from dd_nb.poisoning import Poison, attack
from dd_nb.soft_labels import confusion
from dd_nb.synthetic import BN_POLICIES, Synthetic
from dd_nb.text import data_from_texts
from dd_nb.trajectory_matching import TrajectoryMatch, record_experts
from dd_nb.unrolling import STRATEGIES,Unroll,adjoint_norms
from dd_nb.speed import hypergradients
from dd_nb.gradcheck import check_gradient
from dd_nb.structure import functional,stack
from dd_nb.speed import real_loss
from dd_nb.train import trained
from dd_nb.recipes import family_recipe,get_recipe,recipe_objective,recipe_source,recipe_start
from dd_nb.zoo import reproduce

ROOT = Path(__file__).resolve().parent.parent
SECONDS = dict(tests=40, exact=60, flows=100, hypergrad=115, judge=35, families=45, distil=300, compiled=80)   # at most; with --budget, no more than are left
RESERVED = 75   # of the budget, for what comes after the distillations
PACKED = 7000   # training images of CIFAR-10 that are packed: all of them would not fit where little can be carried


# Harness

class TimeUp(BaseException):
    "The seconds of a part are over. No `except Exception` on the way swallows it."


@contextmanager
def at_most(seconds):
    "Raises TimeUp after so many seconds, and again every other second, should somebody swallow it."
    def ring(number, frame): raise TimeUp
    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, .01), 2)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def said(e):
    "An error in one line, and the innermost line of dd_nb that it came through."
    text = ' '.join(f'{type(e).__name__}: {e}'.split())[:300]
    places = [f'dd_nb/{Path(f.filename).name}:{f.lineno} in {f.name}' for f in traceback.extract_tb(e.__traceback__)
              if Path(f.filename).parent.name == 'dd_nb' and Path(f.filename).name != 'core.py']   # not where a check stands, but who asked
    return dict(fault=text, place=places[-1] if places else None)


class Context:
    "What the parts share: the device, sizes, results and the clock."
    def __init__(self, out, device, dry=False, toy=False, data=None, budget=math.inf):
        self.out, self.device, self.dry, self.toy, self.data = Path(out).resolve(), torch.device(device), dry, dry or toy, data and Path(data)
        self.started, self.budget, self.ends, self.results = time.perf_counter(), budget, math.inf, {}
        self.tmp = Path(tempfile.mkdtemp())
        self.out.mkdir(parents=True, exist_ok=True)

    @property
    def cuda(self): return self.device.type == 'cuda'
    def sync(self):
        if self.cuda: torch.cuda.synchronize()
    def left(self): return min(self.ends, self.started + self.budget) - time.perf_counter()

    def row(self, part, name, f, *args, **kwargs):
        "Call `f`; its result, or its error, becomes a row of the part."
        rows = self.results['parts'].setdefault(part, {})
        if self.left() <= 0:
            rows[name] = dict(cut='no time left')
            self.write()
            return None
        before, caught = time.perf_counter(), []
        try:
            with at_most(self.left()), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                r = f(*args, **kwargs)
            rows[name] = r if isinstance(r, dict) else dict(ok=True) if r is None else dict(value=r)
        except TimeUp: rows[name] = dict(cut=f'cut off after {time.perf_counter() - before:.0f} s')
        except Exception as e: rows[name] = said(e)
        rows[name]['took'] = round(time.perf_counter() - before, 3)
        if heard := list(dict.fromkeys(' '.join(str(w.message).split())[:160] for w in caught if 'dd_nb' in str(w.filename) or issubclass(w.category, UserWarning))):
            rows[name]['warnings'] = heard[:3]
        self.write()
        r = rows[name]
        print(f'{part}: {name}: ' + (r.get('fault') or r.get('cut') or ' '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in r.items() if not isinstance(v, (dict, list)))), flush=True)
        return r

    def write(self):
        path = self.out/'gpu.json'
        path.with_suffix('.tmp').write_text(json.dumps(self.results, indent=1, default=str))
        os.replace(path.with_suffix('.tmp'), path)


def machine(ctx):
    "The card, and versions."
    m = dict(torch=torch.__version__, python=sys.version.split()[0], cuda=torch.version.cuda, date=time.strftime('%Y-%m-%d'), card='none: a dry run on a CPU', cores=os.cpu_count())
    if ctx.cuda:
        p = torch.cuda.get_device_properties(ctx.device)
        m |= dict(card=p.name, memory=p.total_memory, cudnn=torch.backends.cudnn.version())
    return m


# Data

def pack(folder):
    "Write MNIST, and a balanced part of CIFAR-10 with the normalisation of all of it, as bytes into a folder."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, most in (('mnist', None), ('cifar10', PACKED)):
        d = load_data(name, device='cpu')
        x, y, xt, yt = d.raw_train, d.y_train, d.raw_test, d.y_test
        if most:
            idx = torch.cat([(y == c).nonzero()[:most//d.n_classes, 0] for c in range(d.n_classes)]).sort().values
            x, y = x[idx], y[idx]
            xt, yt = xt[:100], yt[:100]   # the real ones judge elsewhere
        np.savez_compressed(folder/f'{name}.npz', x=x.numpy(), y=y.byte().numpy(), xt=xt.numpy(), yt=yt.byte().numpy(), mean=d.norm.mean.numpy(), std=d.norm.std.numpy(), classes=d.classes)
        print(f'{name}: {len(y)} + {len(yt)}, {(folder/f"{name}.npz").stat().st_size/2**20:.1f} MB')


def real_data(ctx, name):
    "A real set on the device; for a dry run the digits, in colour for CIFAR-10."
    if ctx.dry:
        d = load_data('digits', device='cpu', size=32 if name == 'cifar10' else None, channels=3 if name == 'cifar10' else None)
        return d.to(ctx.device)
    if ctx.data is None: return load_data(name, device=ctx.device)
    with np.load(ctx.data/f'{name}.npz') as z: z = dict(z)
    x, y, xt, yt = (torch.from_numpy(z[k]) for k in ('x', 'y', 'xt', 'yt'))
    norm = Normalise(torch.from_numpy(z['mean']), torch.from_numpy(z['std']))
    return data_from_tensors(x, y.long(), xt, yt.long(), name=name, classes=[str(c) for c in z['classes']], device=ctx.device, norm=norm)


# Measures

def distance(a, b):
    "Largest relative difference of two lists of gradients."
    return max(((u.double().cpu() - v.double().cpu()).norm()/v.double().cpu().norm().clamp(min=1e-300)).item() for u, v in zip(a, b))


@contextmanager
def tf32(on):
    "Whether convolutions and products of matrices may round their factors to TF32, inside."
    c, m = torch.backends.cudnn, torch.backends.cuda.matmul
    before = c.allow_tf32, m.allow_tf32
    c.allow_tf32 = m.allow_tf32 = on
    try: yield
    finally: c.allow_tf32, m.allow_tf32 = before


def seconds(ctx, f, repeats=5):
    "Seconds of each call, the device waited for."
    out = []
    for _ in range(repeats):
        ctx.sync()
        t = time.perf_counter()
        f()
        ctx.sync()
        out.append(time.perf_counter() - t)
    return out


def peak(ctx, f):
    "Bytes of device memory that a call takes at its peak, above what was there before."
    if not ctx.cuda: f(); return None
    ctx.sync()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    f()
    ctx.sync()
    return torch.cuda.max_memory_allocated() - before


def on(problem, device):
    "A `Problem` on another device."
    p = problem
    p.net, p.syn, p.states = p.net.to(device), p.syn.to(device), [s.to(device) for s in p.states]
    p.batches = [tuple(v.to(device) for v in b) for b in p.batches]
    p.state, p.batch = p.states[0], p.batches[0]
    return p


# Parts

def part_tests(ctx):
    report = ctx.out/'tests.xml'
    files = [str(ROOT/'tests'/f'test_{n}.py') for n in (('networks',) if ctx.dry else ('unroll', 'text', 'data', 'networks'))]
    def run():
        names = 'gpu or cuda or seed_and_device'
        r = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', names, f'--junitxml={report}', *files], cwd=ROOT, capture_output=True, text=True, timeout=max(1, ctx.left()))
        if not report.exists(): raise RuntimeError(f'pytest ended with {r.returncode}: {(r.stdout + r.stderr)[-250:]}')
        out = dict(passed=0, skipped=0, failed={})
        for case in ET.parse(report).iter('testcase'):
            bad = next((e for e in case if e.tag in ('failure', 'error')), None)
            if bad is not None: out['failed'][case.get('name')] = ' '.join((bad.get('message') or '').split())[:300]
            else: out['skipped' if case.find('skipped') is not None else 'passed'] += 1
        report.unlink()
        return out
    ctx.row('tests', 'tests that need a GPU', run)


def _exact_cases():
    def case(net, shape, inner='sgd', n_classes=3, lr=.05, **kw): return dict(net=dict(name=net, shape=shape, n_classes=n_classes, **kw), inner=inner, lr=lr)
    return {'LeNet': case('LeNet', (1, 28, 28)), 'LeNet, momentum': case('LeNet', (1, 28, 28), 'momentum', lr=.02), 'ConvNet, instance norm': case('ConvNet', (3, 16, 16), width=16),
            'ConvNet, BatchNorm': case('ConvNet', (3, 16, 16), width=16, norm='batch'), 'MLP, Adam': case('MLP', (1, 8, 8), 'adam', lr=.005),
            'TextRNN, lstm': case('TextRNN', (7, 12), width=16), 'TextTransformer': case('TextTransformer', (7, 12), width=16), 'TextCNN, Adam': case('TextCNN', (7, 12), 'adam', lr=.005, width=8),
            'AlexNet': case('AlexNet', (3, 32, 32)), 'ResNet18, BatchNorm': case('ResNet18', (3, 16, 16), norm='batch', lr=.01), 'VGG11, BatchNorm': case('VGG11', (3, 32, 32), norm='batch', lr=.01)}


def _exact(ctx, c, nets=1):
    "S, states and batches of a case, in float64 on the CPU."
    g, f64 = torch.Generator().manual_seed(0), torch.float64
    def randn(*s): return torch.randn(s, generator=g, dtype=f64)
    shape, k = c['net']['shape'], c['net']['n_classes']
    syn = Synthetic(randn(2, 2*k, *shape), torch.arange(k).repeat(2).expand(2, -1), k, 3, c['lr'], c['inner'])
    states = [replace(functional(make_net(**c['net'], seed=i).double()), seed=i) for i in range(nets)]
    return syn, states, [(randn(32, *shape), torch.randint(k, (32,), generator=g)) for _ in states]


def _grads(problem, device, dtype, **kw):
    syn, states, batches = problem
    syn, states = syn.copy().to(device, dtype), [s.to(device, dtype) for s in states]
    return hypergradients(Unroll(**kw), syn, states, [(x.to(device, dtype), y.to(device)) for x, y in batches], **({} if len(states) == 1 else dict(stacked=False)))[1]


def part_exact(ctx):
    f64, f32 = torch.float64, torch.float32
    cases = _exact_cases()
    if ctx.dry: cases = {k: cases[k] for k in ('LeNet', 'MLP, Adam')}
    def one(c):
        p = _exact(ctx, c)
        with torch.random.fork_rng(): want = _grads(p, 'cpu', f64, strategy='graph')
        out = dict(float64={}, float32={}, tf32={}, errors={})
        for s in STRATEGIES[1:]:
            for key, dtype, fast in (('float64', f64, False), ('float32', f32, False), ('tf32', f32, True)):
                try:
                    with tf32(fast): out[key][s] = distance(_grads(p, ctx.device, dtype, strategy=s), want)
                except Exception as e: out['errors'][f'{key}, {s}'] = said(e)
        out['float32 on the CPU'] = distance(_grads(p, 'cpu', f32, strategy='graph'), want)
        if not out['errors']: del out['errors']
        worst = {k: max(out[k].values(), default=math.nan) for k in ('float64', 'float32', 'tf32')}
        return out | dict(worst64=worst['float64'], worst32=worst['float32'], worst_tf32=worst['tf32'],
                          ok=worst['float64'] < 1e-10 and worst['float32'] < max(1e-4, 5*out['float32 on the CPU']))   # Adam's first steps divide by small numbers
    def exactly(cases):
        for name, c in cases.items(): ctx.row('exact', name, one, c)
    big = ('AlexNet', 'ResNet18, BatchNorm', 'VGG11, BatchNorm')   # last: their references take the CPU some seconds
    exactly({k: c for k, c in cases.items() if k not in big})
    for name in list(cases)[:5]:
        def stacked(c=cases[name]):
            p, out = _exact(ctx, c, 3), {}
            for key, dtype in (('float64', f64), ('float32', f32)):
                syn, states = p[0].copy().to(ctx.device, dtype), [s.to(ctx.device, dtype) for s in p[1]]
                batches = [(x.to(ctx.device, dtype), y.to(ctx.device)) for x, y in p[2]]
                with tf32(False):
                    both = [hypergradients(Unroll('recompute'), syn, states, batches, stacked=v)[1] for v in (True, False)]
                out[key] = distance(*both)
            return out | dict(ok=out['float64'] < 1e-10 and out['float32'] < 1e-3)
        ctx.row('exact', f'{name}, stacked against one by one', stacked)
    cpu = load_data('digits', device='cpu')
    def judged(net, f):
        source, there = RandomInit(lambda: make_net(**net, shape=cpu.shape, n_classes=10), 0), cpu.to(ctx.device)
        with tf32(False): a, b = f(source, cpu), f(source, there)
        far = max(abs(u - v) for u, v in zip(a.all, b.all))
        return dict(cpu=a.mean, device=b.mean, largest=far, ok=far < .02)
    n = 2 if ctx.toy else 6
    syn = Synthetic.real(cpu, ipc=2, epochs=20, lr=.01, inner='momentum')
    for net in (dict(name='LeNet'), dict(name='ConvNet', width=16), dict(name='ConvNet', width=16, norm='batch'))[:1 if ctx.dry else None]:
        said_net = ' '.join(map(str, net.values()))
        ctx.row('exact', f'evaluate, {said_net}', judged, net, lambda source, d: evaluate(syn, source, d, n))
        ctx.row('exact', f'benchmark, {said_net}', judged, net, lambda source, d: benchmark(syn, d, source, Protocol(epochs=20), n))
    exactly({k: c for k, c in cases.items() if k in big})


class _Dropout(nn.Sequential):
    "A network that draws random numbers in training."
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(.3), nn.Linear(16, 10))


def _flows(ctx, given):
    """Name -> small run. With `given`, each is told the device by the arguments that it has; without, by torch's default device alone. What a run only needs is made
    outside, on the CPU or moved there by `.to`, so that each speaks for itself."""
    dev, kw = ctx.device, dict(device=ctx.device) if given else {}
    with torch.device('cpu'):
        small = data_from_tensors(*(lambda d: (d.raw_train[:400], d.y_train[:400], d.raw_test[:200], d.y_test[:200]))(load_data('digits')), name='digits').to(dev)
        start = Synthetic.real(small, epochs=2, lr=.05)
        likes = ['good', 'fine', 'great'], ['bad', 'poor', 'dull']
        texts = [f'a {w} film' for ws in likes for w in ws]*4, [0, 0, 0, 1, 1, 1]*4
    short = dict(iters=3, batch_size=16, n_valid=50, every=2, n_eval=2, progress=False, seed=0)
    def lenet(seed=None): return make_net('LeNet', shape=small.shape, n_classes=10, seed=seed)
    def conv(norm='instance', seed=None): return make_net('ConvNet', shape=small.shape, n_classes=10, width=4, depth=2, norm=norm, seed=seed)
    def fresh(f=lenet): return RandomInit(f, 0)
    def pinned():
        with torch.device('cpu'): return FixedInit(lenet(0))
    def syn(): return start.copy()
    def run(s=None, source=None, objective=None, data=small, **more): return distill(syn() if s is None else s, fresh() if source is None else source, data, objective, **short, **kw, **more)
    def where(t):
        if t.device.type != dev.type: raise AssertionError(f'a result is on {t.device}, not on {dev}')
    def folder(name): return ctx.tmp/f'{"given" if given else "default"}-{name}'
    flows = {}
    def flow(name):
        def add(f): flows[name] = f
        return add

    @flow('load_data')
    def _(): where(load_data('digits', **kw).raw_train)
    @flow('load_data with zca')
    def _(): where(load_data('digits', size=8, zca=True, **kw).x_test)
    @flow('data_from_tensors')
    def _(): where(data_from_tensors(torch.rand(30, 1, 8, 8, device='cpu'), torch.arange(30, device='cpu') % 3, **kw).x_train)
    @flow('data_from_texts')
    def _(): where(data_from_texts(*texts, *texts, dim=4, length=4, **kw).x_train)
    @flow('batch, of a class, seeded, unseeded')
    def _(): small.batch(4); small.batch(4, small.generator(1)); small.batch(4, torch.Generator('cpu').manual_seed(0)); small.batch(2, classes=3, replace=False)
    @flow('balanced batch')
    def _(): where(small.batch(20, small.generator(1), balanced=True)[0])
    @flow('split_validation')
    def _(): where(split_validation(small, 50).raw_test)
    @flow('digest and describe')
    def _(): small.describe()
    @flow('augmentation')
    def _(): where(standard_augment(small)(small.x_test)); where(Siamese('color_crop_cutout_flip_scale_rotate', every=True)(small.x_test))
    for kind in ('real', 'means', 'kmeans'):
        @flow(f'Synthetic.{kind}')
        def _(kind=kind): where(getattr(Synthetic, kind)(small, ipc=2).images)
    @flow('Synthetic.noise')
    def _(): Synthetic.noise(small.shape, 10)
    @flow('Synthetic.noise, distilled')
    def _(): run(Synthetic.noise(small.shape, 10))
    @flow('Synthetic.minibatches, shuffled, changed')
    def _(): syn().minibatches(5, 2).changed(bn='frozen'); syn().shuffled()
    @flow('softened')
    def _(): syn().softened('smoothed', 'softmax'); syn().softened('random'); syn().softened('hard')
    @flow('Synthetic.shared')
    def _(): Synthetic.shared(small)
    @flow('confusion')
    def _(): confusion(functional(lenet(0)).to(dev), small)
    for kind in ('herding', 'kcenter', 'nearest'):
        @flow(f'coreset, {kind}')
        def _(kind=kind): where(coreset(kind, small, 2).images)
    @flow('save and load')
    def _():
        s = syn()
        s.save(folder('s.safetensors'))
        again = Synthetic.load(folder('s.safetensors'))
        if not torch.equal(again.images.cpu(), s.images.cpu()): raise AssertionError('loaded images differ')
    @flow('show, to_image_folder, to_dataset')
    def _(): s = syn(); s.show(); s.to_image_folder(folder('images')); s.to_dataset()[0]
    @flow('make_net, seeded')
    def _(): lenet(3); conv(seed=3); make_net('ResNet18', shape=(3, 16, 16), n_classes=10, seed=0)
    @flow('functional and trained')
    def _(): where(next(iter(trained(syn(), functional(lenet(0)).to(dev)).params.values())))
    @flow('Synthetic.train')
    def _(): syn().train(lenet(0).to(dev))
    @flow('distill, fixed')
    def _(): s = syn(); run(s, pinned()); where(s.images)
    @flow('distill, random')
    def _(): s = syn(); run(s); where(s.images)
    @flow('distill, unseeded')
    def _(): distill(syn(), RandomInit(lenet), small, **{**short, 'seed': None}, **kw)
    @flow('distill, Adam inside, minibatches')
    def _(): run(syn().minibatches(5, 2).changed(inner='adam', lr=.005))
    @flow('distill, soft labels')
    def _(): run(syn().softened('smoothed', 'softmax'))
    @flow('distill, three networks')
    def _(): run(n_nets=3)
    @flow('distill, average')
    def _(): run(average=.9)
    @flow('distill, balanced')
    def _(): run(balanced=True)
    @flow('distill, dropout')
    def _(): run(source=fresh(_Dropout))
    @flow('distill, dropout, three networks')
    def _(): run(source=fresh(_Dropout), n_nets=3)
    for bn in BN_POLICIES:
        @flow(f'distill and evaluate, BatchNorm {bn}')
        def _(bn=bn):
            s = syn().with_bn(bn, conv('batch', 0), small)
            run(s, fresh(lambda: conv('batch')))
            evaluate(s, fresh(lambda: conv('batch')), small, 2, progress=False)
    for k, more in {'recompute': dict(strategy='recompute'), 'segments, offloaded': dict(strategy='segments', offload=True), 'window': dict(window=1), 'augmented': dict(augment=True), 'all at once': dict(chunk=None)}.items():
        @flow(f'distill, {k}')
        def _(more=more): run(objective=Unroll(**{**more, **(dict(augment=standard_augment(small)) if 'augment' in more else {})}))
    @flow('distill, segments, offloaded')
    def _(): run(objective=Unroll('segments', offload=True))
    @flow('distill, checkpoint and resume')
    def _():
        whole, part = syn(), syn()
        run(whole)
        from dd_nb.checkpoints import Interrupted
        class Stop:
            def after_step(self, loop):
                if loop.it == 2: raise Interrupted('here')
        try: run(part, cbs=[Stop()], checkpoint=folder('run'))
        except Interrupted: pass
        part = syn()
        run(part, checkpoint=folder('run'))
        if not torch.allclose(part.images, whole.images, rtol=1e-4, atol=1e-5): raise AssertionError('a run that was taken up again ended elsewhere')
    @flow('distill leaves the random state alone')
    def _():
        before = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if dev.type == 'cuda' else [])]
        run(source=fresh(_Dropout))
        after = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if dev.type == 'cuda' else [])]
        if not all(map(torch.equal, before, after)): raise AssertionError('distill has changed the random state of ' + ', '.join(('the CPU', *(f'GPU {i}' for i in range(len(before))))[i] for i in range(len(before)) if not torch.equal(before[i], after[i])))
    @flow('AgingPool')
    def _(): run(source=AgingPool(fresh(), size=2, max_age=2), objective=FeatureRidge())
    @flow('AgingPool, checkpoint and resume')
    def _():
        def again(n): distill(syn(), AgingPool(fresh(), size=2, max_age=2), small, FeatureRidge(), **{**short, 'iters': 4}, **kw, checkpoint=folder('aging'), cbs=[TimeLimit(0 if n == 0 else 1e9)])
        again(0); again(1)
    @flow('pretrain and PretrainedPool')
    def _():
        pretrain(lenet, small, folder('pool'), n=3, epochs=1, progress=False)
        run(source=PretrainedPool(folder('pool'), noise=.1, seed=0))
    @flow('Mixture')
    def _(): run(source=Mixture(fresh(), fresh(lambda: conv())))
    for name, make in {'KernelRidge': KernelRidge, 'FeatureRidge': FeatureRidge, 'GradientMatch': GradientMatch, 'GradientMatch, mse': lambda: GradientMatch('mse'), 'DistributionMatch': DistributionMatch,
                       'Poison': lambda: Poison(3, 5, weight=2., shy=.1)}.items():
        @flow(f'objective {name}')
        def _(make=make): run(objective=make())
    @flow('objective GradientMatch, augmented')
    def _(): run(objective=GradientMatch(augment=standard_augment(small)))
    @flow('objective DistributionMatch, augmented, BatchNorm')
    def _(): run(source=fresh(lambda: conv('batch')), objective=DistributionMatch(standard_augment(small)))
    @flow('objective GradientMatch, BatchNorm')
    def _(): run(source=fresh(lambda: conv('batch')), objective=GradientMatch())
    @flow('objective TrajectoryMatch')
    def _():
        experts = record_experts(lenet, small, folder('experts'), n=2, records=3, every=2, progress=False, augment=standard_augment(small))
        run(objective=TrajectoryMatch(experts, span=1, max_start=1, epochs=3, augment=standard_augment(small)))
    @flow('attack with a poison')
    def _():
        attack(syn(), fresh(), small, 3, 5, 2)
    @flow('evaluate')
    def _(): evaluate(syn(), fresh(), small, 3, progress=False)
    @flow('evaluate by the stored source')
    def _(): s = syn(); run(s, pinned()); evaluate(s, None, small, progress=False); stored_source(s)
    @flow('evaluate, dropout, twice alike')
    def _():
        a, b = (evaluate(syn(), fresh(_Dropout), small, 3, progress=False).all for _ in range(2))
        if a != b: raise AssertionError(f'one seed, two results: {a} and {b}')
    @flow('tune_lr')
    def _(): tune_lr(syn(), fresh(), small, (.01, .1), 2, progress=False)
    @flow('benchmark, plain')
    def _(): benchmark(syn(), small, 'LeNet', Protocol(epochs=2), 3, progress=False)
    @flow('benchmark, tuned and augmented')
    def _(): benchmark(syn(), small, 'LeNet', Protocol(epochs=2, lrs=(.01, .1), augment='standard'), 2, progress=False)
    @flow('benchmark, dropout, twice alike')
    def _():
        a, b = (benchmark(syn(), small, _Dropout, Protocol(epochs=20), 3, progress=False).all for _ in range(2))
        if a != b: raise AssertionError(f'one seed, two results: {a} and {b}')
    @flow('benchmark, plain, twice alike')
    def _():
        a, b = (benchmark(syn(), small, dict(name='ConvNet', width=8), Protocol(epochs=10), 3, progress=False).all for _ in range(2))
        if a != b: raise AssertionError(f'one seed, two results: {a} and {b}')
    @flow('benchmark, pairs')
    def _(): benchmark([(small.x_train[:20].cpu(), small.y_train[:20].cpu())], small, 'LeNet', Protocol(epochs=2), 1, progress=False)
    @flow('cross_architecture')
    def _(): cross_architecture(syn(), small, ['MLP', 'LeNet'], protocol=Protocol(epochs=1), n_nets=2, progress=False)
    @flow('accuracy of a module')
    def _(): accuracy(lenet(0).to(dev), small)
    @flow('fit')
    def _(): fit(lenet(0).to(dev), small.x_train[:20], small.y_train[:20], Protocol(epochs=2))
    @flow('adjoint_norms')
    def _():
        x, y = small.batch(16, small.generator(0))
        adjoint_norms(syn(), functional(lenet(0)).to(dev), lambda s: real_loss(s, x, y))
    @flow('check_gradient')
    def _():
        net = make_net('Logistic', shape=(1, 4, 4), n_classes=2, seed=0)
        s = Synthetic.noise((1, 4, 4), 2, epochs=2, seed=0)
        c = check_gradient(net.to(dev), s.to(dev), directions=1)
        if not c.ok: raise AssertionError(str(c))
    @flow('text, TextCNN and TextRNN')
    def _():
        with torch.device('cpu'): d = data_from_texts(*texts, *texts, dim=4, length=4, min_count=1).to(dev)
        for net in ('TextCNN', 'TextRNN', 'TextTransformer'):
            s = Synthetic.real(d, epochs=2)
            distill(s, RandomInit(lambda net=net: make_net(net, shape=d.shape, n_classes=2, width=4), 0), d, **{**short, 'n_valid': 8}, **kw)
            evaluate(s, RandomInit(lambda net=net: make_net(net, shape=d.shape, n_classes=2, width=4), 0), d, 2, progress=False)
    @flow('reproduce demo')
    def _(): reproduce('demo', iters=2, every=2, n_valid=50, progress=False, **kw)
    @flow('dd_distill and dd_evaluate')
    def _():
        how = ['--device', dev.type]
        for f, args in (('dd_distill', ['digits', '--iters', '3', '--out', str(folder('cli'))]), ('dd_evaluate', [])):
            if f == 'dd_evaluate':
                made = sorted(folder('cli').rglob('*.safetensors'))
                made = [p for p in made if not p.name.startswith('step-')]
                if not made: raise AssertionError('dd_distill has written no set')
                args = [str(made[0]), '--nets', '2']
            code = f'import sys; sys.argv = {[f, *args, *how]!r}; from dd_nb.cli import {f}; {f}()'
            r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ctx.tmp, timeout=60)
            if r.returncode: raise RuntimeError(f'{f} ended with {r.returncode}: {" ".join((r.stderr or r.stdout).split())[-250:]}')
    return flows


def part_flows(ctx):
    both = {mode: _flows(ctx, mode == 'given') for mode in ('default', 'given')}
    for i, name in enumerate(both['given']):
        for mode, flows in both.items():
            if ctx.dry and i % 6 != 3*(mode == 'given') or name.startswith('dd_') and (ctx.dry or mode == 'default'): continue
            def one(f=flows[name], mode=mode):
                torch.manual_seed(0)
                if mode == 'default': torch.set_default_device(ctx.device)
                try: f()
                finally: torch.set_default_device(None)
            ctx.row('flows', f'{mode}: {name}', one)
    ctx.results['flows that fail'] = {k: r for k, r in ctx.results['parts']['flows'].items() if 'fault' in r}
    ctx.write()


class _Captured:
    "A call recorded as a CUDA graph, and replayed."
    def __init__(self, f): self.f, self.graph = f, None
    def __call__(self, p):
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3): self.f(p)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph): self.got = self.f(p)
        self.graph.replay()
        return self.got


def _ours(**kw):
    objective = Unroll(**kw)
    def f(p):
        loss = objective(p.syn, p.state, p.batch)
        return loss, torch.autograd.grad(loss, p.syn.parameters())
    return f


def _ours_stacked(**kw):
    objective, kept = Unroll(**kw), {}
    def f(p):
        if id(p) not in kept: kept[id(p)] = stack(p.states), tuple(torch.stack(v) for v in zip(*p.batches))
        loss = objective(p.syn, *kept[id(p)])
        return loss, torch.autograd.grad(loss, p.syn.parameters())
    return f


def _one_by_one(f):
    def g(p):
        total = None
        for p.state, p.batch in zip(p.states, p.batches):
            grads = f(p)[1]
            total = list(grads) if total is None else [a + b for a, b in zip(total, grads)]
        p.state, p.batch = p.states[0], p.batches[0]
        return None, [v/len(p.states) for v in total]
    return g


def _rounds(ctx, part, title, p, contenders, ref, base, repeats=5):
    "Contenders in turn, `repeats` times; medians, ratios to `base`, errors against `ref` in float64."
    rows, runs = {}, {}
    def warm(f, exact):
        got, r = {}, dict(first=seconds(ctx, lambda: f(p), 1)[0])
        r['memory'] = peak(ctx, lambda: got.update(grads=f(p)[1]))
        if got['grads'] is not None and exact is not None: r['error'] = distance(got['grads'], exact)
        return r
    exact = {}
    ctx.row(part, f'{title}: reference in float64', lambda: exact.update(grads=ref()))
    for k, f in contenders.items():
        r = ctx.row(part, f'{title}: {k}', warm, f, exact.get('grads'))
        if r and 'first' in r: rows[k], runs[k] = r, []
    names = list(rows)
    for i in range(repeats):
        for k in names[i % len(names):] + names[:i % len(names)] if names else []:
            if ctx.left() <= 0: break
            try:
                with at_most(ctx.left()): runs[k] += seconds(ctx, lambda: contenders[k](p), 1)
            except (TimeUp, Exception) as e: rows[k]['fault in rounds'] = said(e)['fault']
    for k, ts in runs.items():
        if ts: rows[k] |= dict(median=statistics.median(ts), least=min(ts), most=max(ts), rounds=len(ts))
    for r in rows.values():
        if 'median' in r and 'median' in rows.get(base, {}): r['ratio'] = r['median']/rows[base]['median']
    ctx.write()
    if ctx.cuda: torch.cuda.empty_cache()
    print(f'{title}: ' + ', '.join(f"{k} {1e3*r['median']:.1f} ms ({r.get('ratio', math.nan):.2f})" for k, r in rows.items() if 'median' in r), flush=True)


def _tasks(ctx):
    tasks = {'LeNet': dict(net='LeNet', args={}, shape=[1, 28, 28], steps=10, epochs=3, n=10, batch=1024),
             'ConvNet 128': dict(net='ConvNet', args=dict(width=128), shape=[3, 32, 32], steps=10, epochs=3, n=10, batch=256)}
    if not ctx.toy: return tasks
    tasks = {k: {**t, 'steps': 2, 'epochs': 2, 'batch': 32, 'args': {a: min(v, 16) for a, v in t['args'].items()}} for k, t in tasks.items()}
    return {'LeNet': tasks['LeNet']} if ctx.dry else tasks


def _exactly(ctx, task, nets=1):
    "What all contenders are compared with."
    return lambda: _one_by_one(CONTENDERS['whole graph'])(on(Problem(**task, nets=nets, dtype='float64'), ctx.device))[1]


def part_hypergrad(ctx):
    at_once = dict(strategy='graph', chunk=None)
    for name, t in _tasks(ctx).items():
        c = {'stepwise, one by one': _one_by_one(CONTENDERS['stepwise']), 'recompute, one by one': _one_by_one(_ours(strategy='recompute')), 'graph, one by one': _one_by_one(_ours(**at_once)),
             'vmap, recompute': _ours_stacked(strategy='recompute'), 'vmap, graph': _ours_stacked(**at_once)}
        if ctx.cuda: c['captured vmap, graph'] = _Captured(_ours_stacked(**at_once))
        with tf32(False): _rounds(ctx, 'hypergrad', f'{name}, 4 networks', on(Problem(**t, nets=4), ctx.device), c, _exactly(ctx, t, 4), 'stepwise, one by one', 2 if ctx.toy else 3)
        c = {k: CONTENDERS[k] for k in ('stepwise', 'plain', 'whole graph', 'graph', 'recompute', 'segments', 'higher', 'torchopt')}
        c |= {'graph, all at once': _ours(**at_once), 'recompute, all at once': _ours(strategy='recompute', chunk=None)}
        if ctx.cuda: c |= {f'captured {k}': _Captured(f) for k, f in (('graph', _ours(**at_once)), ('recompute', _ours(strategy='recompute', chunk=None)), ('stepwise', CONTENDERS['stepwise']))}
        with tf32(False): _rounds(ctx, 'hypergrad', name, on(Problem(**t), ctx.device), c, _exactly(ctx, t), 'stepwise', 2 if ctx.toy else 5)
    if ctx.cuda:
        c = {'stepwise': CONTENDERS['stepwise'], 'graph, all at once': _ours(**at_once)}
        with tf32(True): _rounds(ctx, 'hypergrad', f'{name}, TF32', on(Problem(**t), ctx.device), c, _exactly(ctx, t), 'stepwise', 2 if ctx.toy else 3)


def part_compiled(ctx):
    for name, t in _tasks(ctx).items():
        c = {'stepwise': CONTENDERS['stepwise'], 'compiled': _ours(strategy='recompute', chunk=None, **({} if ctx.toy else dict(compile=True)))}
        with tf32(False): _rounds(ctx, 'compiled', name, on(Problem(**t), ctx.device), c, _exactly(ctx, t), 'stepwise', 2 if ctx.toy else 5)


def part_judge(ctx):
    nets = 2 if ctx.toy else 20
    for name, spec in (('mnist', dict(name='LeNet')), ('cifar10', dict(name='ConvNet', width=4 if ctx.toy else 128)))[:1 if ctx.dry else None]:
        data = real_data(ctx, name)
        with torch.device('cpu'): syn = Synthetic.real(data, ipc=10, epochs=3 if ctx.toy else 40, lr=.01, inner='momentum')
        source = RandomInit(lambda spec=spec, data=data: make_net(**spec, shape=data.shape, n_classes=10), 0)
        def states(n, source=source, data=data): return judges(source.to(data.device, data.dtype), n, 0)
        frozen = syn.copy()
        for v in frozen.parameters(): v.requires_grad_(False)
        def evaluated(n, syn=syn, source=source, data=data): return evaluate(syn, source, data, n, progress=False).all
        def each(n, frozen=frozen, states=states, data=data): return [accuracy(trained(frozen, s), data) for s in states(n)]
        p = Protocol(epochs=3 if ctx.toy else 60)
        def benchmarked(n, syn=syn, source=source, data=data): return benchmark(syn, data, source, p, n, progress=False).all
        def fitted(n, syn=syn, states=states, data=data):
            x, y = syn.images.detach().flatten(0, 1), syn.labels.flatten(0, 1)
            return [accuracy(fit(s.module(), x, y, p, i, tick=lambda: None), data) for i, s in enumerate(states(n))]
        for what, many, one in (('evaluate', evaluated, each), ('benchmark', benchmarked, fitted)):
            def compare(many=many, one=one):
                out, got = {}, {}
                for k, f in (('stacked', many), ('one by one', one)):
                    f(2)
                    def timed(): out[k] = seconds(ctx, lambda: got.update({k: f(nets)}), 1)[0]
                    out[f'{k}, memory'] = peak(ctx, timed)
                return out | dict(ratio=out['stacked']/out['one by one'], mean_stacked=statistics.mean(got['stacked']), mean_one_by_one=statistics.mean(got['one by one']), networks=nets,
                                  largest=max(abs(a - b) for a, b in zip(*got.values())))
            ctx.row('judge', f'{what}, {name} {" ".join(map(str, spec.values()))}', compare)


def part_families(ctx):
    data = real_data(ctx, 'cifar10')
    for m in ('mtt', 'kip') if ctx.dry else ('dd', 'dm', 'dc', 'dsa', 'mtt', 'frepo', 'kip'):
        def one(m=m):
            r = family_recipe(m, 'cifar10', 10, width=128)
            if ctx.toy: r = replace(r, net=dict(name='ConvNet', width=4))
            if r.experts: r = replace(r, experts={**r.experts, 'n': 1 if ctx.toy else 2, **({'every': 1, 'records': 12} if ctx.toy else {})})
            with torch.device('cpu'): start = recipe_start(r, data, 0)
            start.to(data.device, data.dtype)
            source = recipe_source(r, data, 0, pools=ctx.tmp/'pools').to(data.device, data.dtype)
            objective = recipe_objective(r, data, 0, pools=ctx.tmp/'pools')
            if ctx.cuda: torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if ctx.cuda else 0
            c = outer_step_cost(start, source, data, objective, r.distill['batch_size'], 2 if ctx.toy else 20)
            return dict(steps_a_second=1/c['whole'], seconds=c['whole'], update=c['update'], memory=torch.cuda.max_memory_allocated() - before if ctx.cuda else None)
        ctx.row('families', m, one)


class _Until:
    "Ends a run after so many seconds of distilling, at the latest; its schedule follows the clock, so that it always ends at the end."
    def __init__(self, seconds): self.seconds, self.loop = seconds, None
    def before_run(self, loop): self.loop = loop
    def schedule(self, it, iters):
        "Half a cosine over the seconds, in the place of outer steps."
        if self.loop is None: return 1.
        return .5*(1 + math.cos(math.pi*min(1., (time.perf_counter() - self.loop.started)/self.seconds)))


LENGTHS = 80, 45, 80, 60   # seconds of each distillation; less, in this proportion, where less time is left


def _distilled(ctx, name, data, start, source, objective, i, **how):
    "Distil for the `i`-th length, validation not counted, and keep S."
    rest = sum(LENGTHS[i:])
    length = .3 if ctx.dry else 1. if ctx.toy else LENGTHS[i]*min(1, max(0, ctx.left() - 10)/(1.3*rest))
    how = dict(dict(seed=0, progress=False, average=.99, n_valid=.1), **how) | (dict(n_eval=1) if ctx.toy else {})
    def run(s, **kw): return distill(s, source, data, objective, **{**how, **kw})
    few, warm = 2 if ctx.dry else 12, time.perf_counter()
    run(start.copy(), iters=2, every=2)   # finds out what there is to find, and compiles
    warm = time.perf_counter() - warm
    per = max(run(start.copy(), iters=few, every=few, n_valid=0, keep='last').seconds[-1]/few, 1e-4)
    iters, until, t = max(4, int(length/per)), _Until(length), time.perf_counter()
    try: h = run(start, iters=iters*2, every=max(2, iters//12), schedule=until.schedule, cbs=[until, TimeLimit(length)])
    finally:
        start.meta |= dict(made_by='gpu.py')
        start.save(ctx.out/f'{name}.safetensors')
    return dict(objective=repr(objective), seconds=h.seconds[-1], outer_steps=h.it[-1], steps_a_second=h.it[-1]/max(h.seconds[-1], 1e-9), validation=h.best_accuracy, best_it=h.best_it, warm=warm, skipped=h.skipped,
                whole=time.perf_counter() - t, curve=[[round(s, 1), round(a, 4)] for s, a in zip(h.seconds, h.accuracy)])


def part_distil(ctx):
    def mnist():
        r, data = get_recipe('mnist-random-100'), real_data(ctx, 'mnist')
        with torch.device('cpu'): start = recipe_start(r, data, 0)
        kw = {k: v for k, v in r.distill.items() if k in ('batch_size', 'lr', 'average')}
        return _distilled(ctx, 'gpu-mnist-random-100', data, start, recipe_source(r, data, 0), Unroll('graph', window=20, chunk=None), 0, n_eval=4, **kw)   # to compile the recipe's steps takes longer than this run
    width = 4 if ctx.toy else 128
    def net(data): return RandomInit(lambda: make_net('ConvNet', shape=data.shape, n_classes=10, width=width), 0)
    def matched():
        data = real_data(ctx, 'cifar10')
        with torch.device('cpu'): start = Synthetic.real(data, ipc=10, steps=1, epochs=2 if ctx.dry else 60, lr=.01, inner='momentum', learn=('images',))
        return _distilled(ctx, 'gpu-cifar10-dm-10', data, start, net(data), DistributionMatch(standard_augment(data)), 1, batch_size=512, lr=.1, n_eval=2)
    def unrolled():
        data = real_data(ctx, 'cifar10')
        with torch.device('cpu'): start = Synthetic.means(data, ipc=1, steps=1, epochs=40, lr=.02, inner='momentum').softened('hard')
        return _distilled(ctx, 'gpu-cifar10-unroll-1', data, start, net(data), Unroll('graph', window=20, chunk=None), 2, n_eval=4, batch_size=256, lr=.03, lr_lrs=.01, lr_labels=.01)
    def known():
        data = real_data(ctx, 'cifar10')
        with torch.device('cpu'): start = Synthetic.real(data, ipc=1, steps=10, epochs=3, lr=.01, inner='momentum')
        source = FixedInit(make_net('AlexCifarNet', shape=data.shape, n_classes=10, seed=0))
        return _distilled(ctx, 'gpu-cifar10-known-100', data, start, source, Unroll('graph', chunk=None), 3, batch_size=256, lr=.03, lr_lrs=.01)
    rows = (('mnist-random-100', mnist), ('CIFAR-10, ConvNet, by DM, 10 a class', matched), ('CIFAR-10, ConvNet, by unrolling, 1 a class', unrolled), ('CIFAR-10, AlexCifarNet, known initialisation, 100 images', known))
    for name, f in rows[1:2] if ctx.dry else rows: ctx.row('distil', name, f)


PARTS = dict(tests=part_tests, exact=part_exact, flows=part_flows, hypergrad=part_hypergrad, judge=part_judge, families=part_families, distil=part_distil, compiled=part_compiled)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--out', default='out/gpu', help='folder for the results')
    a.add_argument('--parts', default=','.join(PARTS), help='which, in which order')
    a.add_argument('--toy', default='', help='parts that are run in toy sizes')
    a.add_argument('--data', help='folder of packed data')
    a.add_argument('--pack', help='write packed data into this folder, and end')
    a.add_argument('--budget', type=float, default=math.inf, help='seconds for everything')
    a.add_argument('--dry-run', action='store_true', help='toy sizes on a CPU')
    a = a.parse_args()
    if a.pack: return pack(a.pack)
    parts = a.parts.split(',')
    for p in (*parts, *filter(None, a.toy.split(','))):
        if p not in PARTS: sys.exit(f'parts must be among {", ".join(PARTS)}, got {p!r}')
    if not a.dry_run and not torch.cuda.is_available(): sys.exit('no GPU was found: --dry-run walks through all parts on a CPU')
    ctx = Context(a.out, 'cpu' if a.dry_run else 'cuda', a.dry_run, data=a.data, budget=a.budget)
    ctx.results = dict(machine=machine(ctx), dry_run=a.dry_run, command=[*sys.argv[1:]], parts={})
    ctx.write()
    with no_progress():
        for part in parts:
            ctx.toy, t = a.dry_run or part in a.toy.split(','), time.perf_counter()
            ctx.ends = t + SECONDS[part]
            if part == 'distil' and 'compiled' in parts: ctx.ends = min(ctx.ends, ctx.started + ctx.budget - RESERVED)
            try: PARTS[part](ctx)
            except (TimeUp, Exception) as e: ctx.results['parts'].setdefault(part, {})['part'] = said(e); print(f'{part}: {said(e)}', flush=True)
            ctx.results.setdefault('seconds', {})[part] = round(time.perf_counter() - t, 1)
            ctx.write()
            if ctx.cuda: torch.cuda.empty_cache()
    print('seconds', ctx.results['seconds'])
    return 0


if __name__ == '__main__': sys.exit(main())
