"The door: a network whose training is no function of its weights, buffers and batch is refused in one sentence; every other one gets the right gradient."
import collections
import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from dd_nb.data import data_from_tensors
from dd_nb.distillation import StopDistill, distill
from dd_nb.layers import copied,readied
from dd_nb.guard import leaves_of
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.poisoning import Poison
from dd_nb.rules import Inner
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import STRATEGIES,Unroll,unroll
from dd_nb.speed import hypergradients
from dd_nb.gradcheck import check_gradient
from dd_nb.structure import functional
from dd_nb.speed import real_loss
from dd_nb.train import train_step,trained

f64 = torch.float64
strategies = pytest.mark.parametrize('strategy', STRATEGIES[1:])


@pytest.fixture(scope='module')
def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g)
    return data_from_tensors(x, (x@torch.randn(6, 3, generator=g)).argmax(1))


@pytest.fixture(scope='module')
def images():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, 8, 8, generator=g)
    return data_from_tensors(x, (x.flatten(1)@torch.randn(64, 3, generator=g)).argmax(1))


def syn_of(data, **kw): return Synthetic.real(data, **{**dict(ipc=2, epochs=4, lr=.3), **kw})


def seeded(f):
    "A class whose weights are those of one seed."
    @functools.wraps(f)
    def init(self, *a, **k):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            f(self, *a, **k)
    return init


class Two(nn.Module):
    @seeded
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
    def hidden(self, x): return torch.tanh(self.a(x))
    def forward(self, x): return self.b(self.hidden(x))


def refused(net, data, match, syn=None):
    "By training, by the gradient and by check_gradient, in one sentence."
    syn, batch = syn or syn_of(data), data.batch(20, torch.Generator().manual_seed(0))
    for f in (lambda: syn.train(net), lambda: Unroll()(syn, functional(net), batch), lambda: train_step(functional(net), *batch, .1)):
        with pytest.raises((ValueError, TypeError), match=match) as e: f()
        assert len(str(e.value).splitlines()) == 1 and str(e.value).startswith('net must')
    assert not (c := check_gradient(net, syn)).ok and repr(c).startswith('refused: net must')


# --- it writes into its own weights

class NoGrad(Two):
    def forward(self, x):
        with torch.no_grad(): self.a.weight.clamp_(-9, 9)   # no weight is as large as that yet
        return super().forward(x)


class Data(Two):
    def forward(self, x): self.a.weight.data = self.a.weight.data.clamp(-9, 9); return super().forward(x)


class DataInPlace(Two):
    def forward(self, x): self.a.weight.data.clamp_(-.1, .1); return super().forward(x)


class OnlyWhenLarge(Two):
    def forward(self, x):
        with torch.no_grad():
            if self.a.weight.norm() > 10: self.a.weight.mul_(10/self.a.weight.norm())
        return super().forward(x)


class ByNumpy(Two):
    def forward(self, x): self.a.weight.detach().numpy()[:] *= .5; return super().forward(x)


class OnlyWhenJudged(Two):
    def forward(self, x):
        if not self.training: self.a.weight.data.clamp_(-.1, .1)
        return super().forward(x)


@pytest.mark.parametrize('net', [NoGrad, Data, DataInPlace, OnlyWhenLarge, ByNumpy, OnlyWhenJudged])
def test_a_layer_that_changes_its_own_weight_is_refused(data, net):
    refused(net(), data, "net must leave its parameters to the training, got Linear, whose forward pass writes into 'a.weight'")


def test_an_embedding_that_renormalises_itself_is_refused(data):
    class Embedded(nn.Module):
        @seeded
        def __init__(self): super().__init__(); self.e, self.b = nn.Embedding(5, 4, max_norm=1.), nn.Linear(4, 3)
        def forward(self, x): return self.b(self.e(x.long().clamp(0, 4)).mean(1))
    refused(Embedded(), data, "net must leave its parameters to the training, got Embedding")


def test_a_state_shares_nothing_with_what_a_forward_pass_writes_to(data):
    source = FixedInit(DataInPlace())
    before = copy.deepcopy(source.state.params)
    for train in (False, True): source.state(data.x_test, train)
    assert all(torch.equal(v, before[k]) for k, v in source.state.params.items())


# --- it remembers

class InDict(Two):
    def __init__(self): super().__init__(); self.kept = {}
    def forward(self, x): m = self.kept.setdefault('mean', x.detach().mean(0)); return super().forward(x - m)


class InDeque(Two):
    def __init__(self): super().__init__(); self.kept = collections.deque(maxlen=3)
    def forward(self, x): self.kept.append(x.detach().mean(0)); return super().forward(x - sum(self.kept)/len(self.kept))


class InList(Two):
    def __init__(self): super().__init__(); self.calls = []
    def forward(self, x): self.calls.append(1); return super().forward(x)


class Average:
    def __init__(self): self.mean = 0.
    def __call__(self, x): self.mean = .9*self.mean + .1*x.detach().mean(); return self.mean


class InObject(Two):
    def __init__(self): super().__init__(); self.average = Average()
    def forward(self, x): return super().forward(x - self.average(x))


class Counting(Two):
    def __init__(self): super().__init__(); self.n = 0
    def forward(self, x): self.n += 1; return super().forward(x)*(2 if self.n > 50 else 1)


class InEvalMode(Two):
    def __init__(self): super().__init__(); self.kept = {}
    def forward(self, x): return super().forward(x if self.training else x - self.kept.setdefault('mean', x.detach().mean(0)))


@pytest.mark.parametrize('net', [InDict, InDeque, InList, InObject, Counting, InEvalMode])
def test_what_carries_over_from_one_pass_to_the_next_is_refused(data, net):
    refused(net(), data, f"net must keep what training changes in its buffers, got {net.__name__}, whose attribute '\\w+' the forward pass changes")


def test_what_is_kept_elsewhere_is_noticed_by_what_it_does(data):
    kept = []
    class Outside(Two):
        def forward(self, x): kept.append(x.detach().mean()); return super().forward(x + .01*len(kept))
    refused(Outside(), data, "net must (give the same output|draw its random numbers)")


class Looked(Two):
    "What is overwritten in each pass, to be looked at, is no state."
    def __init__(self): super().__init__(); self.maps = {}
    def forward(self, x): self.attn = self.hidden(x); self.maps['last'] = self.attn.detach(); return self.b(self.attn)


@strategies
def test_a_map_that_is_kept_to_be_looked_at_does_no_harm(data, strategy):
    net, syn = Looked().double(), syn_of(data).to(dtype=f64)
    net(data.x_test.double())   # a tensor with a history is in it now
    batch = data.batch(20, torch.Generator().manual_seed(0))
    batch = batch[0].double(), batch[1]
    got, want = (torch.autograd.grad(Unroll(strategy)(syn, functional(n), batch), syn.images)[0] for n in (net, Two().double()))
    assert torch.equal(got, want) and check_gradient(net, syn).ok


class Created(Two):
    "A buffer that comes to be in the first pass."
    def __init__(self): super().__init__(); self.mean = None
    def forward(self, x):
        if self.mean is None:
            del self.mean
            self.register_buffer('mean', x.detach().mean(0))
        return super().forward(x - self.mean)


class Declared(Two):
    def __init__(self): super().__init__(); self.register_buffer('mean', None)
    def forward(self, x):
        if self.mean is None: self.mean = x.detach().mean(0)
        self.mean = .9*self.mean + .1*x.mean(0)
        return super().forward(x - self.mean)


@pytest.mark.parametrize('net', [Created, Declared])
def test_buffers_that_come_to_be_in_the_first_pass(data, net):
    refused(net(), data, f"net must have its buffers before the first pass, got {net.__name__}, which creates 'mean' in it: run one batch through it")
    net = net().double()
    net(data.x_train.double())
    assert check_gradient(net, syn_of(data)).ok


# --- noise

@pytest.mark.parametrize('size', [1., 1e-2, 1e-4])
def test_noise_from_elsewhere_is_refused_however_small(data, size):
    class Noisy(Two):
        def forward(self, x): return super().forward(x + size*float(np.random.randn()))
    refused(Noisy(), data, "net must draw its random numbers from torch's own generator, got Noisy")


def test_dropout_has_the_mask_of_its_step(data):
    net = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Dropout(.4), nn.Linear(30, 3))
    assert check_gradient(net, syn_of(data)).ok


# --- kinds that are known by sight

class Scripted(nn.Module):
    def __init__(self): super().__init__(); self.a = nn.Linear(6, 3)
    def forward(self, x): return self.a(x)


def pruned():
    net = Two()
    prune.l1_unstructured(net.a, 'weight', 3)
    return net


def old_norm(f):
    net = Two()
    f(net.a)
    net(torch.ones(2, 6))
    return net


@pytest.mark.parametrize('make,match', [
    (lambda: nn.DataParallel(Two()), 'got DataParallel: hand over net.module'), (lambda: nn.Sequential(nn.DataParallel(Two())), "got DataParallel '0': hand over net.module"),
    (lambda: torch.compile(Two()), 'got OptimizedModule of torch.compile: hand over net._orig_mod'), (lambda: torch.jit.script(Scripted()), 'the module that it was scripted from'),
    (lambda: nn.Sequential(nn.LazyLinear(3)), "net must have seen a batch before, got the uninitialised LazyLinear '0'"), (pruned, "got Linear 'a', which is pruned: make it permanent"),
    (lambda: old_norm(nn.utils.weight_norm), "got Linear 'a' with the old WeightNorm: use torch.nn.utils.parametrizations.weight_norm"), (lambda: old_norm(nn.utils.spectral_norm), 'with the old SpectralNorm'),
    (lambda: Two, 'net must be a torch.nn.Module, got type')])
@pytest.mark.filterwarnings('ignore')
def test_kinds_that_cannot_be_taken_apart_say_what_to_do(make, match):
    with pytest.raises((ValueError, TypeError), match=match) as e: functional(make())
    assert len(str(e.value).splitlines()) == 1


def test_a_learned_tensor_that_is_no_parameter_is_refused():
    net = Two()
    net.scale = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="got Two, whose attribute 'scale' requires grad but is no parameter: use nn.Parameter"): functional(net)


def test_sparse_gradients_and_tensors_are_refused(data):
    class Embedded(nn.Module):
        @seeded
        def __init__(self, sparse): super().__init__(); self.e, self.b = nn.Embedding(5, 4, sparse=sparse), nn.Linear(4, 3)
        def forward(self, x): return self.b(self.e(x.long().clamp(0, 4)).mean(1)*x.mean(1, keepdim=True))
    refused(Embedded(True), data, "net must have dense gradients, got Embedded, whose 'e.weight' has a sparse one: use sparse=False")
    assert check_gradient(Embedded(False), syn_of(data)).ok
    net = Two()
    net.register_buffer('mask', torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="net must have dense parameters and buffers, got Two, whose 'mask' is sparse_coo"): functional(net)


def test_what_torch_cannot_differentiate_twice_is_refused_by_the_gradient_alone(data):
    net, syn = nn.Sequential(nn.Linear(6, 8), nn.Hardsigmoid(), nn.Linear(8, 3)), syn_of(data)
    with pytest.raises(ValueError, match='net must be differentiable twice, got Sequential, of which torch says ".*hardsigmoid'): Unroll()(syn, functional(net), data.batch(9, torch.Generator()))
    syn.train(net)   # an ordinary training needs no second derivative


def test_half_precision(data):
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type in which Adam's eps of 1e-8 is not 0, such as torch.float32, got torch.float16"):
        distill(syn_of(data), FixedInit(Two()), data, iters=2, dtype=torch.float16, progress=False)
    syn, x = syn_of(data, inner='adam').to(dtype=torch.float16), data.x_train[:5].half()
    with pytest.raises(ValueError, match=r"inner: eps must not be 0 in the precision of the weights, got 1e-08 for 'a.weight' of torch.float16"): trained(syn, functional(Two().half()))
    assert torch.isfinite(trained(syn.changed(inner='sgd', lr=.01), functional(Two().half()))(x)).all()


# --- right where it was wrong

class Fourier(nn.Module):
    "A filter among the frequencies: its weights are complex."
    @seeded
    def __init__(self): super().__init__(); self.w, self.out = nn.Parameter(torch.randn(4, dtype=torch.complex64)), nn.Linear(6, 3)
    def forward(self, x): return self.out(torch.fft.irfft(torch.fft.rfft(x)*self.w, n=6))


@pytest.mark.parametrize('inner', ['sgd', 'momentum', 'adam', dict(name='adam', weight_decay=.1)], ids=str)
def test_complex_weights(data, inner):
    syn = syn_of(data, inner=inner, lr=.05)
    c = check_gradient(Fourier(), syn)
    assert c.ok and max(c.errors.values()) < 1e-6
    net = syn.train(Fourier())
    assert net.w.dtype == torch.complex64 and not torch.equal(net.w, Fourier().w)


def test_complex_weights_and_more_real_examples_than_a_chunk(data):
    syn, state, batch = syn_of(data), functional(Fourier()), data.batch(200, torch.Generator().manual_seed(0))
    got, want = (torch.autograd.grad(Unroll('graph', chunk=c)(syn, state, batch), syn.images)[0] for c in (128, None))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
    assert functional(Fourier()).to(dtype=f64).params['w'].dtype == torch.complex128


@pytest.mark.parametrize('dim', [0, 1, None])
def test_weight_norm_has_the_right_second_derivative(data, dim):
    net = Two()
    parametrizations.weight_norm(net.a, dim=dim)
    c = check_gradient(net, syn_of(data, epochs=10))
    assert c.ok and max(c.errors.values()) < 1e-6
    again = syn_of(data).train(net)
    assert type(again.a.parametrizations.weight[0]).forward is type(net.a.parametrizations.weight[0]).forward and 'forward' not in vars(again.a.parametrizations.weight[0])


def grads_of(what, data, make_loss):
    "The gradient of `what` by each strategy, in float64."
    out = {}
    for s in STRATEGIES[1:]: out[s], = torch.autograd.grad(make_loss(s), [what])
    return out


def test_an_augmentation_that_is_learned(data):
    syn, state, batch = syn_of(data).to(dtype=f64), functional(Two().double()), [v.double() if v.is_floating_point() else v for v in data.batch(50, torch.Generator().manual_seed(0))]
    raw = torch.tensor(.2, dtype=f64, requires_grad=True)
    def loss(s, raw=raw): scale = raw.exp(); return Unroll(s, augment=lambda x: x*scale)(syn, state, batch)   # a leaf, and what is made of it
    got = grads_of(raw, data, loss)
    with torch.no_grad(): want = (loss('graph', raw + 1e-5) - loss('graph', raw - 1e-5)).item()/2e-5
    for s, g in got.items(): assert g.item() == pytest.approx(want, rel=1e-8) and abs(want) > 1e-3, s


def test_a_network_that_encloses_a_learned_tensor(data):
    syn, batch = syn_of(data).to(dtype=f64), [v.double() if v.is_floating_point() else v for v in data.batch(200, torch.Generator().manual_seed(0))]
    scale = torch.tensor(1.3, dtype=f64, requires_grad=True)
    class Scaled(Two):
        def forward(self, x): return super().forward(x*scale)
    net = Scaled().double()
    got = grads_of(scale, data, lambda s: Unroll(s)(syn, functional(net), batch))   # more real examples than a chunk has
    with torch.no_grad():
        def at(e): scale.add_(e); v = Unroll('graph')(syn, functional(net), batch).item(); scale.sub_(e); return v
        want = (at(1e-5) - at(-1e-5))/2e-5
    for s, g in got.items(): assert g.item() == pytest.approx(want, rel=1e-7), s


@pytest.mark.parametrize('what', ['weight_decay', 'momentum'])
def test_a_learned_rate_of_the_inner_optimiser(data, what):
    syn, state, batch = syn_of(data).to(dtype=f64), functional(Two().double()), [v.double() if v.is_floating_point() else v for v in data.batch(50, torch.Generator().manual_seed(0))]
    rate = torch.tensor(.3, dtype=f64, requires_grad=True)
    def loss(s, rate=rate): return Unroll(s)(syn.changed(inner=Inner('momentum', **{what: rate})), state, batch)
    got = grads_of(rate, data, loss)
    with torch.no_grad(): want = (loss('graph', rate + 1e-5) - loss('graph', rate - 1e-5)).item()/2e-5
    for s, g in got.items(): assert g.item() == pytest.approx(want, rel=1e-7), s


def test_a_tensor_that_comes_to_be_learned_later_is_refused(data):
    syn, batch, scale = syn_of(data), data.batch(20, torch.Generator()), torch.tensor(1.3)
    class Scaled(Two):
        def forward(self, x): return super().forward(x*scale)
    state = functional(Scaled())
    Unroll('recompute')(syn, state, batch).backward()
    scale.requires_grad_()
    with pytest.raises(ValueError, match='net must use the same learned tensors in every pass, got Scaled'): Unroll('recompute', chunk=None)(syn, state, batch).backward()


class Viewed(nn.Module):
    "A module that flattens by `view`, in train mode alone."
    @seeded
    def __init__(self, norm=True): super().__init__(); self.c, self.n, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.Linear(144, 3)
    def forward(self, x): h = torch.tanh(self.n(self.c(x))); return self.out(h.view(len(h), -1) if self.training else h.flatten(1))


@pytest.mark.parametrize('norm', [True, False])
def test_view_after_a_convolution(images, norm):
    assert check_gradient(Viewed(norm), syn_of(images)).ok
    syn_of(images).train(Viewed(norm))


class NormAct(nn.BatchNorm2d):
    "A BatchNorm with a forward pass of its own, as timm has it."
    def forward(self, x):
        if self.training and self.track_running_stats: self.num_batches_tracked.add_(1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps)
        return torch.tanh(x)


def test_a_batchnorm_with_an_activation_in_it(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), NormAct(4), nn.Flatten(), nn.Linear(144, 3))
    c = check_gradient(net, syn_of(images))
    assert c.ok and max(c.errors.values()) < 1e-6
    again = syn_of(images, epochs=5).train(net)
    assert again[1].num_batches_tracked == 5 and 'forward' not in vars(again[1])


def test_modules_in_eval_mode_stay_there(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
    net(images.x_train)   # so that the statistics are some
    net[1].eval()
    syn = syn_of(images)
    again = syn.train(net)
    assert torch.equal(again[1].running_mean, net[1].running_mean) and not torch.equal(again[0].weight, net[0].weight)
    assert not again.train()[1].training and again[2].training and check_gradient(net, syn).ok
    import pickle
    assert not pickle.loads(pickle.dumps(again)).train()[1].training
    assert not torch.equal(syn.train(net.eval())[1].running_mean, net[1].running_mean)   # all of it in eval mode, as after any use: it is trained


# --- stacking, windows, callbacks

def test_networks_as_one_are_for_objectives_whose_class_says_so(data):
    states = RandomInit(Plain, 0).draw(3)
    batches, syn = [data.batch(3, torch.Generator().manual_seed(i)) for i in range(3)], syn_of(data)   # as many examples as logits
    class Mine(Unroll):
        def __call__(self, syn, state, batch): return unroll(syn, state, lambda s: (s(batch[0]) - F.one_hot(batch[1], 3)).square().sum())
    with pytest.raises(ValueError, match='stacked must be left out for an objective whose class does not say `stacks = True`, got Mine'): hypergradients(Mine(), syn, states, batches, stacked=True)
    for o in (Poison(0, 1, weight=3.), Poison(0, 1, shy=.1), Unroll()):
        (_, a), (_, b) = (hypergradients(o, syn, states, batches, stacked=s) for s in (True, False))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Plain(nn.Sequential):
    def __init__(self): super().__init__(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@strategies
def test_a_training_goes_on_where_it_is_told_to(data, strategy):
    syn = Synthetic.real(data, ipc=1, steps=3, epochs=2, lr=torch.linspace(.1, .6, 6)).changed(inner='adam')
    state = functional(Two())
    whole, half = trained(syn, state), trained(syn, state, steps=2)
    with pytest.raises(ValueError, match='start must be given for a network that has made 2 of 6 steps, got None: start=2 goes on'): trained(syn, half)
    on = trained(syn, half, start=2)
    assert all(torch.equal(v, whole.params[k]) for k, v in on.params.items()) and on.opt['n'] == 6
    def out(s): return s.params['a.weight'].square().sum()
    assert unroll(syn, half, out, strategy, start=2).item() == out(whole).item()
    at = unroll(syn, half, lambda s: out(s[0]), strategy, at=[4], start=2)
    assert at.item() == out(trained(syn, state, steps=4)).item()
    assert trained(syn, whole).opt['n'] == 12   # a finished training is begun anew
    for bad in (-1, 7, 1.5, True):
        with pytest.raises(ValueError, match='start must be an inner step in 0..6'): trained(syn, half, start=bad)


def test_the_optimiser_of_a_callback_is_used(data):
    class Other:
        def before_run(self, loop): loop.opt = torch.optim.SGD(loop.params.values(), lr=0.)
    syn = syn_of(data)
    before = syn.images.detach().clone()
    distill(syn, FixedInit(Two()), data, iters=3, progress=False, cbs=[Other()], keep='last')
    assert torch.equal(syn.images, before)
    class Faster(Other):
        def before_run(self, loop): loop.opt = torch.optim.SGD(loop.params.values(), lr=5.)
    distill(syn, FixedInit(Two()), data, iters=3, progress=False, cbs=[Faster()], keep='last')
    assert not torch.equal(syn.images, before)


def test_an_update_that_breaks_the_set_is_named_at_once(data):
    class Break:
        def after_step(self, loop): loop.opt.param_groups[0]['initial_lr'] = float('inf')
    syn = syn_of(data)
    with pytest.raises(FloatingPointError, match='images of S must stay finite, but the update after outer step 1 has made NaN or infinity of it'):
        distill(syn, FixedInit(Two()), data, iters=5, every=1, progress=False, cbs=[Break()])
    assert torch.isfinite(syn.images).all()   # the best so far


def test_real_batches_may_hold_as_many_of_each_class(data):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g)
    few = data_from_tensors(x, torch.tensor([0]*250 + [1]*30 + [2]*20))
    seen = []
    def objective(syn, state, batch): seen.append(batch[1].bincount(minlength=3).tolist()); return Unroll()(syn, state, batch)
    distill(Synthetic.real(few, lr=.1), FixedInit(Two()), few, objective, iters=3, batch_size=30, balanced=True, progress=False)
    assert seen == [[10, 10, 10]]*3


def test_a_checkpoint_knows_the_data_by_their_contents(data, tmp_path):
    class Cut:
        def after_step(self, loop):
            if loop.it == 2: raise StopDistill
    x = data.raw_train.clone()
    x[7, 0] += .01   # one number of one example
    other = data_from_tensors(x, data.y_train, data.raw_test, data.y_test, norm=data.norm)
    same = data_from_tensors(data.raw_train.clone(), data.y_train, data.raw_test, data.y_test, norm=data.norm)
    def run(d, **kw): distill(syn_of(data), FixedInit(Two()), d, iters=4, every=1, progress=False, checkpoint=tmp_path, **kw)
    run(data, cbs=[Cut()])
    with pytest.raises(ValueError, match='belongs to another run: its real was'): run(other)
    run(same)


# --- what the door is made of

def test_leaves():
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    assert {id(v) for v in leaves_of([(a*2).exp() + b, a])} == {id(a), id(b)} and leaves_of([torch.ones(2)]) == []


def test_a_copy_of_a_used_network_shares_nothing():
    net = Looked()
    net(torch.randn(3, 6))
    new = copied(net)
    assert new.attn.grad_fn is None and torch.equal(new.attn, net.attn) and new.maps['last'] is not net.maps['last'] and net.attn.grad_fn is not None
    assert readied(new).training


def test_real_loss_in_chunks_refuses_a_network_that_encloses_a_learned_tensor(data):
    scale = torch.tensor(1.3, requires_grad=True)
    class Scaled(Two):
        def forward(self, x): return super().forward(x*scale)
    state, batch = functional(Scaled()), data.batch(200, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match='chunk must be None for a network that uses learned tensors of elsewhere, got Scaled'): real_loss(state, *batch)
    assert real_loss(state, *batch, chunk=None).requires_grad


def test_complex_weights_stay_complex_wherever_networks_are_moved_kept_and_compared(data, tmp_path):
    from dd_nb.gradient_matching import gradient_distance
    from dd_nb.pools import AgingPool,pretrain
    from dd_nb.trajectory_matching import parameter_distance, record_experts
    class Free(Fourier):
        def __init__(self): nn.Module.__init__(self); self.w, self.out = nn.Parameter(torch.randn(4, dtype=torch.complex64)), nn.Linear(6, 3)
    pool = pretrain(Free, data, tmp_path/'pool', 3, 1, progress=False)
    experts = record_experts(Free, data, tmp_path/'experts', 1, records=2, every=2, progress=False)
    for s in (pool.states[0], experts(0, 2)): assert s.params['w'].dtype == torch.complex64 and s.params['w'].imag.abs().max() > 0
    a, b = functional(Fourier()), functional(Free())
    want = sum((a.params[k] - b.params[k]).abs().square().sum() for k in a.params)
    assert parameter_distance(a, b).item() == pytest.approx(want.item()) and not parameter_distance(a, b).is_complex()
    g, h = ([p for p in s.params.values()] for s in (a, b))
    assert gradient_distance(g, h, 'mse').item() == pytest.approx(want.item()/sum(v.abs().square().sum().item() for v in h), rel=1e-5)
    ageing = AgingPool(RandomInit(Free, 0), size=2, seed=0)
    ageing.draw(1); ageing.age(syn_of(data))
    again = AgingPool(RandomInit(Free, 0), size=2, seed=0)
    again.load_state_dict(ageing.state_dict())
    for s, t in zip(ageing.states, again.states): assert all(torch.equal(v, t.params[k]) and v.dtype == t.params[k].dtype for k, v in s.params.items())


class ByMemory(Two):
    "Weights that are tied by sharing memory, not by being one parameter."
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(6, 8)
        self.c.weight.data = self.a.weight.data
    def forward(self, x): return self.b(torch.tanh(self.a(x) + self.c(x)))


class Followed(Two):
    def __init__(self): super().__init__(); self.register_buffer('view', self.a.weight.data[:2])
    def forward(self, x): return super().forward(x + self.view.mean(0))


def test_tensors_in_the_same_memory_are_refused(data):
    refused(ByMemory(), data, "net must have tensors that lie apart, got 'a.weight' and 'c.weight' in the same memory")
    refused(Followed(), data, "net must have tensors that lie apart, got '(a.weight|view)' and '(a.weight|view)' in the same memory")
    net = Two()   # slices of one block that do not overlap, as a recurrent layer on a GPU has them
    block = torch.cat([net.a.weight.data.flatten(), net.b.weight.data.flatten()])
    net.a.weight.data, net.b.weight.data = block[:48].view(8, 6), block[48:].view(3, 8)
    assert check_gradient(net, syn_of(data)).ok


class Detached(Two):
    def forward(self, x): h = self.a(x); return self.b(torch.tanh(h - h.detach().mean(0)))


class HalfBlind(Two):
    def forward(self, x):
        with torch.no_grad(): h = torch.tanh(x)   # the images are not seen through this
        return self.b(torch.tanh(self.a(h)))


class Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return (4*x).round()/4
    @staticmethod
    def backward(ctx, g): return g


class StraightThrough(Two):
    def forward(self, x): return self.b(Surrogate.apply(torch.tanh(self.a(x))))


@pytest.mark.parametrize('net', [Detached, HalfBlind, StraightThrough])
def test_what_autograd_does_not_see_is_remarked_on_once(data, net, recwarn):
    syn, batch, state = syn_of(data), data.batch(20, torch.Generator()), functional(net())
    for _ in range(2): Unroll('recompute')(syn, state, batch)
    said = [str(w.message) for w in recwarn if 'the derivative of its ' in str(w.message)]
    assert len(said) == 1 and said[0].startswith(net.__name__) and 'check_gradient(net, syn) tells' in said[0]
    c = check_gradient(net(), syn)
    assert not c.ok and 'do not trust this gradient' in repr(c) or net is StraightThrough
    syn.train(net())   # an ordinary training is what it is


def test_nothing_is_remarked_on_in_networks_that_are_right(images, recwarn):
    from dd_nb.networks import ConvNet
    for net in (Viewed(), nn.Sequential(NormActs(), ConvNet(images.shape, 3, width=4, depth=2, norm='batch', seed=0))): Unroll()(syn_of(images), functional(net), images.batch(20, torch.Generator()))
    assert not [w for w in recwarn if 'the derivative of its ' in str(w.message)]


class NormActs(nn.Module):
    def __init__(self): super().__init__(); self.n = NormAct(1)
    def forward(self, x): return torch.relu(self.n(x))


class LazyAndHidden(Two):
    "A harmless buffer of the first pass, beside a state that is none: the one must not hide the other."
    def __init__(self): super().__init__(); self.zkept = {}
    def forward(self, x):
        if not hasattr(self, 'ids'): self.register_buffer('ids', torch.zeros(()))
        return super().forward(x - self.zkept.setdefault('mean', x.detach().mean(0)) + self.ids)


def test_a_buffer_of_the_first_pass_hides_nothing(data): refused(LazyAndHidden(), data, "got LazyAndHidden, whose attribute 'zkept' the forward pass changes")
