"Soft labels: their starts and forms, their gradient, fewer images than classes, and what is kept of them."
import pytest
import torch
import torch.nn.functional as F

from dd_nb.data import data_from_tensors, load_data
from dd_nb.distillation import distill
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit
from dd_nb.networks import MLP
from dd_nb.soft_labels import LABEL_STARTS, confusion, plot_labels
from dd_nb.synthetic import LABEL_FORMS, Synthetic
from dd_nb.unrolling import Unroll
from dd_nb.speed import hypergradients
from dd_nb.structure import functional


@pytest.fixture(scope='module')
def data():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(60)
    x = torch.tensor([[0., 2.], [2., -1.], [-2., -1.]])[y] + .7*torch.randn(180, 2, generator=g)
    return data_from_tensors(x, y, x[:60].flip(0), y[:60].flip(0), name='blobs')


def mlp(seed=0): return MLP((2,), 3, hidden=(8,), act='softplus', seed=seed)


def test_hard_start_is_the_hard_label_and_trains_alike(data):
    hard = Synthetic.real(data, ipc=2, lr=.3)
    soft = hard.softened('hard')
    assert torch.equal(soft.labels.detach(), F.one_hot(hard.labels, 3).float()) and set(soft.learn) == {'images', 'lrs', 'labels'}
    state, batch = FixedInit(mlp()).state, data.batch(32, torch.Generator().manual_seed(0))
    a, b = Unroll()(hard, state, batch), Unroll()(soft, state, batch)
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    assert 'labels' not in hard.softened('hard', learn=False).learn


def test_smoothed_and_confused_labels_are_distributions_with_the_true_class_on_top(data):
    hard, net = Synthetic.real(data), FixedInit(mlp()).state
    c = confusion(net, data)
    assert c.diagonal().eq(0).all() and torch.allclose(c.sum(1), torch.ones(3)) and (c >= 0).all()
    mean = torch.stack([net(data.x_train[data.y_train == k]).softmax(-1).mean(0) for k in range(3)]).fill_diagonal_(0)
    assert torch.allclose(c, mean/mean.sum(1, keepdim=True), atol=1e-5)
    for kw in (dict(start='smoothed'), dict(start='confusion', confusion=c)):
        for form in LABEL_FORMS:
            y = hard.softened(amount=.3, form=form, **kw).labels.detach()
            assert torch.allclose(y.sum(-1), torch.ones(1, 3), atol=1e-5) and torch.equal(y.argmax(-1), hard.labels)
    y = hard.softened('confusion', amount=.3, confusion=c).labels.detach()
    assert torch.allclose(y[0, 1], .7*F.one_hot(torch.tensor(1), 3) + .3*c[1], atol=1e-6)


def test_random_start_is_seeded(data):
    a, b, c = (Synthetic.real(data).softened('random', seed=s).labels for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize('form', LABEL_FORMS)
def test_gradient_of_the_labels_against_finite_differences(data, form):
    d = data.to(dtype=torch.float64)
    syn = Synthetic.real(d, steps=2, epochs=2, lr=.3).softened('smoothed', form)
    state, batch = FixedInit(mlp().double()).state, d.batch(32, torch.Generator().manual_seed(0))
    g = dict(zip(syn.named_parameters(), torch.autograd.grad(Unroll()(syn, state, batch), syn.parameters())))['raw_labels']
    def loss(raw): return Unroll()(syn.changed(labels=raw, label_form=form), state, batch).item()
    for i in range(4):
        u = torch.randn(g.shape, generator=torch.Generator().manual_seed(i), dtype=g.dtype)
        raw, h = syn.raw_labels.detach(), 1e-5
        assert (loss(raw + h*u) - loss(raw - h*u))/(2*h) == pytest.approx((g*u).sum().item(), rel=1e-6)


@pytest.mark.parametrize('strategy', ['recompute', 'segments'])
@pytest.mark.parametrize('inner', ['sgd', 'adam'])
def test_all_strategies_agree_on_learned_labels(data, strategy, inner):
    d = data.to(dtype=torch.float64)
    syn = Synthetic.real(d, steps=2, epochs=3, lr=.05, inner=inner).softened('smoothed', 'softmax')
    states, batches = [FixedInit(mlp().double()).state], [d.batch(32, torch.Generator().manual_seed(0))]
    want, got = (hypergradients(Unroll(s), syn, states, batches)[1] for s in ('graph', strategy))
    for a, b in zip(got, want): assert (a - b).norm() <= 1e-10*b.norm()


@pytest.mark.parametrize('form', LABEL_FORMS)
def test_saved_copied_and_changed(data, form, tmp_path):
    syn = Synthetic.real(data, steps=2).softened('smoothed', form)
    distill(syn, FixedInit(mlp()), data, iters=3, batch_size=16, progress=False)
    back = Synthetic.load(syn.save(tmp_path/'s.safetensors'))
    for s in (back, syn.copy(), syn.changed(epochs=3), syn.copy().to(dtype=torch.float64)):
        assert s.label_form == form and torch.allclose(s.labels.double(), syn.labels.double()) and torch.equal(s.raw_labels.float(), syn.raw_labels.float())
    assert evaluate(back, None, data).mean == evaluate(syn, None, data).mean
    if form == 'softmax': assert torch.allclose(syn.shuffled().labels.sum(-1), torch.ones(2, 3))
    given = syn.changed(labels=torch.eye(3).expand(2, 3, 3))   # labels that are given are meant as they are
    assert given.label_form == 'plain' and torch.equal(given.labels[0].detach(), torch.eye(3))


def test_distill_learns_what_it_is_asked_to(data):
    start = Synthetic.real(data, epochs=2, lr=.3).softened('hard')
    def after(learn, **kw):
        s = start.changed(learn=learn)
        distill(s, FixedInit(mlp()), data, iters=5, batch_size=16, keep='last', progress=False, **kw)
        return s
    labels = after(('labels',))
    assert torch.equal(labels.images, start.images) and torch.equal(labels.raw_lrs, start.raw_lrs) and not torch.equal(labels.labels, start.labels)
    still = after(('labels', 'images'), lr_labels=0.)
    assert torch.equal(still.labels, start.labels) and not torch.equal(still.images, start.images)
    assert not torch.equal(after(('images', 'labels'), lr_labels=.2).labels, after(('images', 'labels')).labels)


def test_learned_labels_lower_the_loss(data):
    syn = Synthetic.real(data, epochs=2, lr=.3, seed=3).softened('hard').changed(learn=('labels',))
    state, batch = functional(mlp()), (data.x_train, data.y_train)
    before = Unroll()(syn, state, batch).item()
    distill(syn, FixedInit(mlp()), data, iters=60, batch_size=60, lr_labels=.05, keep='last', progress=False)
    assert Unroll()(syn, state, batch).item() < before - .01


def test_fewer_images_than_classes():
    digits = load_data('digits')
    means = Synthetic.means(digits).images[0].detach()
    for form in LABEL_FORMS:
        five = Synthetic.shared(digits, 5, steps=2, form=form)
        assert five.images.shape == (2, 5, 1, 28, 28) and five.labels.shape == (2, 5, 10) and len(five) == 10
        assert torch.allclose(five.labels.detach().sum(-1), torch.ones(2, 5), atol=1e-5)
    five = Synthetic.shared(digits, 5)
    assert torch.allclose(five.images[0, 2].detach(), (means[2] + means[7])/2, atol=1e-5)
    assert five.labels[0, 2].detach().nonzero()[:, 0].tolist() == [2, 7]
    assert Synthetic.shared(digits, 3).labels[0, 0].detach().nonzero()[:, 0].tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize('kw, says', [
    (dict(start='soft'), 'start must be one of'), (dict(start='hard', form='softmax'), 'cannot say 0'), (dict(start='smoothed', amount=1.5), 'amount must be'),
    (dict(start='confusion'), 'confusion must be given'), (dict(start='confusion', confusion=torch.ones(2, 2)), r'confusion must have shape \(3, 3\)'), (dict(start='smoothed', form='logits'), 'label_form must be one of')])
def test_softened_refuses(data, kw, says):
    with pytest.raises(ValueError, match=says): Synthetic.real(data).softened(**kw)


def test_what_else_is_refused(data):
    soft = Synthetic.real(data).softened()
    with pytest.raises(ValueError, match='labels must be hard to be softened'): soft.softened()
    with pytest.raises(ValueError, match='n must be at most 3'): Synthetic.shared(data, 4)
    with pytest.raises(ValueError, match="label_form must be 'plain' for integer labels"): Synthetic(torch.zeros(1, 3, 2), torch.tensor([[0, 1, 2]]), label_form='softmax')
    with pytest.raises(ValueError, match='labels must be soft to be drawn'): plot_labels(Synthetic.real(data))
    with pytest.raises(ValueError, match='lr_labels must be'): distill(soft, FixedInit(mlp()), data, iters=1, lr_labels=-1., progress=False)


def test_starts_are_all_named(): assert LABEL_STARTS == ('hard', 'smoothed', 'random', 'confusion')
