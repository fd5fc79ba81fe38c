"Mean features of S beside those of the data."
from dataclasses import replace

import pytest
import torch
from objectives import batch, data, set64, smooth, state64   # noqa: F401 - fixtures among them

import dd_nb.soft_labels  # noqa: F401 - it gives S soft labels
from dd_nb.augment import Siamese,standard_augment
from dd_nb.distillation import distill
from dd_nb.distribution_matching import DistributionMatch
from dd_nb.inits import RandomInit
from dd_nb.synthetic import Synthetic
from dd_nb.structure import functional


@pytest.mark.parametrize('objective', [DistributionMatch(), DistributionMatch('scale_rotate')], ids=repr)
def test_gradient_of_the_match(data, batch, objective, check_against_differences):
    check_against_differences(lambda s: objective(s, replace(state64(data), seed=5), batch), set64(data))

def test_the_same_transformation_for_both(data):
    "A set that is the real batch has distance 0, whatever the transformation."
    x,y = data.batch(40, torch.Generator().manual_seed(1))
    syn,state = Synthetic(x[None], y[None], 10),replace(functional(smooth(data)), seed=11)
    assert abs(DistributionMatch(standard_augment(data))(syn, state, (x, y)).item()) < 1e-2
    other = DistributionMatch()(syn, state, (Siamese('scale').draw(torch.Generator().manual_seed(11))(x), y)).item()
    assert other > .1


def test_distribution_match_refuses(data):
    x,y = data.batch(20, torch.Generator().manual_seed(1))
    state = functional(smooth(data))
    with pytest.raises(ValueError, match='soft'): DistributionMatch()(Synthetic.real(data).softened('hard'), state, (x, y))
    threes = Synthetic(x[None, y == y[0]], y[None, y == y[0]], 10)
    with pytest.raises(ValueError, match='batch_size'): DistributionMatch()(threes, state, (x[y != y[0]], y[y != y[0]]))
    with pytest.raises(ValueError, match='strategy'): DistributionMatch('x')

def test_distribution_match_learns(data):
    syn,source = Synthetic.noise(data.shape, 10, epochs=20, lr=.02, inner='momentum', seed=0, learn=('images',)),RandomInit(lambda: smooth(data, None))
    history = distill(syn, source, data, DistributionMatch(), iters=80, lr=.05, n_valid=100, every=20, n_eval=2, progress=False)
    assert history.loss[-1] < .8*history.loss[1] and history.best_accuracy > history.accuracy[0] + .1
