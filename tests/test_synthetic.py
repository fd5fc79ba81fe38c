"The synthetic set: construction, copies, starts, looks, orders, and what is refused."
import math
import warnings

import pytest
import torch

from dd_nb.data import data_from_tensors, load_data
from dd_nb.format import read_tensors, write_tensors
from dd_nb.rules import as_inner
from dd_nb.synthetic import Synthetic, inv_softplus


@pytest.fixture(scope='module')
def data(): return load_data('digits')


@pytest.fixture
def means(data): return Synthetic.means(data, lr=.1)


def test_inv_softplus_is_the_inverse_and_does_not_overflow():
    lr = torch.logspace(-8, 6, 200, dtype=torch.float64)
    assert torch.allclose(torch.nn.functional.softplus(inv_softplus(lr)), lr, rtol=1e-9)
    assert math.isfinite(inv_softplus(1e30).item())


@pytest.mark.parametrize('lr', [0., -1., float('nan'), float('inf')])
def test_step_sizes_must_be_positive(lr):
    with pytest.raises(ValueError, match='lr must be positive'): inv_softplus(lr)


def test_shapes_and_order(data):
    syn = Synthetic.real(data, ipc=2, steps=3, epochs=4, lr=.3)
    assert syn.images.shape == (3, 20, 1, 28, 28) and syn.labels.shape == (3, 20) and syn.lrs.shape == (12,)
    assert syn.n_steps == 12 and len(syn) == 60 and syn.shape == (1, 28, 28)
    assert torch.allclose(syn.lrs, torch.full((12,), .3))
    for t in range(12):
        x, y, lr = syn.batch(t)
        assert x.data_ptr() == syn.images[t % 3].data_ptr() and torch.equal(y, torch.arange(10).repeat(2))
        assert lr == syn.lrs[t]


def test_real_examples_are_distinct_training_examples_of_their_class(data):
    syn = Synthetic.real(data, ipc=3, steps=2)
    x, y = syn.images.detach().flatten(0, 1), syn.labels.flatten()
    assert len(torch.unique(x.flatten(1), dim=0)) == 60
    train = data.x_train.flatten(1)
    for xi, yi in zip(x, y):
        d = (train - xi.flatten()).abs().amax(1)
        assert d.min() < 1e-5 and data.y_train[d.argmin()] == yi


def test_means_are_class_means(data):
    syn = Synthetic.means(data)
    for c in range(10): assert torch.allclose(syn.images[0, c], data.x_train[data.y_train == c].mean(0), atol=1e-5)
    groups = Synthetic.means(data, ipc=2, steps=2).images.detach()
    assert not torch.allclose(groups[0, 0], groups[1, 0])


def test_seeds(data):
    a, b, c = (Synthetic.noise(data.shape, 10, seed=s).images for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    a, b, c = (Synthetic.real(data, seed=s).images for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_any_example_shape():
    g = torch.Generator().manual_seed(0)
    table = data_from_tensors(torch.randn(60, 7, generator=g), torch.arange(60) % 3)
    syn = Synthetic.real(table, ipc=2)
    assert syn.images.shape == (1, 6, 7) and not syn.is_image
    syn.show()


def test_display_undoes_the_normalisation(data):
    syn = Synthetic.real(data)
    x = syn.display_images()
    train = data.raw_train.float()/255
    assert min((train - x[0, 0]).abs().flatten(1).amax(1)) < 1e-4


def test_png_and_copy_and_shuffle(means):
    assert means._repr_png_()[:4] == b'\x89PNG'
    c = means.copy()
    c.images.data += 1
    assert not torch.equal(c.images, means.images) and c.images.requires_grad
    syn = Synthetic(torch.arange(12.).reshape(3, 4, 1), torch.arange(12).reshape(3, 4) % 2, epochs=2, lr=torch.arange(1, 7.))
    s = syn.shuffled(0)
    assert s.images.shape == syn.images.shape and not torch.equal(s.images, syn.images)
    assert sorted(s.images.flatten().tolist()) == list(range(12)) and torch.allclose(s.lrs, torch.full((6,), 3.5))
    assert torch.equal(s.labels, s.images[..., 0].long() % 2)
    assert syn.shuffled(0, batch_size=6).images.shape == (2, 6, 1)
    with pytest.raises(ValueError, match='batch_size must divide'): syn.shuffled(0, batch_size=5)


# --- another order

ORDER = torch.tensor([[5, 0], [3, 3], [1, 5], [2, 0]])   # 4 steps of 2 out of 6 examples; 4 is never used, 3 twice in one step


def ordered(order=ORDER, soft=False, **kw):
    "Six numbered examples in 2 steps of 3, trained on by `order`."
    labels = torch.eye(6).reshape(2, 3, 6) if soft else torch.arange(6).reshape(2, 3)
    return Synthetic(torch.arange(6.).reshape(2, 3, 1), labels, 6, **{**dict(lr=torch.arange(1., 5.), order=order), **kw})


@pytest.mark.parametrize('soft', [False, True])
def test_batch_follows_the_order(soft):
    syn = ordered(soft=soft)
    assert syn.n_steps == 4 and syn.lrs.shape == (4,) and syn.steps == 2 and len(syn) == 6 and syn.epochs == 2   # 8 uses: a pass and a bit
    for t, row in enumerate(ORDER):
        x, y, lr = syn.batch(t)
        assert x.flatten().tolist() == row.tolist() and (y.argmax(1) if soft else y).tolist() == row.tolist() and lr == syn.lrs[t]
        assert x.shape == (2, 1) and torch.isclose(lr, torch.tensor(t + 1.))


def test_an_order_that_repeats_the_paper_s_is_the_paper_s():
    fixed = ordered(order=None, epochs=2)
    same = ordered(order=torch.arange(6).reshape(2, 3).repeat(2, 1))
    assert same.n_steps == fixed.n_steps == 4 and same.epochs == fixed.epochs
    for t in range(4): assert all(torch.equal(a, b) for a, b in zip(same.batch(t), fixed.batch(t)))


def test_gradients_reach_the_examples_of_the_order_and_add_up():
    syn = ordered(soft=True, learn=('images', 'labels', 'lrs'))
    weights = torch.arange(1., 9.).reshape(4, 2)   # one for each use of an example
    loss = sum((w[:, None]*x).sum() + (w[:, None]*y).sum() + lr for t, w in enumerate(weights) for x, y, lr in [syn.batch(t)])
    gx, gy, gr = torch.autograd.grad(loss, syn.parameters())
    want = torch.zeros(6).index_put_((ORDER.flatten(),), weights.flatten(), accumulate=True)
    assert want.tolist() == [10, 5, 7, 7, 0, 7]   # 3: both uses in one step, 0 and 5: in two steps, 4: none
    assert torch.equal(gx.flatten(), want) and torch.equal(gy, want.reshape(2, 3, 1).expand(2, 3, 6))
    assert torch.allclose(gr, torch.sigmoid(syn.raw_lrs))


def test_training_and_second_derivatives_with_an_order():
    syn = ordered()
    syn.to(dtype=torch.float64)
    def final(images):
        s, w = syn.copy(), torch.ones((), dtype=torch.float64)
        s.images = images
        for t in range(s.n_steps):
            w = w.clone().requires_grad_() if not w.requires_grad else w
            x, y, lr = s.batch(t)
            w = w - .01*lr*torch.autograd.grad(((w*x[:, 0] - y)**2).mean(), w, create_graph=True)[0]
        return w**2
    assert torch.autograd.gradcheck(final, [syn.images.detach().clone().requires_grad_()])


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.int32])
def test_the_order_is_kept_apart_from_its_source(dtype):
    order = ORDER.to(dtype, copy=True)
    syn = ordered(order)
    order.zero_()
    assert syn.order.dtype == torch.int64 and torch.equal(syn.order, ORDER)


def test_images_are_laid_out_so_that_counting_them_is_a_view():
    syn = Synthetic(torch.arange(6.).reshape(3, 2, 1).transpose(0, 1), torch.arange(6).reshape(3, 2).T, 6, lr=.1, order=ORDER)
    assert syn.images.flatten(0, 1).data_ptr() == syn.images.data_ptr() and syn.images.flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert syn.batch(0)[0].flatten().tolist() == syn.batch(0)[1].tolist() == [5, 0]


def test_copy_and_to_carry_the_order():
    syn = ordered()
    c = syn.copy()
    c.order.zero_()
    assert torch.equal(syn.order, ORDER) and c.n_steps == 4
    assert syn.copy().to('cpu', torch.float64).order.dtype == torch.int64
    moved = syn.copy().to('meta')
    assert moved.order.device.type == 'meta' and moved.batch(0)[0].shape == (2, 1)
    assert ordered(None, lr=.1).copy().to('cpu').order is None
BAD_ORDERS = [
    (ORDER.float(), TypeError, 'order must be a tensor of integers, got torch.float32'),
    (ORDER > 0, TypeError, 'order must be a tensor of integers, got torch.bool'),
    (ORDER.flatten(), ValueError, r'order must have shape \(T, b\), neither of them 0, got \(8,\)'),
    (torch.zeros(4, 0, dtype=torch.long), ValueError, 'order must have shape'),
    (torch.zeros(0, 2, dtype=torch.long), ValueError, 'order must have shape'),
    (ORDER + 1, ValueError, r'order must index the 6 examples, so lie in 0\.\.5, got 1\.\.6'),
    (ORDER - 1, ValueError, r'order must index .* got -1\.\.4'),
    (ORDER[:3], ValueError, r'lr must be one number or have shape \(3,\) = \(rows of order,\), got \(4,\)'),
]


@pytest.mark.parametrize('order, error, text', BAD_ORDERS, ids=[t for *_, t in BAD_ORDERS])
def test_bad_orders_in_the_constructor_and_in_files(order, error, text, tmp_path):
    with pytest.raises(error, match=text) as e: ordered(order)
    assert '\n' not in str(e.value)
    tensors, head = read_tensors(ordered().save(tmp_path/'good'))
    write_tensors(tmp_path/'bad', tensors | dict(order=order), head, 'set')   # a file that was made so, not one that was damaged
    with pytest.raises(ValueError, match='not a readable dd_nb file: .*' + text): Synthetic.load(tmp_path/'bad')


def test_a_list_is_no_order():
    with pytest.raises(TypeError, match='order must be a tensor of integers, got list'): ordered(ORDER.tolist())


def test_repr_names_the_plan():
    assert '4 minibatches of 2, sgd with step sizes 1 to 4' in repr(ordered()) and 'epoch' not in repr(ordered())
    assert '1 minibatch of 2, ' in repr(ordered(ORDER[:1], lr=1.))
    assert '2 steps x 3 epochs' in repr(ordered(None, lr=1.)) and '2 steps x 1 epoch, ' in repr(ordered(None, lr=1., epochs=1))


def test_minibatches_use_every_example_once_an_epoch(data):
    syn = Synthetic.real(data, ipc=2, steps=3, epochs=4, lr=.3, inner='adam', learn=('lrs',))
    syn.init = dict(params=dict(w=torch.ones(2)), buffers={})
    mini = syn.minibatches(12)
    assert mini.order.shape == (4*5, 12) and mini.epochs == 4 and mini.n_steps == 20
    epochs = mini.order.reshape(4, 60)
    assert all(torch.equal(e.sort().values, torch.arange(60)) for e in epochs) and len(torch.unique(epochs, dim=0)) == 4
    assert torch.equal(mini.images, syn.images) and torch.equal(mini.labels, syn.labels) and mini.inner == syn.inner and mini.learn == syn.learn
    assert mini.norm is syn.norm and mini.meta == syn.meta and torch.equal(mini.init['params']['w'], torch.ones(2))
    mini.images.data += 1
    mini.init['params']['w'] += 1
    assert not torch.equal(mini.images, syn.images) and syn.init['params']['w'][0] == 1 and syn.order is None


def test_minibatches_are_seeded_and_take_lr_and_epochs():
    syn = ordered(None, epochs=1, lr=torch.tensor([1., 3.]))
    a, b, c = (syn.minibatches(2, epochs=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.order, b.order) and not torch.equal(a.order, c.order)
    assert a.epochs == 5 and torch.allclose(a.lrs, torch.full((15,), 2.)) and torch.allclose(syn.minibatches(2, lr=.5).lrs, torch.full((3,), .5))
    assert syn.minibatches(6).order.shape == (1, 6) and a.minibatches(3).order.shape == (10, 3)   # from an order to another


def test_shuffled_drops_the_order():
    s = ordered(lr=.5).shuffled()
    assert s.order is None and s.images.shape == (3, 2, 1) and s.n_steps == 6 and torch.allclose(s.lrs, torch.tensor(.5))
    assert sorted(s.images.flatten().tolist()) == list(range(6))


def test_bad_minibatches():
    syn = ordered(None, lr=.1)
    for args, error, text in (((4,), ValueError, 'batch_size must divide the 6 examples, got 4'), ((0,), ValueError, 'batch_size must be at least 1'),
                              ((2., ), TypeError, 'batch_size must be a whole number'), ((2, 0), ValueError, 'epochs must be at least 1'),
                              ((2, 1.), TypeError, 'epochs must be a whole number'), ((2, 1, 0, -1.), ValueError, 'lr must be positive'),
                              ((2, 1, 0, torch.ones(2)), ValueError, r'lr must be one number or have shape \(3,\)')):
        with pytest.raises(error, match=text): syn.minibatches(*args)
BAD = [
    (dict(images=torch.zeros(2, 3, dtype=torch.float)), ValueError, 'images must have shape'),
    (dict(images=torch.zeros(1, 2, 3, dtype=torch.long)), TypeError, 'images must be a float tensor'),
    (dict(images=torch.full((1, 2, 3), float('nan'))), ValueError, 'images must be finite'),
    (dict(images=torch.zeros(1, 0, 3)), ValueError, 'images must not be empty'),
    (dict(labels=torch.tensor([[0, 7]]), n_classes=3), ValueError, r'labels must lie in 0\.\.2'),
    (dict(labels=torch.tensor([[0, -1]])), ValueError, 'labels must lie'),
    (dict(labels=torch.tensor([[0., 1.]])), TypeError, 'hard labels must be integers'),
    (dict(labels=torch.zeros(1, 3, dtype=torch.long)), ValueError, 'labels must begin with'),
    (dict(labels=torch.zeros(1, 2, 4), n_classes=3), ValueError, 'soft labels must have 3 columns'),
    (dict(epochs=0), ValueError, 'epochs must be at least 1'),
    (dict(epochs=1.5), TypeError, 'epochs must be a whole number'),
    (dict(lr=0.), ValueError, 'lr must be positive'),
    (dict(lr=torch.ones(2)), ValueError, 'lr must be one number'),
    (dict(inner='lion'), ValueError, 'inner must be one of'),
    (dict(inner=dict(name='sgd', speed=1)), ValueError, "unknown field 'speed'"),
    (dict(inner=3), TypeError, 'inner must be'),
    (dict(learn=('pixels',)), ValueError, 'learn must name'),
    (dict(learn=('labels',)), ValueError, 'hard labels cannot be learned'),
]


@pytest.mark.parametrize('change, error, text', BAD, ids=[t for *_, t in BAD])
def test_bad_arguments(change, error, text):
    good = dict(images=torch.zeros(1, 2, 3), labels=torch.tensor([[0, 1]]), epochs=1)
    Synthetic(**good)
    with pytest.raises(error, match=text) as e: Synthetic(**{**good, **change})
    assert '\n' not in str(e.value)


def test_bad_starts(data):
    for kw, text in ((dict(ipc=0), 'ipc must be at least 1'), (dict(steps=0), 'steps must be'), (dict(ipc=10**4), 'ipc \\* steps must be at most')):
        with pytest.raises(ValueError, match=text): Synthetic.real(data, **kw)
    with pytest.raises(TypeError, match='ipc must be a whole number'): Synthetic.noise(data.shape, 10, ipc=1.)
    with pytest.raises(ValueError, match='momentum must be in'): as_inner(dict(name='momentum', momentum=1.))


def test_without_a_seed_torchs_own_generator_decides_and_goes_on():
    def two(): return Synthetic.noise((2,), 2).images, torch.rand(3)
    torch.manual_seed(5)
    a = two(), two()
    torch.manual_seed(5)
    b = two(), two()
    assert all(torch.equal(i, j) for x, y in zip(a, b) for i, j in zip(x, y)) and not torch.equal(a[0][0], a[1][0])


def uneven():
    "Three classes of 30, 7 and 1 training examples."
    data = load_data('digits', size=8)
    i = torch.cat([(data.y_train == c).nonzero()[:n, 0] for c, n in enumerate((30, 7, 1))])
    return data_from_tensors(data.raw_train[i], data.y_train[i], data.raw_train[i], data.y_train[i], name='uneven', classes=['many', 'few', 'one'])


@pytest.mark.parametrize('start', ['real', 'means', 'kmeans', 'herding', 'kcenter', 'nearest'])
def test_a_start_repeats_examples_of_a_class_that_has_too_few(start):
    "Each at least once, and nearly as often as any other; the warning names the class and the counts. Classes that have enough are as without."
    from dd_nb.coresets import started
    data = uneven()
    said = "10 training examples of each class are wanted, but class 'few' has 7 .and 1 more class has too few.: each of them is used at least once"
    with pytest.warns(UserWarning, match=said): s = started(start, data, ipc=5, steps=2)
    assert s.images.shape == (2, 15, 1, 8, 8) and torch.isfinite(s.images).all()
    assert [int((s.labels == c).sum()) for c in range(3)] == [10, 10, 10]
    for c, n in ((1, 7), (2, 1)):
        own = data.x_train[data.y_train == c]
        off = torch.cdist(s.images[s.labels == c].detach().flatten(1), own.flatten(1))
        assert (off.amin(1) < 1e-4).all(), 'each is one of the class'
        used = off.argmin(1).bincount(minlength=n)
        assert used.min() >= 1 and used.max() - used.min() <= 1
    assert len(s.images[s.labels == 0].detach().flatten(1).unique(dim=0)) == 10
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        started(start, load_data('digits', size=8), ipc=2)


def test_a_start_of_more_than_twice_what_any_class_has_is_a_mistake():
    with pytest.raises(ValueError, match='at most twice the 30 training examples of the largest class, got 61'): Synthetic.real(uneven(), ipc=61)


def test_the_scale_of_a_set(data):
    "By its data: bytes are [0, 1], floats what they span. A file may say anything; what is no scale is none."
    s = Synthetic.real(data)
    assert s.scale == (0, 1)
    s.images.data.mul_(3)
    assert s.display_images().min() == 0 and s.display_images().max() == 1
    for scale, want in (([-1, 2], (-1, 2)), ([2, 1], None), ([0], None), ('ab', None), ([0, float('inf')], None), (None, None), ([True, 2], None)):
        s.meta['data'] = dict(stored='float32', scale=scale)
        assert s.scale == want
    assert s.display_images().min() == 0 and s.display_images().max() == 1, 'all that the images span'
    s.norm = None
    assert s.scale is None
