"The outer loop."
import ast
import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from dd_nb.data import data_from_tensors, load_data
from dd_nb.distillation import LR_RANGE, GradClip, StopDistill, TimeLimit, cosine_decay, distill, step_decay
from dd_nb.ordinary import accuracy
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.networks import MLP, LeNet, Logistic
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll
from dd_nb.train import trained


def mlp(seed=0): return MLP((6,), 3, seed=seed)


def run(blobs, **kw):
    syn = kw.pop('syn', None) or Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    kw = dict(iters=40, batch_size=32, progress=False, every=10) | kw
    return syn, distill(syn, kw.pop('source', FixedInit(mlp())), blobs, **kw)


def test_it_learns(blobs):
    syn, h = run(blobs, iters=200)
    before = evaluate(Synthetic.noise(blobs.shape, 3, lr=.1, seed=0), FixedInit(mlp()), blobs).mean
    after = evaluate(syn, None, blobs)
    assert after.mean > .95 > before + .2 and len(after.all) == 1
    assert h.accuracy[-1] > h.accuracy[0] and h.it == list(range(0, 201, 10)) and h.skipped == 0
    assert len(h.lrs[0]) == 3 and len(h.snapshots) <= 25 and h._repr_png_()[:4] == b'\x89PNG'


def test_it_is_adam_on_the_hypergradient(blobs):
    "Ten outer steps written out by hand give the same images, bit for bit."
    syn, _ = run(blobs, iters=10, n_valid=0, keep='last', clip=None, schedule='constant', lr=.03, lr_lrs=.02, betas=(.8, .9), seed=5)
    ref = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    opt = torch.optim.Adam([dict(params=[ref.images], lr=.03), dict(params=[ref.raw_lrs], lr=.02)], betas=(.8, .9))
    gen = torch.Generator().manual_seed(5)
    state = FixedInit(mlp()).draw(1)[0]
    for _ in range(10):
        opt.zero_grad()
        Unroll()(ref, state, blobs.batch(32, gen)).backward()
        opt.step()
    assert torch.equal(ref.images, syn.images) and torch.equal(ref.raw_lrs, syn.raw_lrs)


def test_one_seed_one_result(blobs):
    for source in (lambda: FixedInit(mlp()), lambda: RandomInit(lambda: MLP((6,), 3))):
        a, b, c = (run(blobs, source=source(), seed=s)[0].images for s in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
    used = RandomInit(lambda: MLP((6,), 3), seed=0)
    a = run(blobs, source=used)[0].images
    used.draw(3)
    assert torch.equal(a, run(blobs, source=used)[0].images)


def test_several_networks_are_averaged(blobs):
    source = RandomInit(lambda: MLP((6,), 3), seed=0)
    syn, _ = run(blobs, source=source, iters=1, n_nets=3, n_valid=0, keep='last', clip=None, lr=1., betas=(0., 0.), lr_lrs=0.)
    start = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    gen = torch.Generator().manual_seed(0)
    g = 0
    for s in RandomInit(lambda: MLP((6,), 3), seed=0).draw(3): g = g + torch.autograd.grad(Unroll()(start, s, blobs.batch(32, gen)), start.images)[0]
    assert torch.allclose(syn.images - start.images, -g.sign(), atol=1e-2)     # Adam without memory moves by the sign


def test_the_best_iterate_is_kept_and_the_best_is_by_validation(blobs):
    seen = []
    class Spy:
        def after_eval(self, loop): seen.append((loop.accuracy, loop.syn.images.detach().clone(), loop.data))
    syn, h = run(blobs, iters=60, cbs=[Spy()], lr=.5, lr_lrs=.1, schedule='constant')
    best = max(a for a, *_ in seen)
    assert h.best_accuracy == best == max(h.accuracy)
    assert any(torch.equal(im, syn.images) and a == best for a, im, _ in seen)
    last, _ = run(blobs, iters=60, lr=.5, lr_lrs=.1, schedule='constant', keep='last')
    assert torch.equal(last.images, seen[-1][1])
    valid = seen[0][2]
    assert len(valid.y_test) + len(valid.y_train) == len(blobs.y_train)
    frozen = syn.copy()
    assert accuracy(trained(frozen, FixedInit(mlp()).draw(1)[0]), valid) == best


def test_test_labels_change_nothing(blobs):
    "Leak test: with the test labels permuted every choice is the same."
    other = data_from_tensors(blobs.raw_train, blobs.y_train, blobs.raw_test, (blobs.y_test + 1) % 3, name='blobs')
    (a, ha), (b, hb) = run(blobs), run(other)
    assert torch.equal(a.images, b.images) and torch.equal(a.raw_lrs, b.raw_lrs) and ha.best_it == hb.best_it and ha.accuracy == hb.accuracy


def test_average_of_iterates_is_a_candidate(blobs):
    syn, h = run(blobs, iters=60, average=.9)
    assert all(0 <= a <= 1 for a in h.mean_accuracy[1:]) and h.best_accuracy == max(h.accuracy + h.mean_accuracy[1:])


def test_the_users_network_and_source_are_not_changed(blobs):
    net = mlp()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    source = FixedInit(net)
    run(blobs, source=source, dtype=torch.float64)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in source.draw(1)[0].params.items())


def test_stopping(blobs):
    class Stop:
        def after_step(self, loop):
            if loop.it == 7: raise StopDistill
    _, h = run(blobs, cbs=[Stop()])
    assert h.it[-1] == 7 and h.best_it in h.it
    _, h = run(blobs, iters=10**6, every=10**5, cbs=[TimeLimit(.3)])
    assert h.seconds[-1] < 5


def test_an_error_or_interrupt_keeps_the_best(blobs):
    class Interrupt:
        def after_step(self, loop):
            if loop.it == 25: raise KeyboardInterrupt
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    start = syn.images.detach().clone()
    with pytest.raises(KeyboardInterrupt): distill(syn, FixedInit(mlp()), blobs, iters=40, every=10, batch_size=32, progress=False, cbs=[Interrupt()])
    assert syn.meta['best_it'] in (10, 20) and not torch.equal(syn.images, start) and syn.init


class Sometimes(Unroll):
    "An objective whose gradient is NaN on chosen calls."
    def __init__(self, bad): super().__init__(); self.bad, self.n = bad, 0
    def __call__(self, *args):
        self.n += 1
        return super().__call__(*args)*(math.nan if self.n in self.bad else 1.)


def test_non_finite_gradients_are_skipped_counted_and_fatal_after_ten(blobs):
    syn, h = run(blobs, objective=Sometimes({3, 4, 9}))
    assert h.skipped == 3 and torch.isfinite(syn.images).all() and h.it[-1] == 40
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    with pytest.raises(FloatingPointError, match='10 times in a row, up to outer step 21: every inner step of 3 is finite.*; lower lr'):
        distill(syn, FixedInit(mlp()), blobs, objective=Sometimes(range(13, 99)), iters=40, every=10, batch_size=32, progress=False)
    assert torch.isfinite(syn.images).all() and syn.meta['best_it'] in (0, 10, 20)


def test_clip():
    clip = GradClip(2.)
    p = torch.zeros(4, requires_grad=True)
    p.grad = torch.full((4,), .5); assert clip([p]) and torch.equal(p.grad, torch.full((4,), .5)) and clip.mean == 1.
    p.grad = torch.full((4,), 50.); assert clip([p]) and abs(p.grad.norm() - 2.) < 1e-5 and abs(clip.mean - 1.01) < 1e-6
    p.grad = torch.full((4,), math.inf); assert not clip([p]) and abs(clip.mean - 1.01) < 1e-6
    off = GradClip(None)
    p.grad = torch.full((4,), 50.); off([p]); off([p]); assert p.grad[0] == 50


def test_schedules():
    assert cosine_decay(0, 10) == 1 and abs(cosine_decay(5, 10) - .5) < 1e-9 and abs(cosine_decay(10, 10)) < 1e-9
    s = step_decay(4, .5)
    assert [s(i, 99) for i in (0, 3, 4, 8)] == [1, 1, .5, .25]


def test_what_a_result_remembers(blobs, tmp_path):
    syn, h = run(blobs)
    again = Synthetic.load(syn.save(tmp_path/'a.safetensors'))
    assert again.meta['data']['name'] == 'blobs' and again.meta['source']['net']['name'] == 'MLP' and again.meta['seed'] == 0
    assert again.meta['best_it'] == h.best_it
    assert evaluate(again, None, blobs).all == evaluate(syn, FixedInit(mlp()), blobs).all
    random, _ = run(blobs, source=RandomInit(lambda: MLP((6,), 3)))
    assert random.init is None and len(evaluate(Synthetic.load(random.save(tmp_path/'b.safetensors')), None, blobs, n_nets=3).all) == 3


def test_images_on_digits():
    data = load_data('digits')
    net = LeNet(seed=0)
    syn = Synthetic.means(data, lr=.2)
    start = evaluate(syn, FixedInit(net), data).mean
    distill(syn, FixedInit(net), data, iters=40, batch_size=64, progress=False)
    assert evaluate(syn, FixedInit(net), data).mean > start + .1


BAD = [(dict(iters=0), ValueError, 'iters must be at least 1'), (dict(iters=2.), TypeError, 'iters must be a whole number'),
       (dict(batch_size=0), ValueError, 'batch_size'), (dict(n_nets=0), ValueError, 'n_nets'), (dict(keep='worst'), ValueError, "keep must be 'best' or 'last'"),
       (dict(schedule='linear'), ValueError, 'schedule must be one of'), (dict(lr=-1), ValueError, 'lr must be a finite number'),
       (dict(lr_lrs=math.nan), ValueError, 'lr_lrs must be a finite'), (dict(n_valid=0), ValueError, 'n_valid must be positive'), (dict(n_valid=10**6), ValueError, '^n_valid must be at most 447'),
       (dict(average=1.5), ValueError, 'average must be')]


@pytest.mark.parametrize('kw, error, text', BAD, ids=[t for *_, t in BAD])
def test_bad_arguments(blobs, kw, error, text):
    with pytest.raises(error, match=text): run(blobs, **kw)


def test_a_set_for_other_data_is_refused(blobs):
    with pytest.raises(ValueError, match='examples of shape'): distill(Synthetic.noise((1, 28, 28), 3), FixedInit(mlp()), blobs, progress=False)
    with pytest.raises(ValueError, match='4 classes'): distill(Synthetic.noise((6,), 4), FixedInit(mlp()), blobs, progress=False)


def test_two_classes():
    "The original mis-evaluates two classes; here they are two logits like any other."
    g = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    d = data_from_tensors(torch.randn(300, 4, generator=g) + 4*F.one_hot(y, 4), y)
    syn = Synthetic.means(d, lr=.5)
    distill(syn, FixedInit(Logistic((4,), 2, seed=0)), d, iters=20, batch_size=32, progress=False)
    assert evaluate(syn, None, d).mean > .95


def test_an_inner_training_that_diverges_is_named_and_the_last_good_set_is_kept(blobs):
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0, epochs=4)
    with torch.no_grad(): syn.raw_lrs[2] = 1e38
    images = syn.images.detach().clone()
    with pytest.raises(FloatingPointError, match=r'up to outer step 9: the weights stop being finite at inner step [23] of 4.*lower lr, lr_lrs or the starting step sizes'):
        distill(syn, FixedInit(mlp()), blobs, iters=40, progress=False)
    assert torch.equal(syn.images, images) and torch.isfinite(syn.images).all()


def test_progress_shows_what_was_skipped(blobs, capsys, monkeypatch):
    monkeypatch.delenv('CI', raising=False)   # where no bar is shown
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    distill(syn, FixedInit(mlp()), blobs, objective=Sometimes({3, 4}), iters=20, every=5, batch_size=32)
    assert '2 skipped' in capsys.readouterr().err


def test_several_networks_are_averaged_whatever_the_threads(blobs):
    def run(threads):
        syn, before = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0), torch.get_num_threads()
        torch.set_num_threads(threads)
        try: distill(syn, RandomInit(lambda: MLP((6,), 3).double(), seed=0), blobs, iters=20, n_nets=3, dtype=torch.float64, progress=False, keep='last')
        finally: torch.set_num_threads(before)
        return syn.images.detach()
    a, b = run(1), run(2)
    assert (a-b).norm() < 1e-8*b.norm()


def test_step_sizes_stay_in_their_range(blobs):
    "Pushed a thousand million along its raw axis, a step size ends at a bound of the range, and is counted."
    syn, h = run(blobs, iters=3, n_valid=0, keep='last', clip=None, lr_lrs=1e9)
    assert h.bounded == 3 and all(any(v == pytest.approx(b, rel=1e-3) for b in LR_RANGE) for v in syn.lrs.tolist())
    assert run(blobs)[1].bounded == 0


def test_a_loss_that_is_not_finite_has_no_gradient(blobs):
    class Half:
        n = 0
        def __call__(self, syn, state, batch):
            self.n += 1
            return syn.images.sum() + (math.inf if self.n % 2 else 0)
    syn, h = run(blobs, objective=Half(), iters=6, n_valid=0, keep='last')
    assert h.skipped == 3 and torch.isfinite(syn.images).all()


def test_a_largest_norm():
    p = torch.zeros(4, requires_grad=True)
    clip = GradClip(2., max_norm=.5)
    for norm, left in ((3., .5), (.4, .4), (30., .5)):
        p.grad = torch.full((4,), norm/2)
        assert clip([p]) and p.grad.norm().item() == pytest.approx(left)
    p.grad = torch.full((4,), 8.)
    assert GradClip(None, max_norm=2.)([p]) and p.grad.norm().item() == pytest.approx(2.)


def test_the_loop_is_short_enough_to_be_read():
    "At most 50 lines, the documented arguments and the docstring apart."
    [f] = ast.parse(inspect.getsource(distill)).body
    assert f.body[-1].end_lineno - f.body[1].lineno + 1 <= 50


def test_callbacks_hear_four_events_and_see_the_variables_of_the_loop(blobs):
    heard, names = [], ('syn source data opt params gen noise objective it iters n_evals loss accuracy mean_accuracy seconds started clip history run '
                        'ranks total count best mean').split()
    class Spy:
        def __getattr__(self, event):
            def f(loop):
                assert not [k for k in names if not hasattr(loop, k)]
                heard.append((event, loop.it))
            return f
    run(blobs, iters=2, every=1, average=.9, cbs=[Spy()])
    assert heard == [('before_run', 0), ('after_eval', 0), ('after_step', 1), ('after_eval', 1), ('after_step', 2), ('after_eval', 2), ('after_run', 2)]


def test_callbacks_stand_in_one_order(blobs):
    seen = []
    class Look:
        def before_run(self, loop): seen.extend(type(cb).__name__ for cb in loop.cbs)
    run(blobs, iters=1, average=.9, cbs=[Look()])
    assert seen == 'Keeper Rates Clipping Bounds Average Ageing Clock KeepBest Remember Together Validation'.split()


class Blended(torch.nn.Module):
    "An augmentation with a strength that can be learned."
    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(.1))
    def forward(self, x): return x + self.strength*x.flip(0)


def test_any_outer_optimiser(blobs, tmp_path):
    from functools import partial
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0)
    start, got = syn.images.detach().clone(), []
    class Keep:
        def after_step(self, loop): got.append(loop.params['images'].grad.clone())
    run(blobs, syn=syn, iters=1, outer=torch.optim.SGD, lr=.3, clip=None, schedule='constant', keep='last', cbs=[Keep()])
    assert torch.allclose(syn.images, start - .3*got[0], atol=1e-6) and got[0].norm() > 0
    for i, outer in enumerate((partial(torch.optim.SGD, momentum=.9, lr=.1), torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop)):
        whole, _ = run(blobs, iters=12, every=4, outer=outer, lr=.02)
        class Cut:
            def after_eval(self, loop):
                if loop.it == 8: raise StopDistill
        run(blobs, iters=12, every=4, outer=outer, lr=.02, checkpoint=tmp_path/str(i), cbs=[Cut()])
        again, _ = run(blobs, iters=12, every=4, outer=outer, lr=.02, checkpoint=tmp_path/str(i))
        assert torch.equal(again.images, whole.images), outer
    with pytest.raises(ValueError, match='belongs to another run: its outer was'):
        run(blobs, iters=12, every=4, outer=torch.optim.Adam, lr=.02, checkpoint=tmp_path/'0')


@pytest.mark.parametrize('outer,says', [('Adam', 'outer must be a function'), (lambda g: torch.optim.LBFGS([p for i in g for p in i['params']]), 'got LBFGS'), (lambda g: 3, 'return a torch.optim.Optimizer'),
                                        (lambda g: torch.optim.SGD(g[:1]), 'take all 2 that are learned')])
def test_outer_optimisers_that_cannot_be(blobs, outer, says):
    with pytest.raises(ValueError, match=says): run(blobs, iters=1, outer=outer)


def test_constants_of_the_inner_rule_are_learned(blobs, tmp_path):
    from dd_nb.rules import layer_rates
    inner = dict(name='momentum', momentum=.5, weight_decay=.01, rates=layer_rates(mlp()))
    def start(): return Synthetic.noise(blobs.shape, 3, epochs=3, lr=.1, seed=0, inner=inner, learn=('images', 'lrs', 'inner.momentum', 'inner.weight_decay', 'inner.rates'))
    syn, _ = run(blobs, syn=start(), iters=20)
    now = syn.plain_inner()
    assert now.momentum != .5 and now.weight_decay != .01 and len({v for _, v in now.rates}) > 2 and {*dict(now.rates)} == {*dict(inner['rates'])}
    back = Synthetic.load(syn.save(tmp_path/'a.safetensors'))
    assert all(torch.equal(a, b) for a, b in zip(back.tensors().values(), syn.tensors().values())) and back.plain_inner() == now
    assert evaluate(back, None, blobs).mean == evaluate(syn, None, blobs).mean
    assert evaluate(back, None, blobs).mean == evaluate(syn.changed(learn=('images',)), None, blobs).mean
    for s in (syn.copy(), syn.changed(epochs=3)): assert s.plain_inner().momentum == pytest.approx(now.momentum, rel=1e-6)
    with pytest.raises(ValueError, match='weight_decay must be positive where it is learned, got 0'):
        Synthetic.noise(blobs.shape, 3, inner='momentum', learn=('inner.weight_decay',))
    with pytest.raises(ValueError, match="learn must name some of images, lrs, inner.momentum"): Synthetic.noise(blobs.shape, 3, learn=('inner.eps',))


@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
def test_gradients_of_constants_and_of_what_belongs_to_others(blobs, strategy, check_against_differences):
    from dd_nb.rules import layer_rates, loss_fn
    from dd_nb.structure import functional
    from dd_nb.unrolling import unroll
    net = MLP((6,), 3, hidden=(5,), act='softplus', seed=0)
    inner = dict(name='momentum', momentum=.5, weight_decay=.01, rates=layer_rates(net))
    syn = Synthetic.noise(blobs.shape, 3, epochs=4, lr=.1, seed=0, inner=inner, learn=('images', 'lrs', 'inner.momentum', 'inner.weight_decay', 'inner.rates')).to(dtype=torch.float64)
    x, y = blobs.x_train[:30].double(), blobs.y_train[:30]
    state = functional(net.double())
    check_against_differences(lambda s: unroll(s, state, lambda t: loss_fn(t(x), y), strategy), syn)


def test_initial_weights_and_augmentations_are_learned(blobs):
    net, aug = mlp(), Blended()
    source = FixedInit(net)
    before = {k: v.clone() for k, v in source.state.params.items()}
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0, learn=('images', 'source.params', 'objective.augment'))
    run(blobs, syn=syn, source=source, objective=Unroll('recompute', augment=aug), iters=15)
    assert aug.strength.item() != pytest.approx(.1, abs=1e-4)
    assert any(not torch.equal(syn.init['params'][k], v) for k, v in before.items())                 # learned, and kept with S
    assert all(torch.equal(source.state.params[k], v) and not source.state.params[k].requires_grad for k, v in before.items())
    assert evaluate(syn, None, blobs).mean > .5
    batchnorm = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0, learn=('images', 'source.buffers'))
    run(blobs, syn=syn, source=FixedInit(batchnorm), iters=10)
    assert syn.init['buffers']['1.running_mean'].abs().max() > 0 and (syn.init['buffers']['1.running_var'] > 0).all()
    for learn, says in ((('source.speed',), 'it has buffers, params|it has params'), (('objective.augment',), 'it has none')):
        with pytest.raises(ValueError, match=says): run(blobs, syn=Synthetic.noise(blobs.shape, 3, seed=0, learn=('images', *learn)), iters=1)
