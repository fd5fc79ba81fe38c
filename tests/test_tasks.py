"Numbers and several labels at once, in place of classes: data, starts, objectives, judges, files, commands, refusals."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, r2_score
from torch import nn

from dd_nb import cli
from dd_nb.all import (MLP, DistributionMatch, FeatureRidge, FixedInit, GradientMatch, KernelRidge, Poison, RandomInit, Synthetic,
                       TrajectoryMatch, Unroll, benchmark, check_gradient, data_from_tensors, distill, evaluate, functional, load_data,
                       pretrain, record_experts, split_validation, unroll)
from dd_nb.coresets import STARTS, started
from dd_nb.core import BadArgument
from dd_nb.evaluation import Score, check_fits
from dd_nb.ordinary import scored
from dd_nb.rules import LOSSES, Inner
from dd_nb.soft_labels import confusion
from dd_nb.speed import real_loss
from dd_nb.tasks import TASKS, check_answers, loss_for
from dd_nb.train import trained


def made(task, k=2, n=300, dtype=torch.float32):
    "Six numbers, from which `k` answers follow, with a little noise."
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=g)
    out = x @ torch.randn(6, k, generator=g) + .1*torch.randn(n, k, generator=g)
    y = 40 + 7*out if task == 'numbers' else (out > 0).float()
    return data_from_tensors(x[:200], y[:200], x[200:], y[200:], name=task, task=task).to(dtype=dtype)


@pytest.fixture(scope='module', params=['numbers', 'labels'])
def data(request): return made(request.param)


def smooth(seed=0, k=2): return MLP((6,), k, hidden=(8,), act='softplus', seed=seed)


def relative(a, b): return ((a - b).norm()/b.norm()).item()


def started64(task, **kw):
    "A set in float64 whose images, labels and step sizes are learned; and its data."
    d = made(task, dtype=torch.float64)
    kw = dict(ipc=6, steps=1, epochs=3, lr=.1, learn=('images', 'labels', 'lrs')) | kw
    return Synthetic.real(d, **kw).to(dtype=torch.float64), d


# --- measures -----------------------------------------------------------------------------------------------------------

def test_scores_are_those_of_scikit_learn():
    g = torch.Generator().manual_seed(0)
    out, y = torch.randn(50, 3, generator=g), torch.randn(50, 3, generator=g)
    close = y + .3*out
    assert TASKS['numbers'].score(close, y) == pytest.approx(r2_score(y, close))
    several = (y > .5).float()
    assert TASKS['labels'].score(close, several) == pytest.approx(average_precision_score(several, close))
    classes = y.argmax(1)
    assert TASKS['classes'].score(close, classes) == (close.argmax(1) == classes).double().mean()


def test_a_diverged_regression_scores_minus_one():
    y = torch.randn(20, 1)
    assert TASKS['numbers'].score(torch.full((20, 1), torch.nan), y) == -1
    assert TASKS['numbers'].score(1e6*y, y) == -1
    assert TASKS['numbers'].score(y, y) == 1


def test_labels_that_nobody_has_do_not_count():
    y = torch.tensor([[1., 0], [0, 0], [1, 0], [0, 0]])
    out = torch.tensor([[1., 9], [0, 3], [2, 1], [-1, 5]])
    assert TASKS['labels'].score(out, y) == 1
    assert TASKS['labels'].score(out, torch.zeros(4, 2)) == 0
    assert TASKS['labels'].score(torch.full((4, 2), torch.nan), y) == pytest.approx(.5)   # as chance has it


def test_answers_are_judged_in_the_units_of_the_data():
    d = made('numbers', 1)
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(1))
        def forward(self, x): return self.b.expand(len(x), 1)
    judged = scored(Mean(), d)
    off = (d.in_units(d.y_test) - d.in_units(torch.zeros(1, 1))).abs().mean().item()
    assert judged.error == pytest.approx(off, rel=1e-5) and abs(judged.accuracy) < .05
    assert not judged.constant


# --- data ---------------------------------------------------------------------------------------------------------------

def test_numbers_are_kept_in_standard_deviations_of_the_training_split():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=g), 1e5 + torch.randn(40, 2, generator=g)
    d = data_from_tensors(x[:30], y[:30], x[30:], y[30:], task='numbers', classes=['a', 'b'])
    assert torch.allclose(d.y_train.mean(0), torch.zeros(2), atol=1e-4) and torch.allclose(d.y_train.std(0, correction=0), torch.ones(2))
    assert torch.allclose(d.in_units(d.y_test.double()), y[30:].double(), atol=1e-2)
    assert d.classes == ['a', 'b'] and '2 numbers' in repr(d) and d.groups == 1
    assert d.to(dtype=torch.float64).units == d.units and d.describe()['task'] == 'numbers'
    v = split_validation(d, 10)
    assert (len(v.y_train), len(v.y_test), v.task) == (20, 10, 'numbers') and v.units == d.units


def test_one_column_may_come_flat():
    d = data_from_tensors(torch.randn(20, 3), torch.arange(20), task='numbers')
    assert d.y_train.shape == (14, 1) and '1 number,' in repr(d)


def test_the_task_is_part_of_the_digest():
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    assert data_from_tensors(x, y).digest != data_from_tensors(x, y[:, None], task='labels').digest


@pytest.mark.parametrize('y, task, said', [
    (torch.tensor([1., 2, torch.nan, 4]), 'numbers', 'y_train holds NaN or infinite values'),
    (torch.ones(4), 'numbers', "y_train holds one number throughout for '0'"),
    (torch.arange(4.), 'labels', 'y_train must hold zeros and ones'),
    (torch.arange(3.), 'numbers', 'y_train has 3 rows, but x_train has 4 examples'),
    (torch.zeros(4, 2, 2), 'numbers', r'y_train must have shape \(N,\) or \(N, k\)'),
    (torch.arange(4)*1j, 'numbers', 'y_train must hold real numbers'),
    ('abcd', 'numbers', 'y_train must be a tensor or an array of numbers'),
    (torch.arange(4), 'number', 'task must be one of classes, labels, numbers'),
    (torch.arange(4.), 'classes', "numbers are for task='numbers'")])
def test_what_is_no_answer_is_refused(y, task, said):
    with pytest.raises(ValueError, match=said): data_from_tensors(torch.randn(4, 3), y, torch.randn(4, 3), y, task=task)


def test_a_constant_in_fractions_is_seen():
    with pytest.raises(ValueError, match='one number throughout'):
        data_from_tensors(torch.randn(30, 3), torch.full((30,), .1), task='numbers')


def test_columns_of_the_test_split_must_be_those_of_the_training_split():
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    with pytest.raises(BadArgument, match='y_test must have 2 columns like y_train'): data_from_tensors(x, y, x, y[:, :1], task='numbers')
    with pytest.raises(BadArgument, match='classes must name 2 columns'): data_from_tensors(x, y, task='numbers', classes=['a'])


def test_a_label_that_tells_nothing_apart_is_remarked():
    y = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]])
    with pytest.warns(UserWarning, match="the same answer for every training example in 'b'"):
        data_from_tensors(torch.randn(4, 3), y, torch.randn(4, 3), y, task='labels', classes=['a', 'b'])


def test_what_goes_by_class_is_refused(data):
    for f in (lambda: data.counts, lambda: data.batch(4, classes=1), lambda: data.batch(4, balanced=True), data.show):
        with pytest.raises(BadArgument, match="task must be 'classes' for"): f()


# --- tables and files ---------------------------------------------------------------------------------------------------

@pytest.fixture
def houses(tmp_path):
    g = np.random.RandomState(0)
    rows = g.rand(60, 3).round(3)
    lines = [f'{a},{b},{c},{10*a - b:.3f},{int(a > .5)},{int(b > .5)}' for a, b, c in rows]
    path = tmp_path/'houses.csv'
    path.write_text('\n'.join(['rooms,age,far,price,garden,lift', *lines]))
    return path


def test_columns_of_a_table(houses):
    d = load_data(houses, task='numbers', target='price')
    assert (d.shape, d.classes, d.task) == ((5,), ['price'], 'numbers')
    d = load_data(str(houses), task='labels', target=['lift', 'garden'])
    assert (d.shape, d.classes, d.task) == ((4,), ['garden', 'lift'], 'labels') and set(d.y_train.unique().tolist()) == {0, 1}
    last = np.genfromtxt(houses, delimiter=',', skip_header=1)
    d = load_data(houses, task='numbers', target=-3, test_frac=.1)
    assert torch.allclose(d.in_units(torch.cat([d.y_train, d.y_test])).sort(0)[0][:, 0].double(), torch.tensor(last[:, 3]).sort()[0], atol=1e-4)


def test_columns_without_names(tmp_path):
    path = tmp_path/'bare.csv'
    path.write_text('\n'.join(f'{i*.37 % 1:.3f},{i*.71 % 1:.3f},{i*.5:.2f}' for i in range(30)))
    assert load_data(path, task='numbers', target='2', header=False).classes == ['2']
    assert load_data(path, task='numbers', target=2, header=False).shape == (2,)


def test_no_column_is_guessed(houses):
    with pytest.raises(BadArgument, match="target must name the columns to predict, for task='numbers'"): load_data(houses, task='numbers')
    with pytest.raises(BadArgument, match='target must be one of the columns'): load_data(houses, task='numbers', target='prize')
    with pytest.raises(BadArgument, match='task must be one of'): load_data(houses, task='number', target='price')
    with pytest.raises(ValueError, match='task must be left out for the set'): load_data('digits', task='numbers')
    with pytest.raises(BadArgument, match='zeros and ones'): load_data(houses, task='labels', target='price')


def test_arrays(tmp_path):
    x, y = np.random.RandomState(0).rand(30, 4), np.random.RandomState(1).rand(30)
    np.savez(tmp_path/'a.npz', x=x, y=y)
    d = load_data(tmp_path/'a.npz', task='numbers')
    assert d.task == 'numbers' and len(d.y_train) == 21


def test_a_set_keeps_its_task_in_its_file(data, tmp_path):
    syn = Synthetic.kmeans(data, ipc=5, learn=('images', 'labels', 'lrs'))
    back = Synthetic.load(syn.save(tmp_path/'s.safetensors'))
    assert (back.task, back.n_classes, back.rule) == (data.task, 2, syn.rule)
    assert torch.equal(back.images, syn.images) and torch.equal(back.labels, syn.labels)
    assert syn.changed(lr=.3).task == syn.copy().task == syn.shuffled().task == syn.minibatches(5).task == data.task
    assert syn.bytes_by_part()['labels'] == 5*2*4


def test_sets_of_old_keep_their_format(tmp_path, blobs):
    from dd_nb.format import read_tensors
    head = read_tensors(Synthetic.real(blobs).save(tmp_path/'s.safetensors'))[1]
    assert head['format'] == 3 and 'task' not in head


# --- S ------------------------------------------------------------------------------------------------------------------

def test_the_loss_of_a_task_is_the_default():
    for task, loss in (('numbers', 'mse'), ('labels', 'bce')):
        assert Synthetic.real(made(task), ipc=3).rule.loss == loss
    assert Synthetic.real(made('numbers'), ipc=3, inner=dict(name='adam', loss='huber')).rule == Inner('adam', loss='huber')
    with pytest.raises(BadArgument, match="inner: loss must be one of mse, huber for task='numbers'"):
        Synthetic.real(made('numbers'), ipc=3, inner=dict(loss='bce'))
    assert loss_for('cross_entropy', 'classes') == 'cross_entropy'


@pytest.mark.parametrize('name', STARTS)
def test_starts_have_ipc_examples_a_step_in_all(data, name):
    syn = started(name, data, ipc=4, steps=2, seed=0)
    assert syn.images.shape == (2, 4, 6) and syn.labels.shape == (2, 4, 2) and syn.task == data.task
    check_fits(syn, data)


def test_a_real_example_has_its_own_label(data):
    syn = Synthetic.real(data, ipc=7, seed=3)
    for x, y in zip(syn.images[0], syn.labels[0]):
        i = ((data.x_train - x).abs().sum(1)).argmin()
        assert torch.equal(data.x_train[i], x) and torch.equal(data.y_train[i], y)


@pytest.mark.parametrize('name', ['means', 'kmeans'])
def test_an_average_has_the_average_label(name):
    d = made('numbers')
    syn = getattr(Synthetic, name)(d, ipc=4)
    groups = torch.cdist(d.x_train, syn.images[0]).argmin(1)
    for j in range(4):
        if name == 'kmeans': assert torch.allclose(d.y_train[groups == j].mean(0), syn.labels[0, j], atol=1e-5)
    if name == 'means': assert torch.allclose(syn.labels[0].mean(0), d.y_train.mean(0), atol=1e-5)   # groups of 50 each


def test_more_examples_than_there_are(data):
    with pytest.warns(UserWarning, match='250 training examples are wanted, there are 200'): syn = Synthetic.real(data, ipc=250)
    assert len(syn) == 250
    with pytest.raises(BadArgument, match='at most twice the 200'): Synthetic.real(data, ipc=500)


def test_labels_in_words():
    d = made('numbers', 1)
    syn = Synthetic.real(d, ipc=2)
    assert syn.label_text(0, 1) == f'0 {d.in_units(syn.labels[0, 1]).item():.3g}'
    assert '1 number,' in repr(syn) and 'soft' not in repr(syn)


@pytest.mark.parametrize('kw, said', [
    (dict(labels=torch.zeros(1, 2, dtype=torch.long)), 'be plain floats'),
    (dict(labels=torch.zeros(1, 2, 3), label_form='softmax'), 'be plain floats'),
    (dict(labels=torch.zeros(1, 2, 3), task='pictures'), 'task must be one of'),
    (dict(labels=torch.full((1, 2, 3), torch.inf)), 'labels must be finite')])
def test_a_set_that_cannot_be(kw, said):
    with pytest.raises(ValueError, match=said): Synthetic(torch.zeros(1, 2, 4), **(dict(task='numbers') | kw))


# --- gradients ----------------------------------------------------------------------------------------------------------

def plain(syn, net, x, y, task, inner):
    "The outer loss after SGD or momentum by plain autograd."
    w = {k: p.detach().clone().requires_grad_() for k, p in net.named_parameters()}
    v = {k: torch.zeros_like(p) for k, p in w.items()}
    for t in range(syn.n_steps):
        out = torch.func.functional_call(net, w, (syn.images[0],))
        loss = LOSSES[inner.loss](out, syn.labels[0], inner)
        gs = torch.autograd.grad(loss, list(w.values()), create_graph=True)
        for k, g in zip(list(w), gs):
            v[k] = inner.momentum*v[k] + g if inner.name == 'momentum' else g
            w[k] = w[k] - syn.lrs[t]*v[k]
    out = torch.func.functional_call(net, w, (x,))
    return F.mse_loss(out, y) if task == 'numbers' else F.binary_cross_entropy_with_logits(out, y)


@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
@pytest.mark.parametrize('task, loss', [('numbers', 'mse'), ('numbers', 'huber'), ('labels', 'bce'), ('labels', 'mse')])
def test_unrolling_against_plain_autograd(task, loss, strategy):
    syn, d = started64(task, inner=dict(name='momentum', loss=loss))
    net, batch = smooth().double(), d.batch(40, d.generator(0))
    want = torch.autograd.grad(plain(syn, net, *batch, task, syn.rule), syn.parameters())
    loss = Unroll(strategy, chunk=16)(syn, functional(net), batch)
    got = torch.autograd.grad(loss, syn.parameters())
    assert loss.item() == pytest.approx(plain(syn, net, *batch, task, syn.rule).item(), rel=1e-10)
    for a, b in zip(got, want): assert relative(a, b) < 1e-8


@pytest.mark.parametrize('task', ['numbers', 'labels'])
def test_gradient_matching_takes_all_examples_as_one_group(task):
    syn, d = started64(task)
    net, (x, y) = smooth().double(), d.batch(40, d.generator(0))
    ps, loss = list(net.parameters()), TASKS[task].loss
    a = torch.autograd.grad(loss(net(syn.images[0]), syn.labels[0]), ps, create_graph=True)
    b = torch.autograd.grad(loss(net(x), y), ps)
    want = sum((u - v).square().sum() for u, v in zip(a, b))/sum(v.square().sum() for v in b)
    got = GradientMatch('mse')(syn, functional(net), (x, y))
    assert got.item() == pytest.approx(want.item(), rel=1e-10)
    for u, v in zip(torch.autograd.grad(got, syn.parameters()[:2]), torch.autograd.grad(want, syn.parameters()[:2])):
        assert relative(u, v) < 1e-8


def test_distributions_are_matched_together_with_their_labels(check_against_differences):
    syn, d = started64('numbers')
    net, batch = smooth().double(), d.batch(40, d.generator(0))
    def f(s): return DistributionMatch()(s, functional(net), batch)
    check_against_differences(f, syn.changed(learn=('images', 'labels')))
    whole = Synthetic(d.x_train[None], d.y_train[None], task='numbers')
    assert DistributionMatch()(whole, functional(net), (d.x_train, d.y_train)).item() < 1e-20
    moved = whole.changed(labels=whole.labels.detach().flip(1))   # the same examples, other labels
    assert DistributionMatch()(moved, functional(net), (d.x_train, d.y_train)).item() > 1e-3


@pytest.mark.parametrize('task', ['numbers', 'labels'])
@pytest.mark.parametrize('objective', [KernelRidge(reg=1e-3), FeatureRidge(reg=1e-3)])
def test_kernel_regression_on_numbers(task, objective, check_against_differences):
    syn, d = started64(task)
    net, batch = smooth().double(), d.batch(40, d.generator(0))
    moved = syn.changed(images=syn.images.detach() + .1, learn=('images', 'labels'))   # the kernel has a kink where two examples meet
    check_against_differences(lambda s: objective(s, functional(net), batch), moved)


def test_the_kernel_machine_itself():
    syn, d = started64('numbers')
    o, (x, y) = KernelRidge(), d.batch(40, d.generator(0))
    s = syn.images[0]
    K = o.kernel(s, s)
    want = o.kernel(x, s) @ torch.linalg.solve(K + 1e-6*K.diagonal().mean()*torch.eye(6, dtype=K.dtype), syn.labels[0])
    assert relative(o.predict(syn, x), want) < 1e-8   # no share of classes taken away
    assert o(syn, None, (x, y)).item() == pytest.approx(.5*(want - y).square().sum(1).mean().item())
    assert o.judge(syn, None, d) == pytest.approx(r2_score(d.y_test, o.predict(syn, d.x_test).detach()))


def test_a_loss_in_pieces_is_the_loss(data):
    net = smooth()
    state, (x, y) = functional(net), data.batch(100, data.generator(0))
    whole = TASKS[data.task].loss(net(x), y)
    assert real_loss(state, x, y, 16, loss=TASKS[data.task].loss).item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize('rule', ['sgd', 'momentum', 'adam', 'adamw', 'rmsprop'])
@pytest.mark.parametrize('task', ['numbers', 'labels'])
def test_check_gradient_trains_by_the_rule_and_the_loss_of_the_set(task, rule):
    lr = .05 if rule in ('sgd', 'momentum') else .01
    syn, d = started64(task, lr=lr, inner=dict(name=rule, weight_decay=.01, eps=1e-4))
    assert check_gradient(smooth(), syn, steps=3).ok


def test_check_gradient_refuses_a_rule_that_torch_has_not():
    from dd_nb.rules import RULES, SGD
    class Strange(SGD): pass
    try:
        syn, _ = started64('numbers', inner='strange')
        with pytest.raises(BadArgument, match='inner must be one of sgd'): check_gradient(smooth(), syn)
    finally: RULES.pop('strange')


def test_a_hidden_derivative_behind_a_single_output_is_seen():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 1)
        def forward(self, x):
            h = self.a(x)
            return self.b(torch.tanh(h)*h.detach())
    d = made('numbers', 1)
    with pytest.warns(UserWarning, match='detached'):
        unroll(Synthetic.real(d, ipc=4), functional(Hidden()), lambda s: s.params['a.weight'].sum(), 'graph')


# --- runs ---------------------------------------------------------------------------------------------------------------

def net(seed=None): return MLP((6,), 2, hidden=(16,), seed=seed)


SCHEDULE = dict(ipc=8, steps=1, epochs=20, lr=.1, inner='momentum')


@pytest.mark.parametrize('objective', [None, GradientMatch('mse'), FeatureRidge(), DistributionMatch()])
def test_every_objective_learns(data, objective):
    schedule = SCHEDULE | dict(ipc=20, lr=.03)
    syn = Synthetic.noise(data.shape, 2, task=data.task, seed=0, learn=('images', 'labels'), **schedule)
    source = RandomInit(net, 0)
    before = evaluate(syn, source, data, n_nets=4, progress=False).mean
    h = distill(syn, source, data, objective, iters=80, batch_size=100, lr=.05, progress=False)
    after = evaluate(syn, source, data, n_nets=4, progress=False)
    assert after.mean > before + .02 and -1 <= h.accuracy[0] <= 1
    assert after.task == data.task and after.error > 0 and ('R2' if data.task == 'numbers' else 'mAP') in repr(after)


def test_trajectories_of_a_regression(tmp_path):
    d = made('numbers')
    experts = record_experts(net, d, tmp_path, n=2, records=6, every=5, lr=.05, progress=False)
    first, last = experts(0, 0), experts(0, 6)
    assert scored(last, d).accuracy > scored(first, d).accuracy + .3   # they have learned numbers
    syn = Synthetic.real(d, learn=('images', 'labels'), **SCHEDULE)
    o = TrajectoryMatch(experts, span=2, max_start=3, epochs=20)
    def left(s): return sum(o(s, replace(functional(net(0)), seed=i), None).item() for i in range(20))
    before = left(syn)
    distill(syn, RandomInit(net, 0), d, o, iters=60, lr=.02, keep='last', progress=False)
    assert left(syn) < .7*before


def test_pools_and_protocols_train_by_the_loss_of_the_task(data, tmp_path):
    pool = pretrain(net, data, tmp_path/'pool', n=3, epochs=20, lr=1e-2, batch_size=50, progress=False)
    assert evaluate(Synthetic.real(data, lr=1e-6, ipc=4), pool, data, n_nets=1, progress=False).mean > .7
    real = Synthetic.real(data, ipc=60)
    score = benchmark([real, (data.x_train[:60], data.y_train[:60])], data, net, n_nets=2, progress=False)
    assert score.mean > .6 and score.to_dict()['task'] == data.task and len(score.errors) == 4
    assert Score.joined([score, score]).errors == score.errors*2


def test_a_run_goes_on(tmp_path):
    d = made('numbers')
    def run(iters, folder):
        syn = Synthetic.real(d, learn=('images', 'labels', 'lrs'), **SCHEDULE)
        try: distill(syn, FixedInit(net(0)), d, iters=iters, every=5, checkpoint=folder, progress=False, cbs=[Stop(tmp_path)])
        except RuntimeError: pass
        return syn
    class Stop:
        def __init__(self, p): self.flag = p/'stopped'
        def after_eval(self, loop):
            if loop.it == 10 and self.flag.exists(): self.flag.unlink(); raise RuntimeError
    whole = run(20, tmp_path/'a')
    (tmp_path/'stopped').touch()
    run(20, tmp_path/'b')
    assert torch.equal(run(20, tmp_path/'b').labels, whole.labels)


def test_a_set_belongs_to_its_task(data, blobs):
    other = made('labels' if data.task == 'numbers' else 'numbers')
    syn = Synthetic.real(data, ipc=3)
    with pytest.raises(ValueError, match=f"the set is for task='{data.task}'"): check_fits(syn, other)
    with pytest.raises(ValueError, match="the set is for task='classes'"): evaluate(Synthetic.real(blobs), RandomInit(net), data)


def test_what_needs_classes_says_so(data, tmp_path):
    syn, state = Synthetic.real(data, ipc=3), functional(net(0))
    said = "task must be 'classes' for"
    with pytest.raises(BadArgument, match=said): syn.softened()
    with pytest.raises(BadArgument, match=said): confusion(state, data)
    with pytest.raises(BadArgument, match=said): Synthetic.shared(data, n=1)
    with pytest.raises(BadArgument, match=said): Poison(0, 1)(syn, state, data.batch(8))
    with pytest.raises(BadArgument, match=said): distill(syn, RandomInit(net), data, balanced=True, iters=1, progress=False)
    with pytest.raises(BadArgument, match=said): syn.to_image_folder(tmp_path/'x')


def test_a_network_with_too_few_outputs_is_refused(data):
    with pytest.raises(ValueError, match='a logit for each of the 2'):
        distill(Synthetic.real(data, ipc=3), RandomInit(lambda: MLP((6,), 3)), data, iters=1, progress=False)
    with pytest.raises(ValueError, match='a logit for each of the 2'): scored(MLP((6,), 3), data)


def test_training_by_the_set_itself(data):
    syn = Synthetic.real(data, **SCHEDULE)
    by_hand = trained(syn, functional(net(0))).module()
    assert scored(syn.train(net(0)), data).accuracy == scored(by_hand, data).accuracy


# --- commands -----------------------------------------------------------------------------------------------------------

def test_a_regression_by_commands(houses, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.dd_distill('houses.csv', task='numbers', target='price', ipc=6, iters=4, start='kmeans', epochs=10, labels='plain', out='h.safetensors',
                   quiet=True)
    said = capsys.readouterr().out
    assert 'validation R2' in said and 'mean error' in said
    cli.dd_evaluate('h.safetensors', nets=2, quiet=True)
    assert 'MLP: Score(R2' in capsys.readouterr().out
    cli.dd_evaluate('h.safetensors', nets=2, epochs=3, protocol='plain', compare=True, json='h.json', plot='h.png', quiet=True)
    rows = json.loads((tmp_path/'h.json').read_text())['scores']
    assert set(rows) == {'h.safetensors', 'random real', 'class means', 'k-means centres'}
    assert rows['random real']['MLP']['measure'] == 'R2' and (tmp_path/'h.png').stat().st_size > 1000
    cli.dd_show('h.safetensors', out='s.png')
    assert '1 number' in capsys.readouterr().out


def test_a_regression_that_judges_itself_says_what_it_measures(houses, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.dd_distill('houses.csv', task='numbers', target='price', method='kip', ipc=6, iters=3, out='k.safetensors', quiet=True)
    assert 'test Score(R2 ' in capsys.readouterr().out
    assert Synthetic.load('k.safetensors').meta['test']['measure'] == 'R2'


@pytest.mark.parametrize('kw, said', [
    (dict(task='numbers'), 'target must name the columns'), (dict(task='number'), 'task must be one of'),
    (dict(task='labels', target='price'), 'zeros and ones'), (dict(task='numbers', target='price', balanced=True), "must be 'classes'"),
    (dict(task='numbers', target='nope'), 'target must be one of the columns'), (dict(task='numbers', target='price', labels='softmax'), 'labels must be hard or plain'),
    (dict(task='numbers', target='price', formation=2), 'formation must be left out')])
def test_a_wrong_command_ends_in_one_sentence(houses, tmp_path, capsys, monkeypatch, kw, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: cli.dd_distill('houses.csv', iters=1, quiet=True, **kw)
    err = capsys.readouterr().err
    assert e.value.code == 2 and said in err and 'Traceback' not in err


def test_answers_may_be_checked_by_themselves():
    assert check_answers([True, False], 'y', 2, 'x', 'labels').tolist() == [[1.], [0.]]
