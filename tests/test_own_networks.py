"Networks of one's own: whatever their author did in them, training gives what an ordinary loop gives, or they are refused."
import copy
import io
import pickle
import random
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dd_nb import soft_labels   # noqa: F401 - gives S `softened`
from dd_nb.data import data_from_tensors
from dd_nb.distillation import GradClip, StopDistill, distill
from dd_nb.protocols import Protocol,benchmark
from dd_nb.ordinary import accuracy
from dd_nb.evaluation import evaluate,stored_source
from dd_nb.inits import FixedInit, RandomInit, stored_init
from dd_nb.networks import LeNet, make_net
from dd_nb.rules import as_inner
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll,unroll
from dd_nb.speed import hypergradients
from dd_nb.choice import pick_strategy
from dd_nb.structure import Net,functional
from dd_nb.rules import loss_fn
from dd_nb.train import train_step,trained

f64 = torch.float64


@pytest.fixture(scope='module')
def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g, dtype=f64)
    return data_from_tensors(x, (x@torch.randn(6, 3, generator=g, dtype=f64)).argmax(1), dtype=f64)


def real(data, **kw): return Synthetic.real(data, **{**dict(ipc=2, epochs=5, lr=.1), **kw})


class Two(nn.Module):
    "Two layers, and whatever is done to them."
    def __init__(self, act=torch.tanh, seed=0, width=8):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.a, self.b = nn.Linear(6, width).double(), nn.Linear(width, 3).double()
        self.act = act
    def forward(self, x): return self.b(self.act(self.a(x)))


def loop(syn, net):
    "The ordinary loop."
    net = copy.deepcopy(net).train()
    opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 1.)
    for t in range(syn.n_steps):
        opt.param_groups[0]['lr'] = syn.lrs[t].item()
        opt.zero_grad()
        F.cross_entropy(net(syn.images[t % syn.steps].detach()), syn.labels[t % syn.steps]).backward()
        opt.step()
    return net.eval()


def same(syn, net, data): torch.testing.assert_close(syn.train(net)(data.x_test), loop(syn, net)(data.x_test), rtol=1e-9, atol=1e-9)


def relu_of_a_cell(x): return torch.relu(x)


def test_a_function_that_was_defined_again(data):
    global relu_of_a_cell
    before = relu_of_a_cell
    try:
        first = Two(relu_of_a_cell)
        same(real(data), first, data)
        def relu_of_a_cell(x): return torch.sin(3*x)
        relu_of_a_cell.__qualname__ = 'relu_of_a_cell'   # as at the top level of a notebook
        second = Two(relu_of_a_cell)
        assert functional(second).net is not functional(first).net
        same(real(data), second, data)
        same(real(data), first, data)
    finally: relu_of_a_cell = before


def test_a_patched_forward(data):
    def patched(scale):
        net = Two()
        def forward(self, x): return self.b(torch.tanh(scale*self.a(x)))
        net.forward = types.MethodType(forward, net)
        return net
    for scale in (1., 2., 1.): same(real(data), patched(scale), data)


class Tied(nn.Module):
    def __init__(self, tie):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = (nn.Linear(n, m).double() for n, m in ((6, 6), (6, 6), (6, 3)))
        if tie: self.b.weight = self.a.weight
    def forward(self, x): return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_weights_in_two_places(data):
    for tie in (False, True, False): same(real(data), Tied(tie), data)


def test_networks_that_are_alike_share_a_structure():
    a, b = (functional(Two(seed=s)) for s in (0, 1))
    assert a.net is b.net
    c = Two(seed=2)
    c.a.weight.requires_grad_(False)
    assert functional(c).net is not a.net and not functional(c).module().a.weight.requires_grad
    assert functional(make_net('LeNet', shape=(1, 28, 28), n_classes=10, seed=1)).module().spec['seed'] is None   # its weights are not those of any seed


class Scaled(Two):
    def __init__(self, scale): super().__init__(); self.spec = dict(scale=scale)
    def forward(self, x): return super().forward(x)*self.spec['scale']


def test_an_attribute_that_is_called_spec(data, tmp_path):
    for scale in (1., 5.): same(real(data), Scaled(scale), data)
    net = Scaled(2.)
    net.spec = nn.Identity()   # a spectrogram, say
    net.forward = types.MethodType(lambda self, x: self.b(self.act(self.a(self.spec(x)))), net)
    syn = real(data)
    distill(syn, FixedInit(net), data, iters=2, progress=False)
    syn.save(tmp_path/'s.safetensors')
    again = Synthetic.load(tmp_path/'s.safetensors')
    with pytest.raises(ValueError, match=r'source must be given.*stored_source\(syn, net\)'): evaluate(again, None, data)
    assert evaluate(again, stored_source(again, net), data).mean == evaluate(syn, FixedInit(net), data).mean


@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
@pytest.mark.parametrize('inner', ['sgd', 'momentum', 'adam'])
def test_frozen_parameters_stay_and_gradients_know(data, strategy, inner):
    net = Two()
    net.a.weight.requires_grad_(False)
    syn, batch = real(data, inner=inner, epochs=3, lr=.05), data.batch(50, torch.Generator().manual_seed(0))
    t = syn.train(net)
    assert torch.equal(t.a.weight, net.a.weight) and not torch.equal(t.b.weight, net.b.weight) and not torch.equal(t.a.bias, net.a.bias)
    if inner == 'sgd': same(syn, net, data)
    g, = torch.autograd.grad(Unroll(strategy)(syn, functional(net), batch), [syn.images])
    d = torch.randn(g.shape, generator=torch.Generator().manual_seed(1), dtype=f64)
    def at(e): return Unroll('graph')(syn.changed(images=syn.images.detach() + e*d), functional(net), batch).item()
    assert (g*d).sum().item() == pytest.approx((at(1e-5) - at(-1e-5))/2e-5, rel=1e-5)
    for p in net.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='net must have a parameter that requires grad'): syn.train(net)
    assert 0 <= accuracy(functional(net), data) <= 1   # it can still be looked at


def test_noise_without_a_seed_is_new_each_time(data):
    state, syn, batch = functional(nn.Sequential(nn.Linear(6, 30), nn.Dropout(.5), nn.Linear(30, 3)).double()), real(data), data.batch(60, torch.Generator())
    for strategy in ('graph', 'recompute'): assert len({Unroll(strategy)(syn, state, batch).item() for _ in range(4)}) == 4
    assert len({train_step(state, *batch, .1).params['0.weight'].sum().item() for _ in range(4)}) == 4
    torch.manual_seed(0); a = trained(syn, state)
    torch.manual_seed(0); b = trained(syn, state)
    assert all(torch.equal(a.params[k], b.params[k]) for k in a.params)
    before = torch.get_rng_state()
    trained(syn, functional(Two()))
    assert torch.equal(before, torch.get_rng_state())   # no noise, no number


def refused(net, data, match):
    syn, batch = real(data), data.batch(20, torch.Generator())
    for f in (lambda: syn.train(net), lambda: unroll(syn, functional(net), lambda s: loss_fn(s(batch[0]), batch[1])), lambda: train_step(functional(net), *batch, .1),
              lambda: evaluate(syn, FixedInit(net), data), lambda: hypergradients(Unroll(), syn, [functional(net)], [batch])):
        with pytest.raises(ValueError, match=match): f()


class Remade(Two):
    def __init__(self, reentrant): super().__init__(); self.reentrant = reentrant
    def forward(self, x): return self.b(self.act(checkpoint(self.a, x, use_reentrant=self.reentrant)))


@pytest.mark.parametrize('reentrant', [False, True])
def test_activations_that_are_made_again_are_refused(data, reentrant): refused(Remade(reentrant), data, r'net must not compute its activations again \(torch.utils.checkpoint\), got Remade')


class InPlace(Two):
    def forward(self, x): x -= x.mean(1, keepdim=True); return super().forward(x)


def test_writing_into_the_input_is_refused(data): refused(InPlace(), data, 'net must leave its input as it is, got InPlace')


class Own(Two):
    def __init__(self): super().__init__(); self.g = torch.Generator().manual_seed(0)
    def forward(self, x): return super().forward(x*torch.rand(x.shape, generator=self.g, dtype=x.dtype))


class Deep(Two):
    def forward(self, x): return super().forward(x if random.random() < .5 else .5*x)


@pytest.mark.parametrize('kind', [Own, Deep])
def test_noise_from_elsewhere_is_refused(data, kind):
    random.seed(0)
    before = random.getstate()
    refused(kind(), data, "net must draw its random numbers from torch's own generator")
    assert random.getstate() == before


@pytest.mark.parametrize('out', [lambda o: (o, o), lambda o: dict(logits=o), lambda o: o.sum(1)])
def test_what_is_no_table_of_logits_is_refused(data, out):
    class Net(Two):
        def forward(self, x): return out(super().forward(x))
    refused(Net(), data, r'net must return logits of shape \(n, classes\)')
    with pytest.raises(ValueError, match='net must return logits'): benchmark(real(data), data, FixedInit(Net()), Protocol(epochs=1), 1)


def test_a_logit_for_each_class(data):
    def net(k): return lambda: nn.Sequential(nn.Linear(6, k)).double()
    for f in (lambda s, m: s.train(m()), lambda s, m: benchmark(s, data, m, Protocol(epochs=1), 1)):
        with pytest.raises(ValueError, match='net must return a logit for each of the 3 classes, got 2'): f(real(data), net(2))
        f(real(data), net(4))   # a class that never comes
        with pytest.raises(ValueError, match='net must return a logit for each of the 3 classes, got 4'): f(real(data).softened(), net(4))


def test_states_can_be_pickled():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2*36, 3)).double()
    state, x = functional(net), torch.randn(5, 1, 8, 8, dtype=f64)
    again, buf = pickle.loads(pickle.dumps(FixedInit(net))).state, io.BytesIO()
    torch.save(state, buf); buf.seek(0)
    for s in (again, torch.load(buf, weights_only=False), copy.deepcopy(state)):
        assert torch.equal(s(x), state(x)) and s.net is state.net
        a, b = (train_step(v, x, torch.arange(5) % 3, .1) for v in (s, state))
        assert torch.equal(a.buffers['1.running_mean'], b.buffers['1.running_mean']) and not torch.equal(a.buffers['1.running_mean'], state.buffers['1.running_mean'])


def test_the_users_network_is_left_alone(data):
    net = Two().train()
    net.b.eval()
    accuracy(net, data)
    assert net.training and net.a.training and not net.b.training
    init = FixedInit(Two(seed=1)).stored()
    before = copy.deepcopy(net.state_dict())
    stored_init(init, net)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_inference_mode_and_no_grad(data):
    syn, batch = real(data), data.batch(20, torch.Generator())
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r'torch.inference_mode\(\)'): syn.train(Two())
    with torch.no_grad(): (loss,), gs = hypergradients(Unroll(), syn, [functional(Two())], [batch])
    assert gs[0].norm() > 0


def test_auto_picks_for_each_set_by_its_memory(data):
    few, many, state, batch = real(data, epochs=1), real(data, epochs=300), functional(Two()), data.batch(20, torch.Generator())
    memory = 3*pick_strategy(few, state).graph
    o = Unroll(memory=memory)
    o(few, state, batch)
    assert o.pick.strategy == 'graph'
    o(many, state, batch)
    assert o.pick.strategy == pick_strategy(many, state, memory).strategy != 'graph'
    for bad in (0, -1, float('nan'), '1GB', True):
        with pytest.raises(ValueError, match='memory must be a positive number of bytes'): pick_strategy(few, state, bad)


def test_nothing_is_kept_of_networks_that_have_gone(data):
    import gc
    def structures(): return sum(isinstance(o, Net) for o in gc.get_objects())
    syn, batch = real(data), data.batch(20, torch.Generator())
    def draw():
        net = Two(lambda x: torch.tanh(x))   # a closure: such networks share nothing
        net.a.reset_parameters()
        return net
    for s in RandomInit(draw, 0).draw(5): unroll(syn, s, lambda t: loss_fn(t(batch[0]), batch[1]))
    del s
    gc.collect()
    alive = structures()
    for s in RandomInit(draw, 1).draw(20): unroll(syn, s, lambda t: loss_fn(t(batch[0]), batch[1]))
    del s
    gc.collect()
    assert structures() <= alive + 1
    state = functional(Two())
    for _ in range(40): pick_strategy(syn, state, augment=lambda x: x)
    assert len(state.net.found) <= 16


def test_stopping_at_a_validation(data, tmp_path):
    class Stop:
        def after_eval(self, loop):
            if loop.it >= 4: raise StopDistill
    syn = real(data)
    h = distill(syn, FixedInit(Two()), data, iters=20, every=2, progress=False, cbs=[Stop()], checkpoint=tmp_path)
    assert h.it == [0, 2, 4] and syn.meta['outer_steps'] == 4 and list(tmp_path.glob('step-*4.safetensors'))
    class Late:
        def after_step(self, loop):
            if loop.it == 3: raise StopDistill
    assert distill(real(data), FixedInit(Two()), data, iters=20, every=2, progress=False, cbs=[Late(), Stop()]).it == [0, 2, 3]


def test_a_run_with_a_used_objective_is_taken_up(data, tmp_path):
    class Cut:
        def after_step(self, loop):
            if loop.it == 6: raise StopDistill
    def run(objective, **kw):
        syn = real(data)
        distill(syn, FixedInit(Two()), data, objective, iters=10, every=2, progress=False, keep='last', **kw)
        return syn.images
    o = Unroll()
    run(o, checkpoint=tmp_path, cbs=[Cut()])
    assert torch.equal(run(o, checkpoint=tmp_path), run(Unroll()))


def test_a_checkpoint_is_refused_by_another_network_clip_schedule_and_data(data, tmp_path):
    from dd_nb.distillation import step_decay
    class Cut:
        def after_step(self, loop):
            if loop.it == 4: raise StopDistill
    def run(source=None, d=data, **kw): distill(real(data), source or FixedInit(Two()), d, iters=8, every=2, progress=False, checkpoint=tmp_path, **kw)
    run(schedule=step_decay(2), clip=.5, cbs=[Cut()])
    other = data_from_tensors(-3*data.raw_train, data.y_train.flip(0), dtype=f64, norm=data.norm)
    for what, kw in dict(clip=dict(clip=3.), rates=dict(schedule=step_decay(7)), network=dict(source=FixedInit(nn.Sequential(Two()))), real=dict(d=other)).items():
        with pytest.raises(ValueError, match=f'another run: its ({what}|weights|examples) was'): run(**{**dict(schedule=step_decay(2), clip=.5), **kw})
    run(schedule=step_decay(2), clip=.5)


def test_clipping_begins_anew_and_must_be_positive(data):
    clip = GradClip(2.)
    def run(): s = real(data); distill(s, FixedInit(Two()), data, iters=4, progress=False, keep='last', clip=clip); return s.images
    assert torch.equal(run(), run()) and clip.mean is None
    for bad in (-1, 0, 'a', True, float('nan')):
        with pytest.raises(ValueError, match='clip: factor must be a positive number or None'): distill(real(data), FixedInit(Two()), data, clip=bad)


@pytest.mark.parametrize('args,match', [
    (dict(syn=torch.zeros(3)), 'syn must be a Synthetic, got Tensor'), (dict(data=(1, 2)), 'data must be a Data, got tuple'), (dict(source=Two()), 'source must be a FixedInit'), (dict(source=None), 'source must be a FixedInit'),
    (dict(objective=5), 'objective must be a function'), (dict(objective=lambda *_: 1.), 'objective must return a scalar tensor'), (dict(objective=lambda s, *_: s.images.sum((0, 1))), 'objective must return a scalar tensor'),
    (dict(objective=lambda s, *_: s.images.detach().sum()), 'objective must return a scalar tensor'), (dict(every=0), 'every must be at least 1'), (dict(every=2.5), 'every must be a whole number'), (dict(lr='a'), 'lr must be a finite'),
    (dict(lr=None), 'lr must be a finite'), (dict(average='x'), 'average must be in'), (dict(betas=(.5,)), 'betas must be two numbers'), (dict(schedule=5), 'schedule must be one of')])
def test_distill_says_what_it_wants(data, args, match):
    a = {**dict(syn=real(data), source=FixedInit(Two()), data=data, iters=2, progress=False), **args}
    with pytest.raises((ValueError, TypeError), match=match): distill(**a)


def test_more_that_is_said(data):
    syn, state = real(data), functional(Two())
    for at in (3, [1.7], ['a'], [True]):
        with pytest.raises(TypeError, match='at must be a list of whole numbers'): unroll(syn, state, lambda s: s[0].params['a.bias'].sum(), at=at)
    for seed in ('a', 1.5, True):
        with pytest.raises(TypeError, match='seed must be a whole number or None'): RandomInit(Two, seed)
    with pytest.raises(ValueError, match='n must be at least 0'): RandomInit(Two, 0).draw(-1)
    assert len(RandomInit(LeNet_, 2**70).draw(2)) == 2
    with pytest.raises(ValueError, match='weight_decay must be finite'): as_inner(dict(name='sgd', weight_decay=float('nan')))


def LeNet_(): return LeNet((1, 28, 28), 10)


def test_draws_are_those_of_the_seed_whatever_other_threads_do():
    from concurrent.futures import ThreadPoolExecutor
    def draw(_): return [s.params['a.weight'].sum().item() for s in RandomInit(Seedless, 0).draw(40)]
    with ThreadPoolExecutor(3) as pool: assert len({tuple(v) for v in pool.map(draw, range(6))}) == 1


class Seedless(Two):
    def __init__(self): super().__init__(); self.a.reset_parameters()


def test_a_network_without_a_gradient_is_refused(data):
    class Cut(Two):
        def forward(self, x): return super().forward(x).detach()
    refused(Cut(), data, 'net must return logits that depend on its parameters')
    with torch.no_grad(): trained(real(data), functional(nn.Sequential(Two())))   # seen for the first time where nothing is recorded
