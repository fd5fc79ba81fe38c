"""What dd_nb keeps and what it refuses, tried hard: kills, hostile files, random configurations, layouts of data, odd networks. `make soak`, under 15 minutes; cut off, it goes on where it was, unless the code has changed.

1. A distillation of the digits is killed (SIGKILL) a hundred times at random moments, at least thirty of them inside the writing of a checkpoint, and taken up
   again each time. Its result must be that of the uninterrupted run, bit for bit, and no checkpoint may be unreadable.
2. Two thousand damaged or hostile files are fed to every loader. Ours must all be refused, in our own words; those of others must be refused or give finite
   tensors of the shape that is wanted. None may run code, or take more than 300 MB.
3. Five hundred random configurations, drawn by hypothesis, must each train or be refused in one sentence that names an argument.
4. Four hundred random folders, tables, arrays and files of sentences must each be read to the examples and labels that they were made of; those that were made
   to be unclear must be refused in one sentence.
5. Four hundred networks of torch's layers and of what people do to them must each have the gradient of plain autograd and of an ordinary training, or be
   refused in one sentence.

Every attempt runs in a child of this process, which is made by `fork` after the slow imports."""
import argparse
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import odd_networks
import torch
from forge import Bomb, header_of, npy_claim, npz_file, ours_again, png, torch_file, zip_file
from hypothesis import strategies as st
from layouts import one_layout

import dd_nb
from dd_nb.format import FORMAT, read_tensors, write_atomic
from dd_nb.data import data_from_tensors, load_data
from dd_nb.readers import data_from_folder
from dd_nb.checkpoints import Checkpoints
from dd_nb.distillation import distill
from dd_nb.files import check_pair,read_set
from dd_nb.evaluation import evaluate
from dd_nb.pools import AgingPool,PretrainedPool,pretrain
from dd_nb.inits import FixedInit,RandomInit
from dd_nb.networks import make_net
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll

MB = 2**20


def top():
    "The most memory this process has had, in bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)


def child(f, *args):
    "Process number of a child that calls `f`, and the reading end of its pipe."
    r, w = os.pipe()
    sys.stdout.flush(); sys.stderr.flush()
    pid = os.fork()
    if pid: os.close(w); return pid, r
    code = 1
    try:
        os.close(r)
        f(w, *args)
        code = 0
    except BaseException: traceback.print_exc()
    finally: os._exit(code)


def answer(f, *args, limit=120):
    "What `f` returns in a child of its own, as JSON; None if it dies or takes longer than `limit` seconds."
    def run(w): os.write(w, json.dumps(f(*args)).encode()); os.close(w)
    pid, r = child(run)
    os.set_blocking(r, False)
    got, end = b'', time.monotonic() + limit
    while time.monotonic() < end:
        try:
            part = os.read(r, MB)
            if not part: break
            got += part
        except BlockingIOError: time.sleep(.005)
    else: os.kill(pid, signal.SIGKILL)
    os.close(r)
    return json.loads(got) if os.waitpid(pid, 0)[1] == 0 else None


# ---------------------------------------------------------------------------------------------- kills

RUNS = dict(
    fixed=dict(inner='sgd'),
    random=dict(inner='momentum', average=.9, n_nets=2),
    aging=dict(inner='adam', window=2),
    segments=dict(inner='momentum', strategy='segments'))


def distilled(kind, folder=None):
    "One short distillation of the digits."
    torch.set_num_threads(1)
    a = RUNS[kind]
    data = load_data('digits', size=8)
    def make(seed=None): return make_net('ConvNet', shape=data.shape, n_classes=10, width=4, depth=2, seed=seed)
    source = FixedInit(make(0)) if kind == 'fixed' else RandomInit(make)
    if kind == 'aging': source = AgingPool(source, size=3, max_age=5)
    syn = Synthetic.noise(data.shape, 10, steps=2, epochs=2, lr=.1, inner=a['inner'], seed=0)
    distill(syn, source, data, Unroll(a.get('strategy', 'auto'), window=a.get('window')), iters=40, every=2, batch_size=64, n_valid=200, n_eval=1,
            n_nets=a.get('n_nets', 1), average=a.get('average'), progress=False, checkpoint=folder)
    return syn


class Slow:
    "A file that is written in eight parts, slowly."
    def __init__(self, f): self.f = f
    def __enter__(self): return self
    def __exit__(self, *_): self.f.close()
    def __getattr__(self, k): return getattr(self.f, k)
    def write(self, blob):
        for i in range(8): self.f.write(blob[len(blob)*i//8:len(blob)*(i + 1)//8]); self.f.flush(); time.sleep(.002)


def to_be_killed(w, kind, folder, out):
    "A distillation that says into a pipe when it begins to write a file (w) and when it has done so (d)."
    fsync, fdopen, mkstemp, replace = os.fsync, os.fdopen, tempfile.mkstemp, os.replace
    def say(c): os.write(w, c)
    def slow_mkstemp(*a, **k): say(b'w'); return mkstemp(*a, **k)
    def slow_fsync(fd): time.sleep(.004); fsync(fd)
    def slow_replace(*a): replace(*a); say(b'd')
    tempfile.mkstemp, os.fsync, os.fdopen, os.replace = slow_mkstemp, slow_fsync, lambda *a: Slow(fdopen(*a)), slow_replace
    say(b's')
    with warnings.catch_warnings():
        warnings.simplefilter('error')   # a checkpoint that cannot be read would be passed over with a warning
        syn = distilled(kind, folder)
    syn.save(out)


def drain(r):
    "What the pipe holds now; b'' if nothing, None if the child has closed it."
    try: return os.read(r, MB) or None
    except BlockingIOError: return b''


def kill_once(kind, folder, out, rng, inside):
    "Start or take up a run and kill it: in the middle of a write if `inside`, else anywhere. Returns (killed, within a write)."
    pid, r = child(to_be_killed, kind, folder, out)
    os.set_blocking(r, False)
    writes, last, wait = rng.randint(2, 8), b'', None
    until = time.monotonic() + (60 if inside else rng.uniform(.1, 1.2))
    while time.monotonic() < until:
        got = drain(r)
        if got is None: break
        last = got[-1:] or last
        writes -= got.count(b'w')
        if inside and wait is None and writes <= 0 and last == b'w': wait, until = True, time.monotonic() + rng.uniform(0, .018)
        time.sleep(.0005)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    last = (drain(r) or b'')[-1:] or last
    os.close(r)
    if os.WIFEXITED(status):
        if os.WEXITSTATUS(status): raise SystemExit('a run failed that should have gone on')
        return False, False
    return True, last == b'w'


def kills(state, keep, work, n=100, inside=30):
    "The first part. `state` is what is known so far, `keep` writes it down."
    s = state.setdefault('kills', dict(killed=0, inside=0, runs=0, same=0, unreadable=0, checkpoints=0))
    rng = random.Random(s['killed'])
    for kind in RUNS:
        if not (work/f'{kind}.safetensors').exists() and answer(lambda: str(distilled(kind).save(work/f'{kind}.safetensors'))) is None: raise SystemExit(f'the run {kind} failed')
    while s['killed'] < n or s['inside'] < inside or (work/'run').exists():
        kind = list(RUNS)[s['runs'] % len(RUNS)]
        folder, out = work/'run', work/'out.safetensors'
        killed, within = kill_once(kind, folder, out, rng, s['inside'] < inside and rng.random() < .6) if s['killed'] < n or s['inside'] < inside else (False, False)
        if not killed and not out.exists():   # the last run comes to its end
            pid, r = child(to_be_killed, kind, folder, out)
            if os.waitpid(pid, 0)[1]: raise SystemExit('a run failed that should have gone on')
            os.close(r)
        s['killed'] += killed; s['inside'] += within
        def look():
            bad, there = 0, sorted(folder.glob('step-*.safetensors'))
            for f in there:
                try: read_tensors(f, 'run')
                except ValueError: bad += 1
            return bad, len(there)
        bad, seen = answer(look)
        s['unreadable'] += bad; s['checkpoints'] += seen
        if not killed:
            a, b = Synthetic.load(out), Synthetic.load(work/f'{kind}.safetensors')
            s['runs'] += 1
            s['same'] += torch.equal(a.images, b.images) and torch.equal(a.raw_lrs, b.raw_lrs)
            out.unlink()
            shutil.rmtree(folder)
        keep()
        show(f"kills {s['killed']}, inside a write {s['inside']}, runs ended {s['runs']}, the same {s['same']}, unreadable {s['unreadable']} of {s['checkpoints']}")
    return s


# ---------------------------------------------------------------------------------------------- files

def wrong(rng, kind):
    "A change to tensors and header after which a file of this kind means nothing."
    def change(tensors, head):
        k = rng.choice(sorted(tensors))
        if kind == 'set': k = rng.choice(['images', 'lrs', 'raw_lrs', 'labels'])
        what = rng.choice(['nan', 'shape', 'drop', 'dtype', 'future', 'kind', 'head'])
        t = tensors[k]
        if what == 'nan' and kind == 'set' and t.is_floating_point(): return tensors | {k: torch.full_like(t, rng.choice([float('nan'), float('inf')]))}
        if what == 'shape': return tensors | {k: torch.cat([t.reshape(-1), t.reshape(-1)[:1]])}
        if what == 'dtype' and kind == 'set': return tensors | {k: t.to(torch.complex64)}
        if what == 'drop': return {n: v for n, v in tensors.items() if n != k}
        if what == 'future': head['format'] = rng.choice([FORMAT + 1, 99, 10**30, '2', None, -1, 1.5])
        elif what == 'head': head.update(rng.choice([dict(inner='newton'), dict(inner=[1]), dict(n_classes='ten'), dict(meta=7), dict(learn=['weights']), dict(epochs=-3), dict(epochs=None)]) if kind == 'set' else dict(state={}, spec=dict(name='MLP', shape=[1, 8, 8], n_classes=10, hidden=[10**7, 10**7]), accuracy='x') if kind == 'network' else dict(state={'x': 1, 'y': 2}))
        else: head['kind'] = rng.choice([v for v in ('set', 'network', 'run') if v != kind] + ['', 3])
        return tensors
    return change


def damage(rng, blob):
    "A file as a bad disk, a broken download or a joker leaves it."
    n = len(blob)
    what = rng.choice(['cut', 'cut', 'flip', 'flip', 'flip', 'noise', 'length', 'grown', 'doubled', 'empty', 'text', 'zeros'])
    b = bytearray(blob)
    if what == 'cut': return blob[:rng.randrange(n)]
    if what == 'flip':
        for _ in range(rng.choice([1, 1, 1, 3, 20])): b[rng.randrange(n if rng.random() < .5 else min(n, 2000))] ^= 1 << rng.randrange(8)
        return bytes(b)
    if what == 'noise':
        at, k = rng.randrange(n), rng.randint(1, 200)
        b[at:at + k] = rng.randbytes(len(b[at:at + k]))
        return bytes(b)
    if what == 'length': return struct.pack('<Q', rng.choice([2**63, 2**40, 2**31, 2**24, 10**8, rng.randrange(2**20), 0, 1])) + blob[8:]
    return {'grown': blob + rng.randbytes(rng.randint(1, 100)), 'doubled': blob + blob, 'empty': b'', 'text': b'images: !!python/object/apply:os.system ["touch mark"]\n', 'zeros': bytes(n)}[what]


def peers(rng, x, y, mark):
    "A file as others write them, hostile or damaged: its ending and its bytes."
    def pt(obj): return rng.choice(['.pt', '.pth']), torch_file(obj, rng.random() < .3)
    what = rng.choice(['pickle', 'pickle', 'objects', 'damaged pt', 'damaged pt', 'damaged npz', 'damaged npz', 'view', 'claim', 'zip bomb', 'shapes', 'values', 'nested', 'sparse', 'names', 'raw pickle', 'plain', 'steps', 'scalars', 'logits'])
    if what == 'pickle': return pt(rng.choice([Bomb(mark), (x, Bomb(mark)), dict(data=x, labels=Bomb(mark)), [Bomb(mark)]]))
    if what == 'raw pickle': return rng.choice(['.pt', '.npz']), pickle.dumps(Bomb(mark))
    if what == 'objects': return '.npz', npz_file(dict(images=np.array([Bomb(mark), 1], dtype=object), labels=y.numpy()))
    if what == 'damaged pt': return '.pt', damage(rng, pt((x, y))[1])
    if what == 'damaged npz': return '.npz', damage(rng, npz_file(dict(images=x.numpy(), labels=y.numpy()), rng.random() < .5))
    if what == 'view': return pt((rng.choice([torch.zeros(1).expand(10**rng.randint(7, 15)), torch.zeros(1, 1, 1, 1).expand(10**8, 1, 8, 8)]), y))
    if what == 'claim': return '.npz', npy_claim(rng.choice(['(1000000000, 1, 8, 8)', '(10, 1, 8, 8)', '(-1, 8)', '(' + '9'*400 + ',)', '(True, 8)', '()']), rng.randbytes(100), rng.choice(['<f4', '<f8', '|O', '<U999999999', '|V8']))
    if what == 'zip bomb':
        data = bytes(rng.choice([30, 60])*MB)
        return '.npz', npy_claim(f'({len(data)//256}, 1, 8, 8)', data)
    if what == 'shapes': return pt((torch.rand(rng.choice([(10, 64), (10, 3, 8, 8), (0, 1, 8, 8), (10,), ()])), y))
    if what == 'values': return pt((x*rng.choice([float('nan'), float('inf'), -float('inf')]), y)) if rng.random() < .5 else pt((x, rng.choice([y + 5, y - 3, y + .5, y.to(torch.complex64), y > 4])))
    if what == 'nested':
        obj = [x]
        for _ in range(rng.choice([3, 15, 40])): obj = [obj]
        return pt(obj)
    if what == 'sparse': return pt((rng.choice([x.to_sparse(), torch.quantize_per_tensor(x, .1, 0, torch.qint8), torch.zeros(10, 1, 8, 8, device='meta')]), y))
    if what == 'names':
        return '.npz', zip_file(rng.choice(['../images.npy', '/images.npy', 'C:\\images.npy', '../'*20 + str(mark)]), npz_file(dict(images=x.numpy()))[:500])
    if what == 'steps': return pt([(x, y, rng.choice([torch.tensor([.02]), .02, -1, float('nan'), Bomb(mark)])) for _ in range(rng.choice([1, 3, 500]))])
    if what == 'scalars': return pt(dict(data=[[x, y]], accs_all_exps=dict(a=[rng.choice([np.float64(.5), np.float32(.5), np.array([Bomb(mark)], dtype=object), np.zeros(2)])])))
    if what == 'logits': return pt((x, torch.eye(10)*rng.choice([1, 2, -3])))
    return pt((x, y))


def pictures(rng, folder, data):
    "A folder of image folders with bad pictures in it."
    for c in data.classes:
        (folder/c).mkdir(parents=True)
        blob = rng.choice([lambda: png(8, 8, bytes(72)), lambda: png(50_000, 50_000), lambda: png(2**31 - 1, 2**31 - 1), lambda: png(0, 8), lambda: png(8, 8), lambda: damage(rng, png(8, 8, bytes(72))),
                           lambda: b'', lambda: b'GIF89a', lambda: pickle.dumps(Bomb(folder/'mark')), lambda: b'\xff\xd8\xff\xe0' + rng.randbytes(50)])()
        (folder/c/f'0{rng.choice([".png", ".png", ".jpg", ".gif", ".tif"])}').write_bytes(blob)


def one_file(i, work, blobs):
    "Make the i-th hostile file and feed it to its loader. Returns what came of it, or raises AssertionError."
    rng = random.Random(i)
    data = load_data('digits', size=8)
    x, y = data.x_test[:10].clone(), torch.arange(10)
    place = work/f'file-{i}'
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    mark = place/'mark'
    kind = ('set', 'run', 'network', 'peer', 'peer', 'peer', 'folder', 'set')[i % 8]
    try:
        if kind in ('set', 'run', 'network'):
            blob = blobs[kind]
            how = rng.random()
            bad = damage(rng, blob) if how < .6 else ours_again(blob, wrong(rng, kind)) if how < .85 else header_of(rng.choice([10, 10**5, 10**7])) if how < .9 else blobs[{'set': 'run', 'run': 'network', 'network': 'set'}[kind]] if how < .93 else torch_file(Bomb(mark)) if how < .97 else pickle.dumps(Bomb(mark))
            if bad == blob: return 'the same'   # a flip and its opposite
            try:
                if kind == 'set':
                    (place/'a.safetensors').write_bytes(bad)
                    (Synthetic.load if rng.random() < .5 else lambda p: read_set(p, data))(place/'a.safetensors')
                elif kind == 'run':
                    (place/'step-00000002.safetensors').write_bytes(bad)
                    with warnings.catch_warnings():
                        warnings.simplefilter('ignore')
                        state, _ = Checkpoints(place).load()
                    syn = Synthetic.noise(data.shape, 10, steps=2, epochs=2, lr=.1, seed=0)   # one that can be read may still be of another run
                    distill(syn, FixedInit(make_net('ConvNet', shape=data.shape, n_classes=10, width=4, depth=2, seed=0)), data, iters=40, every=2, batch_size=64, n_valid=200, n_eval=1, progress=False, checkpoint=place)
                else:
                    for k in range(3): (place/f'net-{k:05}.safetensors').write_bytes(bad if k == 1 else blob)
                    PretrainedPool(place)
            except (ValueError, FileNotFoundError) as e: said = str(e)
            else: raise AssertionError(f'a bad {kind} was taken')
            assert str(place) in said or 'format' in said, said
            return 'refused'
        if kind == 'folder':
            pictures(rng, place/'set', data)
            try: got = read_set(place/'set', data) if rng.random() < .5 else [(lambda d: (d.x_train, d.y_train))(data_from_folder(place/'set', size=8))]
            except (ValueError, FileNotFoundError) as e: assert str(e); return 'refused'
        else:
            end, blob = peers(rng, x, y, mark)
            (place/f'a{end}').write_bytes(blob)
            try: got = read_set(place/f'a{end}', data)
            except (ValueError, FileNotFoundError) as e: assert str(place) in str(e) or 'labels' in str(e), str(e); return 'refused'
        if isinstance(got, Synthetic): got = [(got.images.detach().flatten(0, 1), got.labels.detach().flatten(0, 1))]
        for a, b in got:
            if kind != 'folder': check_pair(a, b, data)
            assert torch.isfinite(a).all() and tuple(a.shape[1:]) == tuple(data.shape)
        return 'loaded'
    finally:
        marked = mark.exists() or (place/'set'/'mark').exists() or Path('mark').exists()
        shutil.rmtree(place, ignore_errors=True)
        assert not marked, 'a file ran code'


def files(state, keep, work, n=2000, batch=50):
    "The second part."
    s = state.setdefault('files', dict(done=0, ours=0, refused=0, loaded=0, same=0, wrong=[], bytes=0))
    warnings.filterwarnings('ignore', message='torch.quantize_per_tensor')
    def make():
        torch.set_num_threads(1)
        data = load_data('digits', size=8)
        make = lambda seed=None: make_net('MLP', shape=data.shape, n_classes=10, hidden=(8,), seed=seed)
        distilled('fixed', work/'some').save(work/'set.safetensors')
        pretrain(make, data, work/'pool', 3, 1, progress=False)
        shutil.copy(sorted((work/'some').glob('step-*'))[-1], work/'run.safetensors')
        shutil.copy(work/'pool'/'net-00001.safetensors' if (work/'pool'/'net-00001.safetensors').exists() else sorted((work/'pool').glob('net-*'))[1], work/'network.safetensors')
        return True
    if not (work/'network.safetensors').exists() and not answer(make): raise SystemExit('the files to damage could not be made')
    blobs = {k: (work/f'{k}.safetensors').read_bytes() for k in ('set', 'run', 'network')}
    def some(i):
        before, out = top(), []
        for j in range(i, min(i + batch, n)):
            try: out.append((j, one_file(j, work, blobs)))
            except BaseException as e: out.append((j, f'{type(e).__name__}: {e}'[:300]))
        return out, top() - before
    while s['done'] < n:
        got = answer(some, s['done'])
        if got is None: s['wrong'].append(f"files {s['done']} to {s['done'] + batch - 1} ended the process"); got = [], 0
        for j, what in got[0]:
            if what == 'refused': s['refused'] += 1; s['ours'] += j % 8 in (0, 1, 2, 7)
            elif what in ('loaded', 'the same'): s['loaded' if what == 'loaded' else 'same'] += 1
            else: s['wrong'].append(f'file {j}: {what}')
        s['done'], s['bytes'] = min(n, s['done'] + batch), max(s['bytes'], got[1])
        keep()
        show(f"files {s['done']}, refused {s['refused']}, loaded {s['loaded']}, wrong {len(s['wrong'])}, memory {s['bytes']/MB:.0f} MB")
    return s


# ---------------------------------------------------------------------------------------------- configurations

def mostly(good, *bad): return st.integers(0, 49).flatmap(lambda k: st.sampled_from(bad) if k == 49 else good)


def sensible(c):
    "The same configuration where what it asks for goes together and takes seconds; one in ten is left odd."
    whole = isinstance(c['ipc'], int) and isinstance(c['steps'], int)
    if not c['odd']:
        c = c | dict(per_class=max(c['per_class'], c['ipc']*c['steps']*(c['classes'] if c['imbalance'] and c['classes'] < 1000 else 1) if whole else 1),
                     side=28 if c['net'] == 'LeNet' else c['side'], keep='last' if c['n_valid'] == 0 else c['keep'],
                     bn=c['bn'] if (c['net'], c['norm']) == ('ConvNet', 'batch') or c['bn'] == 'none' else 'tracked')
    if c['net'] in ('AlexCifarNet', 'LeNet') and isinstance(c['batch_size'], int): c = c | dict(batch_size=min(c['batch_size'], 64))
    if c['classes'] == 1000:   # three images of each are a training set of their own
        c = c | dict(net='ConvNet' if c['net'] in ('LeNet', 'AlexCifarNet') else c['net'], side=min(c['side'], 16), per_class=min(c['per_class'], 9), batch_size=min(c['batch_size'], 64), steps=min(c['steps'], 1),
                     start='means' if c['start'] == 'kmeans' else c['start'])
    return c


CONFIG = st.fixed_dictionaries(dict(
    channels=st.sampled_from([1, 3, 4, 2]), side=st.sampled_from([12, 8, 9, 11, 16]), other=st.sampled_from([0, 0, 0, 1, 3]), classes=st.sampled_from([3, 2, 2, 5, 10, 10, 1000]),
    per_class=st.sampled_from([30, 30, 30, 20, 20, 10, 7, 2, 1]), imbalance=st.booleans(), batch_size=mostly(st.sampled_from([1, 2, 16, 64, 10_000]), 0, -1, 2.5),
    net=st.sampled_from(['ConvNet', 'ConvNet', 'ConvNet', 'ConvNet', 'ConvNet', 'MLP', 'MLP', 'MLP', 'Logistic', 'AlexCifarNet', 'LeNet']), norm=st.sampled_from(['none', 'batch', 'batch', 'instance', 'group']),
    source=st.sampled_from(['fixed', 'random', 'random', 'aging']), ipc=mostly(st.sampled_from([1, 1, 1, 2, 3]), 0, -1, 'one'), steps=mostly(st.sampled_from([1, 2, 3]), 0, 1.5), epochs=mostly(st.sampled_from([1, 2, 4]), 0, None),
    start=st.sampled_from(['noise', 'noise', 'real', 'means', 'kmeans']), lr=mostly(st.sampled_from([1e-6, .01, .1, 1., 50.]), 0., -1., float('nan'), float('inf'), 'fast'),
    inner=mostly(st.sampled_from(['sgd', 'momentum', 'adam', dict(name='momentum', nesterov=True), dict(name='sgd', weight_decay=.01)]), 'newton', dict(name='adam', beta1=2.)),
    learn=mostly(st.sampled_from([('images', 'lrs'), ('images',), ('images', 'labels', 'lrs'), ('labels',), ('lrs',)]), ('weights',), ()), soft=st.booleans(),
    bn=mostly(st.sampled_from(['tracked', 'tracked', 'learned', 'batch', 'calibrated', 'frozen']), 'none'), strategy=mostly(st.sampled_from(['auto', 'graph', 'recompute', 'segments']), 'magic'), window=mostly(st.sampled_from([None, None, 1, 2]), 0, -2),
    outer_lr=mostly(st.sampled_from([.05, .001, 0., 10.]), -1., float('nan')), clip=mostly(st.sampled_from([2., None, .5]), -1.), schedule=mostly(st.sampled_from(['cosine', 'constant']), 'linear'),
    n_nets=mostly(st.sampled_from([1, 1, 2, 3]), 0), n_eval=mostly(st.sampled_from([1, 2]), 0), n_valid=mostly(st.sampled_from([None, .3, 0, 5]), -1, 10**9, 1.5), keep=mostly(st.sampled_from(['best', 'last']), 'first'),
    average=mostly(st.sampled_from([None, .9]), 1., -1), every=mostly(st.sampled_from([None, 1, 2]), 0), dtype=st.sampled_from([None, None, torch.float64]), seed=st.sampled_from([0, 1, None]),
    odd=st.integers(0, 9).map(lambda k: k == 9))).map(sensible)   # odd: whether what does not go together is left together

# how an argument may be called in a sentence, where it is not by its name
CALLED = dict(outer_lr='lr', side='shape', other='shape', channels='shape', per_class='ipc', classes='n_classes', start='ipc', source='make_net', imbalance='ipc', net='norm')


def one_configuration(c):
    "Distil by a configuration, two outer steps. Returns 'trained', or the sentence by which it was refused."
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    k = c['classes']
    shape = c['channels'], c['side'], c['side'] + c['other']
    counts = [max(1, c['per_class']//(1 + i if c['imbalance'] else 1)) for i in range(k)]
    y = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    x = torch.rand(len(y), *shape, generator=g)
    try:
        data = data_from_tensors(x, y, x[:50], y[:50], name='random', classes=[str(i) for i in range(k)])
        net = dict(name=c['net'], shape=shape, n_classes=k, seed=0) | (dict(norm=c['norm'], width=4, depth=2) if c['net'] == 'ConvNet' else dict(hidden=(8,)) if c['net'] == 'MLP' else {})
        make_net(**net)
        fresh = RandomInit(lambda: make_net(**{**net, 'seed': None}))
        source = FixedInit(make_net(**net)) if c['source'] == 'fixed' else fresh if c['source'] == 'random' else AgingPool(fresh, size=3, max_age=2)
        S = dict(ipc=c['ipc'], steps=c['steps'], epochs=c['epochs'], lr=c['lr'], inner=c['inner'], seed=0)
        syn = Synthetic.noise(shape, k, **S) if c['start'] == 'noise' else getattr(Synthetic, c['start'])(data, **S)
        if c['soft'] or 'labels' in c['learn']: syn = syn.changed(labels=torch.nn.functional.one_hot(syn.labels, k).float())
        syn = syn.changed(learn=c['learn'])
        if c['bn'] != 'tracked': syn = syn.with_bn(c['bn'], make_net(**net), data, seed=0)
        distill(syn, source, data, Unroll(c['strategy'], window=c['window']), iters=2, batch_size=c['batch_size'], lr=c['outer_lr'], clip=c['clip'], schedule=c['schedule'], n_nets=c['n_nets'], n_valid=c['n_valid'],
                every=c['every'], n_eval=c['n_eval'], keep=c['keep'], average=c['average'], seed=c['seed'], dtype=c['dtype'], progress=False)
        assert torch.isfinite(syn.images).all(), 'images that are not finite'
        assert 0 <= evaluate(syn, source, data.to(dtype=c['dtype']), 1).mean <= 1
    except (ValueError, TypeError) as e:
        said = str(e)
        where = traceback.extract_tb(e.__traceback__)[-1].filename
        assert 'dd_nb' in where, f'{type(e).__name__} from {where}: {said}'
        words = ''.join(ch if ch.isalnum() or ch == '_' else ' ' for ch in said).split()
        names = {*c, *CALLED.values(), 'momentum', 'beta1', 'hidden', 'images', 'labels', 'lrs'}
        assert len(said.splitlines()) == 1 and len(said) < 400 and names & set(words), f'no argument named: {said}'
        return said
    return 'trained'


def configurations(state, keep, work, n=500, batch=20):
    "The third part: hypothesis draws them batch by batch, each batch from a seed of its own."
    s = state.setdefault('configurations', dict(done=0, trained=0, refused=0, wrong=[], said={}))
    def some(i):
        out, seen = [], set()
        @hypothesis.seed(i)
        @hypothesis.settings(max_examples=2*batch, database=None, deadline=None, phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(CONFIG)
        def each(c):
            if len(out) >= batch or repr(c) in seen: return
            seen.add(repr(c))
            try: out.append(one_configuration(c))
            except BaseException as e: out.append(f'WRONG {type(e).__name__}: {str(e)[:300]} for {c}')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            each()
        return out
    while s['done'] < n:
        with ThreadPoolExecutor(2) as ex: both = list(ex.map(lambda i: answer(some, i, limit=600), (s['done'], s['done'] + batch)))
        for got in both:
            if got is None: s['wrong'].append(f"of configurations {s['done']} to {s['done'] + 2*batch - 1} some ended the process or took too long"); got = []
            for what in got:
                if what == 'trained': s['trained'] += 1
                elif what.startswith('WRONG'): s['wrong'].append(what)
                else:
                    s['refused'] += 1
                    s['said'][what] = s['said'].get(what, 0) + 1
        s['done'] += sum(len(got or [0]*batch) for got in both)
        keep()
        show(f"configurations {s['done']}, trained {s['trained']}, refused {s['refused']}, wrong {len(s['wrong'])}")
    return s


# ---------------------------------------------------------------------------------------------- layouts of data, odd networks

def series(state, keep, key, one, n, good, batch=20):
    "Attempts 0 to n - 1, each in a child: `one(i)` returns one of the two words of `good`, or what is wrong."
    s = state.setdefault(key, dict(done=0, wrong=[]) | dict.fromkeys(good, 0))
    def some(first, last):
        out = []
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')   # remarks
            for i in range(first, last):
                try: said = one(i)
                except BaseException as e: said = f'{type(e).__name__}: {str(e)[:300]}'
                out.append(said if said in good else f'{key} {i}: {said}')
        return out
    while s['done'] < n:
        last = min(n, s['done'] + batch)
        for what in answer(some, s['done'], last) or [f"of {key} {s['done']} to {last - 1} one ended the process or took too long"]:
            if what in good: s[what] += 1
            else: s['wrong'].append(what)
        s['done'] = last
        keep()
        show(f"{key} {s['done']}, {good[0]} {s[good[0]]}, refused {s['refused']}, wrong {len(s['wrong'])}")
    return s


def layouts(state, keep, work, n=400):
    "The fourth part."
    return series(state, keep, 'layouts', lambda i: one_layout(i, work), n, ('read', 'refused'))


def one_network(i):
    "What became of the i-th odd network: 'right', 'refused', or what is wrong with which parts."
    verdict, parts = odd_networks.judge(i)
    return verdict if verdict in ('right', 'refused') else f'{verdict} ({", ".join(parts)})'


def networks(state, keep, n=400):
    "The fifth part."
    return series(state, keep, 'networks', one_network, n, ('right', 'refused'))


def code():
    "A fingerprint of what is tried here."
    files = sorted(f for d in (Path(dd_nb.__file__).parent, Path(__file__).parent) for f in d.glob('*.py'))
    return hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()


def show(line): print(f'\r{line:110}', end='', flush=True) if sys.stdout.isatty() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='out/soak', help='folder for what is done so far')
    parser.add_argument('--anew', action='store_true', help='begin anew')
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--files', type=int, default=2000)
    parser.add_argument('--configurations', type=int, default=500)
    parser.add_argument('--layouts', type=int, default=400)
    parser.add_argument('--networks', type=int, default=400)
    a = parser.parse_args()
    torch.set_num_threads(1)
    load_data('digits', size=8)   # what is slow to import is imported before the forks
    work = Path(a.out)
    if a.anew: shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    path = work/'state.json'
    state = json.loads(path.read_text()) if path.exists() else {}
    now = code()
    if state and state.get('code') != now:   # what was tried was another program
        shutil.rmtree(work)
        work.mkdir()
        state = {}
    state['code'] = now
    started, before = time.monotonic(), state.get('seconds', 0.)
    def keep():
        state['seconds'] = before + time.monotonic() - started
        write_atomic(path, json.dumps(state, indent=1).encode())
    k = kills(state, keep, work, a.kills, min(30, a.kills))
    print(f"\r{k['killed']} kills, {k['inside']} inside the writing of a checkpoint; {k['same']} of {k['runs']} runs ended with the images of the uninterrupted run; {k['unreadable']} of {k['checkpoints']} checkpoints unreadable")
    f = files(state, keep, work, a.files)
    print(f"\r{f['done']} files: {f['refused']} refused ({f['ours']} of ours), {f['loaded']} of others loaded to finite tensors, {f['same']} unchanged, {len(f['wrong'])} wrong; at most {f['bytes']/MB:.0f} MB")
    c = configurations(state, keep, work, a.configurations)
    print(f"\r{c['done']} configurations: {c['trained']} trained ({c['trained']/c['done']:.0%}), {c['refused']} refused in a sentence, {len(c['wrong'])} wrong")
    d = layouts(state, keep, work, a.layouts)
    print(f"\r{d['done']} layouts of data: {d['read']} read to what they were made of, {d['refused']} unclear ones refused, {len(d['wrong'])} wrong")
    o = networks(state, keep, a.networks)
    print(f"\r{o['done']} odd networks: {o['right']} with the right gradient, {o['refused']} refused in a sentence, {len(o['wrong'])} wrong; {state['seconds']:.0f} s in all")
    for line in f['wrong'] + c['wrong'] + d['wrong'] + o['wrong']: print('  wrong:', line)
    good = k['same'] == k['runs'] and not k['unreadable'] and not f['wrong'] and f['bytes'] < 300*MB and not c['wrong'] and c['trained'] >= .6*c['done']
    good = good and not d['wrong'] and d['read'] >= .5*d['done'] and not o['wrong'] and o['right'] >= .5*o['done']
    print('passed' if good else 'FAILED')
    raise SystemExit(not good)


if __name__ == '__main__': main()
