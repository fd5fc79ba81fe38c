"Mean features of S beside those of the data."
from dataclasses import replace

import pytest
import torch
from objectives import batch, data, set64, smooth, state64   # noqa: F401 - fixtures among them

import dd_nb.soft_labels  # noqa: F401 - it gives S soft labels
from dd_nb.augment import Siamese,standard_augment
from dd_nb.distillation import distill
from dd_nb.distribution_matching import FREQUENCIES, DistributionMatch, _off_characteristic, _off_means
from dd_nb.inits import RandomInit
from dd_nb.synthetic import Synthetic
from dd_nb.structure import functional


@pytest.mark.parametrize('objective', [DistributionMatch(), DistributionMatch('scale_rotate'), DistributionMatch(distance='characteristic')], ids=repr)
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
    with pytest.raises(ValueError, match='distance'): DistributionMatch(distance='median')

def test_characteristic_functions_see_more_than_means(data):
    "Features that share their mean with others, and not their spread."
    f = torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.cat([f, -f])
    state = replace(functional(smooth(data)), seed=3)
    assert _off_means(f, 2*f, state) < 1e-20 and _off_characteristic(f, 2*f, state) < 1e-5   # lengths are left out
    flat = f*torch.tensor([1., .1, .1, .1, .1], dtype=torch.float64)
    assert _off_means(f, flat, state) < 1e-20 and _off_characteristic(f, flat, state) > .05
    # weights of a half for amplitude and phase, spelled out as in the paper
    g = torch.Generator().manual_seed(3)
    t = torch.randn(5, FREQUENCIES, generator=g, dtype=torch.float64)
    a,b = (torch.exp(1j*(torch.nn.functional.normalize(v)@t)).mean(0) for v in (f, flat))
    amplitude,phase = (a.abs() - b.abs())**2,2*(a.abs()*b.abs() - (a*b.conj()).real)
    assert torch.allclose(_off_characteristic(f, flat, state), (.5*amplitude + .5*phase + 1e-12).sqrt().mean())

def test_distribution_match_learns(data):
    syn,source = Synthetic.noise(data.shape, 10, epochs=20, lr=.02, inner='momentum', seed=0, learn=('images',)),RandomInit(lambda: smooth(data, None))
    history = distill(syn, source, data, DistributionMatch(), iters=80, lr=.05, n_valid=100, every=20, n_eval=2, progress=False)
    assert history.loss[-1] < .8*history.loss[1] and history.best_accuracy > history.accuracy[0] + .1
