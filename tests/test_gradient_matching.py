"The next step on S beside the next step on the data."
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from objectives import batch, data, set64, smooth, state64   # noqa: F401 - fixtures among them

import dd_nb.soft_labels  # noqa: F401 - it gives S soft labels
from dd_nb.augment import Siamese,standard_augment
from dd_nb.distillation import distill
from dd_nb.gradient_matching import GradientMatch, by_class, gradient_distance
from dd_nb.inits import RandomInit
from dd_nb.synthetic import Synthetic
from dd_nb.structure import functional
from dd_nb.rules import loss_fn


def test_gradient_distance():
    a,b = [torch.randn(4, 3, 2), torch.randn(5)],[torch.randn(4, 3, 2), torch.randn(5)]
    assert gradient_distance(a, [3*v for v in a]).item() == pytest.approx(0, abs=1e-4)      # lengths do not count
    assert gradient_distance(a, [-v for v in a]).item() == pytest.approx(8, abs=1e-4)       # four rows, two each; biases do not count
    want = sum(1 - F.cosine_similarity(u.flatten(), v.flatten(), dim=0).item() for u,v in zip(a[0], b[0]))
    assert gradient_distance(a, b).item() == pytest.approx(want, rel=1e-4)
    assert gradient_distance(a, a, 'mse').item() == 0 and gradient_distance([2*v for v in a], a, 'mse').item() == pytest.approx(1)
    with pytest.raises(ValueError, match='how'): gradient_distance(a, b, 'x')
    with pytest.raises(ValueError, match='mse'): gradient_distance([torch.ones(3)], [torch.ones(3)])

@pytest.mark.parametrize('objective', [GradientMatch(), GradientMatch('mse'), GradientMatch(augment=Siamese('crop'))], ids=repr)
def test_gradient_of_the_match(data, batch, objective, check_against_differences):
    check_against_differences(lambda s: objective(s, replace(state64(data), seed=5), batch), set64(data))

def test_gradient_match_is_its_definition(data, batch):
    syn,state = set64(data),state64(data)
    w = list(state.params.values())
    def gradient(x, c):
        ws = [v.detach().requires_grad_() for v in w]
        s = replace(state, params=dict(zip(state.params, ws)))
        return torch.autograd.grad(loss_fn(s(x), torch.full((len(x),), c)), ws)
    x,y = batch
    want = sum(gradient_distance(gradient(syn.images[0, syn.labels[0] == c].detach(), c), gradient(x[y == c], c)) for c in range(10) if (y == c).any())
    assert GradientMatch()(syn, state, batch).item() == pytest.approx(want.item(), rel=1e-10)

def test_the_same_transformation_for_both(data):
    "A set that is the real batch has distance 0, whatever the transformation."
    x,y = data.batch(40, torch.Generator().manual_seed(1))
    syn,state = Synthetic(x[None], y[None], 10),replace(functional(smooth(data)), seed=11)
    assert abs(GradientMatch(augment=standard_augment(data))(syn, state, (x, y)).item()) < 1e-2

def test_gradient_match_with_batch_norm(data, batch):
    "The statistics are those of the real batch, not those of the few images of one class."
    state,syn = state64(data, norm='batch'),set64(data)
    loss = GradientMatch()(syn, state, batch)
    assert torch.autograd.grad(loss, [syn.images])[0].isfinite().all()
    calibrated = state.calibrated(batch[0])
    assert loss.item() == pytest.approx(GradientMatch()(syn, replace(calibrated, bn='frozen'), batch).item(), rel=1e-8)

def test_by_class(data):
    parts = by_class(data.x_test, data.y_test, 10)
    assert sum(map(len, parts)) == len(data.y_test) and torch.equal(parts[3], data.x_test[data.y_test == 3])

def test_gradient_match_refuses(data):
    x,y = data.batch(20, torch.Generator().manual_seed(1))
    state = functional(smooth(data))
    with pytest.raises(ValueError, match='soft'): GradientMatch()(Synthetic.real(data).softened('hard'), state, (x, y))
    threes = Synthetic(x[None, y == y[0]], y[None, y == y[0]], 10)
    with pytest.raises(ValueError, match='batch_size'): GradientMatch()(threes, state, (x[y != y[0]], y[y != y[0]]))
    with pytest.raises(ValueError, match='distance'): GradientMatch('x')
    with pytest.raises(ValueError, match='strategy'): GradientMatch(augment='x')

def test_gradient_match_learns(data):
    syn,source = Synthetic.noise(data.shape, 10, epochs=20, lr=.02, inner='momentum', seed=0, learn=('images',)),RandomInit(lambda: smooth(data, None))
    history = distill(syn, source, data, GradientMatch(), iters=80, lr=.05, n_valid=100, every=20, n_eval=2, progress=False)
    assert history.loss[-1] < .8*history.loss[1] and history.best_accuracy > history.accuracy[0] + .1
