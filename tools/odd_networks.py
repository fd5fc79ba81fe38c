"""Random small networks, assembled from torch's layers and from whatever people do to them: norms, dropout, tied, frozen, complex, sparse and hooked parts, hidden
state, noise from elsewhere. Each must have the gradient of plain autograd under every strategy, and of an ordinary training, or be refused in one sentence."""
import collections
import copy
import random
import sys
import warnings
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import STRATEGIES,Unroll,unroll
from dd_nb.gradcheck import check_gradient
from dd_nb.structure import functional
from dd_nb.rules import loss_fn

f64 = torch.float64
SMOOTH = [nn.Tanh, nn.Softplus, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.Softsign, nn.Mish]
KINKED = [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.Hardswish, nn.PReLU]


class Part(nn.Module):
    "A part of a flat network: (n, d) to (n, d)."
    def __init__(self, d): super().__init__(); self.d = d


def part(f):
    "A `Part` whose forward pass is a function of (self, x); what it needs is made by `make(self)`."
    def build(name, make=lambda self: None):
        def __init__(self, d): Part.__init__(self, d); make(self)
        return type(name, (Part,), dict(__init__=__init__, forward=f))
    return build


def own(name, make=lambda self: None): return lambda f: part(f)(name, make)


def linear(self): self.l = nn.Linear(self.d, self.d)


@own('Filter', lambda self: setattr(self, 'w', nn.Parameter(torch.randn(self.d//2 + 1, dtype=torch.complex64)*.3 + 1)))
def Filter(self, x): return torch.fft.irfft(torch.fft.rfft(x)*self.w, n=self.d)


@own('Sparse', lambda self: setattr(self, 'e', nn.Embedding(4, self.d, sparse=True)))
def Sparse(self, x): return x + self.e(torch.arange(len(x), device=x.device) % 4)


@own('Embedded', lambda self: setattr(self, 'e', nn.Embedding(4, self.d)))
def Embedded(self, x): return x*(1 + self.e(torch.arange(len(x), device=x.device) % 4))


@own('Gate', linear)
def Gate(self, x): return x*torch.sigmoid(self.l(x))


@own('Residual', linear)
def Residual(self, x): return x + torch.tanh(self.l(x))


@own('Inplace', linear)
def Inplace(self, x): h = self.l(x); h += 1; return h.tanh_()


@own('Clamped', linear)
def Clamped(self, x):
    with torch.no_grad(): self.l.weight.clamp_(-1, 1)
    return self.l(x)


@own('ClampedData', linear)
def ClampedData(self, x): self.l.weight.data = self.l.weight.data.clamp(-.2, .2); return self.l(x)


@own('Cache', lambda self: setattr(self, 'kept', {}))
def Cache(self, x): return x - self.kept.setdefault('m', x.detach().mean(0))


@own('Log', lambda self: setattr(self, 'log', []))
def Log(self, x): self.log.append(x.detach().mean()); return x


@own('Deque', lambda self: setattr(self, 'kept', collections.deque(maxlen=2)))
def Deque(self, x): self.kept.append(x.detach().mean(0)); return x - .1*sum(self.kept)


@own('Counter', lambda self: setattr(self, 'n', 0))
def Counter(self, x): self.n += 1; return x*(1 + .1*(self.n % 3))


@own('Looked', linear)
def Looked(self, x): self.map = torch.tanh(self.l(x)); return self.map


@own('Running', lambda self: self.register_buffer('m', torch.zeros(self.d)))
def Running(self, x):
    if self.training: self.m = .8*self.m + .2*x.mean(0)
    return x - self.m


@own('RunningInPlace', lambda self: self.register_buffer('m', torch.zeros(self.d)))
def RunningInPlace(self, x):
    if self.training: self.m.mul_(.8).add_(.2*x.mean(0))
    return x - self.m


@own('RunningOutside', lambda self: self.register_buffer('m', torch.zeros(self.d)))
def RunningOutside(self, x):
    with torch.no_grad(): self.m.mul_(.8).add_(.2*x.mean(0))
    return x - self.m


@own('Lazily')
def Lazily(self, x):
    if not hasattr(self, 'm'): self.register_buffer('m', x.detach().mean(0))
    return x - self.m


@own('Numpy')
def Numpy(self, x): return x + 1e-3*float(np.random.rand())


@own('PythonNoise')
def PythonNoise(self, x): return x if random.random() < .5 else 1.001*x


@own('TorchNoise')
def TorchNoise(self, x): return x + .1*torch.randn_like(x) if self.training else x


@own('Generator', lambda self: setattr(self, 'g', torch.Generator().manual_seed(1)))
def Generator(self, x): return x + .1*torch.rand(x.shape, generator=self.g, dtype=x.dtype)


@own('Detached', linear)
def Detached(self, x): h = self.l(x); return h - .5*h.detach().mean(0)


@own('Unseen', linear)
def Unseen(self, x):
    with torch.no_grad(): h = torch.tanh(x)
    return x + .3*self.l(h)


@own('Branching', linear)
def Branching(self, x): return self.l(x) if x.detach().mean() > -50 else x


@own('Checkpointed', linear)
def Checkpointed(self, x): return torch.utils.checkpoint.checkpoint(self.l, x, use_reentrant=False) if x.requires_grad or self.l.weight.requires_grad else self.l(x)


@own('Attending', lambda self: setattr(self, 'a', nn.MultiheadAttention(4, 2, batch_first=True)))
def Attending(self, x): h = x.reshape(len(x), -1, 4); return self.a(h, h, h)[0].flatten(1)


@own('Recurrent', lambda self: setattr(self, 'r', nn.GRU(4, 4, batch_first=True)))
def Recurrent(self, x): return self.r(x.reshape(len(x), -1, 4))[0].flatten(1)


@own('Image', lambda self: (setattr(self, 'c', nn.Conv2d(1, 2, 3, padding=1)), setattr(self, 'o', nn.Conv2d(2, 1, 1))))
def Image(self, x): h = self.c(x.reshape(len(x), 1, 2, -1)); return self.o(torch.tanh(h)).view(len(x), -1)


PARTS = [Filter, Sparse, Embedded, Gate, Residual, Inplace, Clamped, ClampedData, Cache, Log, Deque, Counter, Looked, Running, RunningInPlace, RunningOutside, Lazily, Numpy, PythonNoise,
         TorchNoise, Generator, Detached, Unseen, Branching, Checkpointed, Attending, Recurrent, Image]
ODD = [Sparse, Clamped, ClampedData, Cache, Log, Deque, Counter, RunningOutside, Lazily, Numpy, PythonNoise, Generator, Checkpointed]   # must be refused
@own('WritesInput')
def WritesInput(self, x): return x.sub_(x.detach().mean(0))


ODD.append(WritesInput)   # stands first, where the input is
NORMS = [nn.BatchNorm1d, lambda d: nn.BatchNorm1d(d, momentum=None), nn.LayerNorm, lambda d: nn.GroupNorm(2, d), lambda d: nn.BatchNorm1d(d, affine=False), lambda d: nn.BatchNorm1d(d, track_running_stats=False)]


class Positive(nn.Module):
    def forward(self, w): return F.softplus(w)


def doubled(m, args, out): return 2*out
def noted(m, args, out): m.__dict__['noted'] = out.detach()   # overwritten at each pass
def scaled(m, args): return tuple(1.5*a for a in args)
def halved(m, gin, gout): return tuple(None if g is None else g/2 for g in gin)


def random_net(rng):
    "A network of the chance `rng`, (n, 6) to (n, 3), its kind of parts, and whether it has kinks."
    d, layers, names, kinked = 8, [nn.Linear(6, 8)], [], False
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < .35:
            act = rng.choice(SMOOTH + KINKED)
            kinked |= act in KINKED
            layers += [nn.Linear(d, d), act()]
        elif kind < .5: layers.append(rng.choice(NORMS)(d))
        elif kind < .6: layers.append(nn.Dropout(.3))
        else:
            p = rng.choice([p for p in PARTS if p not in ODD] if rng.random() < .7 else PARTS)
            names.append(p.__name__)
            layers.append(p(d))
    net = nn.Sequential(*layers, nn.Linear(d, 3))
    linears = [m for m in net.modules() if isinstance(m, nn.Linear) and m.weight.shape == (d, d)]
    if len(linears) > 1 and rng.random() < .2: linears[0].weight = linears[1].weight; names.append('tied')
    if rng.random() < .15: rng.choice(list(net.parameters())).requires_grad_(False); names.append('frozen')
    if rng.random() < .12: net[0] = parametrizations.weight_norm(net[0]); names.append('weight_norm')
    elif rng.random() < .1: parametrize.register_parametrization(net[0], 'weight', Positive()); names.append('positive')
    if rng.random() < .3:
        how = rng.choice(['register_forward_hook', 'register_forward_pre_hook', 'register_full_backward_hook'])
        f = dict(register_forward_hook=rng.choice([doubled, noted]), register_forward_pre_hook=scaled, register_full_backward_hook=halved)[how]
        getattr(rng.choice(list(net)), how)(f)
        names.append(f.__name__)
    if rng.random() < .05: net = nn.Sequential(WritesInput(6), *net); names.append('WritesInput')
    bns = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    if bns and rng.random() < .3: rng.choice(bns).eval(); names.append('held')
    if rng.random() < .05: net = net.half(); names.append('half')
    return net, names, kinked


def plain_gradient(net, syn, state, batch):
    "Autograd through an ordinary functional training, by gradient descent or momentum; for networks without buffers and noise."
    net = copy.deepcopy(net)
    learned = {k for k, p in net.named_parameters() if p.requires_grad}
    w, v = {k: t.clone().requires_grad_(k in learned) for k, t in state.params.items()}, {}
    for t in range(syn.n_steps):
        x, y, lr = syn.batch(t)
        names = [k for k in w if k in learned]
        grads = torch.autograd.grad(F.cross_entropy(functional_call(net, w, (x,)), y), [w[k] for k in names], create_graph=True, allow_unused=True)
        for k, g in zip(names, grads):
            if g is None: continue
            v[k] = g if syn.inner.name == 'sgd' else syn.inner.momentum*v[k] + g if k in v else g
            w[k] = w[k] - lr*v[k]
    return torch.autograd.grad(F.cross_entropy(functional_call(net.eval(), w, (batch[0],)), batch[1]), syn.images, allow_unused=True, materialize_grads=True)[0]


def sentence(e): return len(str(e).splitlines()) == 1 and len(str(e)) < 500


def judge(seed):
    "What became of the network of a seed: (verdict, parts), the verdict being 'right', 'refused' or what is wrong."
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        torch.manual_seed(seed)
        net, names, kinked = random_net(rng)
        syn = Synthetic.noise((6,), 3, ipc=rng.choice([1, 2]), steps=rng.choice([1, 2]), epochs=2, lr=.1, inner=rng.choice(['sgd', 'momentum', dict(name='adam', eps=1e-3)]), seed=seed).to(dtype=f64)
        if rng.random() < .3: syn = syn.changed(labels=F.one_hot(syn.labels, 3).to(f64)*.8 + .2/3)
        batch = torch.randn(7, 6, dtype=f64), torch.arange(7) % 3
        try:
            check = check_gradient(net, syn, batch, directions=2)
            if check.refused: return ('refused' if sentence(check.refused) else f'more than a sentence: {check.refused}'), names
            state = replace(functional(net).to(dtype=f64), seed=seed)
            gs = [torch.autograd.grad(unroll(syn, state, lambda s: loss_fn(s(batch[0]), batch[1]), k), syn.images, allow_unused=True, materialize_grads=True)[0] for k in STRATEGIES[1:]]
            Unroll()(syn, state, batch)
        except (ValueError, TypeError) as e: return ('refused' if sentence(e) else f'more than a sentence: {e}'), names
        except Exception as e: return f'{type(e).__name__}: {str(e)[:200]}', names
        norm = gs[0].norm().clamp(min=1e-9)
        if max((g - gs[0]).norm()/norm for g in gs) > 1e-8: return 'the strategies differ', names
        if not torch.isfinite(norm): return 'not finite', names
        noisy = any(isinstance(m, (nn.Dropout, TorchNoise)) for m in net.modules())
        if syn.inner.name != 'adam' and not noisy and not list(net.buffers()) and 'weight_norm' not in names:
            for p in net.parameters(): p.data = p.data.to(torch.complex128 if p.is_complex() else f64)
            if (plain_gradient(net, syn, state, batch) - gs[0]).norm()/norm > 1e-8: return 'not plain autograd', names
        if gs[0].norm() > 1e-7 and 'halved' not in names:   # a hook on the way back is meant to give another slope
            worst = max(check.errors.values())
            if worst > check.limit and any('the derivative of its ' in str(w.message) for w in said): return 'refused', names   # told, at least
            if not worst < max(1e-2 if kinked else 1e-4, check.limit): return f'differences of an ordinary training: {worst:.0e}', names
    odd = [n for n in names if n in {p.__name__ for p in ODD}]
    return (f'let in: {odd}' if odd else 'right'), names


if __name__ == '__main__':
    counts = collections.Counter()
    for seed in range(*map(int, sys.argv[1:] or [0, 300])):
        verdict, names = judge(seed)
        counts[verdict if verdict in ('right', 'refused') else 'wrong'] += 1
        if verdict not in ('right', 'refused'): print(seed, verdict, names)
    print(dict(counts))
