"Siamese augmentation, against torchvision and finite differences."
import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF

from dd_nb.augment import TRANSFORMS,AUGMENTATIONS,Siamese,standard_augment
from dd_nb.data import data_from_tensors,load_data


@pytest.fixture
def x(): return torch.rand(5, 3, 12, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(name, x, *u): return TRANSFORMS[name](x, *u)


def test_the_same_for_every_image_and_every_batch(x):
    for name in AUGMENTATIONS:
        f = Siamese(name).draw(torch.Generator().manual_seed(1))
        assert torch.equal(f(x), torch.cat([f(x[:2]), f(x[2:])])) and torch.equal(f(x)[0], f(x[0]))


def test_one_of_them_or_all(x):
    g = torch.Generator().manual_seed(0)
    aug = Siamese('flip_crop')
    for _ in range(20):
        out = aug.draw(g)(x)
        flipped = torch.equal(out, x.flip(-1)) or torch.equal(out, x)
        shifted = any(torch.equal(out, drawn('crop', x, (i + .5)/5, (j + .5)/5, 0)) for i in range(5) for j in range(5))
        assert flipped or shifted
    both = Siamese('flip_crop', every=True).draw(torch.Generator().manual_seed(3))
    u = torch.rand(3, generator=(g := torch.Generator().manual_seed(3))).tolist(), torch.rand(3, generator=g).tolist()
    assert torch.equal(both(x), drawn('crop', drawn('flip', x, *u[0]), *u[1]))


def test_a_seed_draws_the_same_and_the_global_generator_is_used_without_one(x):
    aug = Siamese()
    torch.manual_seed(5); a = aug(x)
    torch.manual_seed(5); b = aug(x)
    assert torch.equal(a, b)
    state = torch.get_rng_state()
    aug.draw(torch.Generator().manual_seed(0))(x)
    assert torch.equal(state, torch.get_rng_state())


def test_flip_is_torchvisions(x):
    assert torch.equal(drawn('flip', x, .2), TF.horizontal_flip(x)) and torch.equal(drawn('flip', x, .7), x)


@pytest.mark.parametrize('u', [0., .2, .5, .9, .999])
def test_crop_pads_and_crops(x, u):
    "Pads by an eighth (2 of 16 across, 1.5 rounded to 2 of 12 down), as torchvision does with zeros."
    i, j = int(u*5), int((1 - u)*.999*5)
    want = TF.crop(TF.pad(x, [2, 2]), i, j, 12, 16)
    assert torch.equal(drawn('crop', x, u, (1 - u)*.999, 0), want)


@pytest.mark.parametrize('u', [0., .4, .99])
def test_cutout_erases_a_square_of_half_the_side(x, u):
    top, left = int(u*13) - 3, int(u*17) - 4
    h, w = min(top + 6, 12) - max(top, 0), min(left + 8, 16) - max(left, 0)
    assert torch.equal(drawn('cutout', x, u, u, 0), TF.erase(x, max(top, 0), max(left, 0), h, w, torch.zeros((), dtype=x.dtype)))


@pytest.mark.parametrize('u', [0., .3, .5, .99])
def test_rotate_is_torchvisions(x, u):
    want = TF.rotate(x, angle=30*(u - .5), interpolation=TF.InterpolationMode.BILINEAR)
    assert torch.allclose(drawn('rotate', x, u), want, atol=1e-6)


def test_scale_stretches_by_its_two_factors():
    "A ramp a*x + b*y + c about the centre becomes a*sx*x + b*sy*y + c inside the image."
    ys, xs = torch.meshgrid(torch.arange(21.) - 10, torch.arange(21.) - 10, indexing='ij')
    image = (2*xs - 3*ys + 1)[None].double()
    u, v = .3, .8
    sx, sy = (1/1.2 + t*(1.2 - 1/1.2) for t in (u, v))
    out, want = drawn('scale', image, u, v, 0), (2*sx*xs - 3*sy*ys + 1)[None].double()
    assert torch.allclose(out[..., 5:16, 5:16], want[..., 5:16, 5:16], atol=1e-5)


def test_scale_by_one_factor_is_torchvisions(x):
    square = x[..., :12]
    u = .25
    s = 1/1.2 + u*(1.2 - 1/1.2)
    want = TF.affine(square, angle=0., translate=[0, 0], scale=1/s, shear=[0., 0.], interpolation=TF.InterpolationMode.BILINEAR)
    assert torch.allclose(drawn('scale', square, u, u, 0), want, atol=1e-6)


def test_colour(x):
    "Brightness alone adds; contrast is torchvision's, where its clamp does not bite, on grey images; saturation keeps the mean over channels."
    half = (.5, .5, .5)
    assert torch.allclose(drawn('color', x, *half), x, atol=1e-12)
    assert torch.allclose(drawn('color', x, .9, .5, .5), x + .4, atol=1e-12)
    grey = .4 + .2*x[:, :1]
    assert torch.allclose(drawn('color', grey, .5, .1, .8), TF.adjust_contrast(grey, 1.3), atol=1e-6)
    out = drawn('color', x, .5, .9, .5)
    assert torch.allclose(out.mean(1), x.mean(1), atol=1e-12)
    assert torch.allclose(out - out.mean(1, keepdim=True), 1.8*(x - x.mean(1, keepdim=True)), atol=1e-12)


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_gradient_against_finite_differences(name, x):
    f = Siamese(name).draw(torch.Generator().manual_seed(2))
    small = x[:2, :, :6, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(f, small)


def test_through_an_unroll_it_is_the_same_gradient_by_all_strategies():
    from dd_nb.networks import ConvNet
    from dd_nb.synthetic import Synthetic
    from dd_nb.unrolling import Unroll
    from dd_nb.structure import functional
    data = load_data('digits', size=8).to(dtype=torch.float64)
    syn = Synthetic.real(data, ipc=1, epochs=4, lr=.1)
    state = functional(ConvNet(data.shape, 10, width=4, depth=1, act='softplus', seed=0).double())
    from dataclasses import replace
    batch = data.batch(32, torch.Generator().manual_seed(0))
    def grad(strategy): return torch.autograd.grad(Unroll(strategy, augment=Siamese())(syn, replace(state, seed=3), batch), syn.images)[0]
    a, b = grad('graph'), grad('recompute')
    assert a.abs().max() > 0 and (a - b).norm() <= 1e-10*a.norm()


def test_digits_are_not_mirrored():
    assert 'flip' not in standard_augment(load_data('digits')).names
    g = torch.Generator().manual_seed(0)
    other = data_from_tensors(torch.rand(40, 3, 8, 8, generator=g), torch.arange(40) % 2)
    assert standard_augment(other).names == AUGMENTATIONS


def test_bad_input(x):
    with pytest.raises(ValueError, match='strategy must be made of color, crop.*crop_blur'): Siamese('crop_blur')
    with pytest.raises(TypeError, match='strategy must be names'): Siamese(None)
    with pytest.raises(ValueError, match='x must be float images'): Siamese()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match='x must be float images'): Siamese()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_stacked_batches_keep_their_shape(x):
    for name in AUGMENTATIONS: assert Siamese(name).draw(torch.Generator().manual_seed(0))(x[None].expand(2, -1, -1, -1, -1)).shape == (2, *x.shape)
    assert math.isfinite(float(Siamese(every=True)(x).sum()))
