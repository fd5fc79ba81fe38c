"The linear case, where the truth is known: every claim of 04_linear over random problems, in float64."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dd_nb.linear import (construct, construct_known, draw_linear, excess, excess_bounds, expected_excess, explore_linear, gd_step,
                          learn_points, linear_problem, lower_bound, minimiser, optimal_excess)

f64 = torch.float64
slow = settings(max_examples=25, deadline=None)


@st.composite
def problems(draw, top=10, condition=6):
    N, D = draw(st.integers(2, 30)), draw(st.integers(1, top))
    rank = draw(st.integers(1, min(N, D)))
    return linear_problem(N, D, rank, 10**draw(st.floats(0, condition)), draw(st.floats(0, 2)), draw(st.integers(0, 10**6))), rank


def randn(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_construction_reaches_the_minimum_from_anywhere(p):
    (d, t), rank = p
    best, (x, y) = minimiser(d, t), construct(d, t, lr=.7)
    assert x.shape == (rank, d.shape[1]) and y.shape == (rank,) and lower_bound(d) == rank
    theta = randn(50, d.shape[1])
    start = excess(d, theta, best)
    if start.min() < 1e-6*start.max(): return   # a start that happens to be optimal cannot be improved on
    assert (excess(d, gd_step(theta, x, y, .7), best)/start).max() <= 1e-18


@settings(max_examples=50, deadline=None)
@given(problems(condition=3))
def test_the_minimiser_has_no_gradient_and_is_the_shortest(p):
    (d, t), rank = p
    best = minimiser(d, t)
    assert (d.T@(d@best - t)).norm() <= 1e-9*(d.T@t).norm().clamp(min=1)
    other = best + randn(d.shape[1])
    assert excess(d, other, best).item() == pytest.approx(((d@other - t).square().sum() - (d@best - t).square().sum()).item()/2/len(d), rel=1e-6, abs=1e-9)
    assert (best - torch.linalg.pinv(d)@t).norm() <= 1e-8*(1 + best.norm())


@settings(max_examples=50, deadline=None)
@given(problems(condition=2), st.integers(1, 12), st.floats(.05, 2))
def test_no_fewer_points_do_for_all_starts(p, M, lr):
    "One point short of the rank, whatever the points, some start is left above the minimum."
    (d, t), rank = p
    M = min(M, rank - 1)
    if M < 1: return
    x, y = randn(M, d.shape[1], seed=M), randn(M)
    theta = torch.linalg.svd(x)[2][M:].T@(torch.linalg.svd(x)[2][M:]@randn(d.shape[1], seed=1))*1e3   # out of reach of the points
    best = minimiser(d, t)
    assert excess(d, torch.stack([gd_step(theta, x, y, lr), gd_step(-theta, x, y, lr)]), best).max() > 1e-12


@slow
@given(problems(top=6, condition=2), st.floats(.1, 3), st.booleans())
def test_bounds_are_in_order_and_nothing_learned_is_below(p, std, centred):
    (d, t), rank = p
    D, best = d.shape[1], minimiser(d, t)
    offset = None if centred else randn(D, seed=5)
    before = math.inf
    for M in range(D + 1):
        tail, span, top = excess_bounds(d, M, std, offset)
        best_of_all = optimal_excess(d, M, std, offset, starts=3, iters=200)
        slack = 1e-7*excess_bounds(d, 0, std, offset)[2]
        assert tail <= span + slack and span <= best_of_all + slack and best_of_all <= top + slack and best_of_all <= before + slack
        if centred: assert tail == pytest.approx(top, abs=slack)
        before = best_of_all
        if M == 0: continue
        mean = best if offset is None else best + offset
        x, y = randn(M, D, seed=M), randn(M)
        assert expected_excess(x, y, d, best, mean, std, .3) >= best_of_all - slack


@pytest.mark.parametrize('centred', [True, False])
def test_learned_points_are_optimal(centred):
    d, t = linear_problem(40, 5, condition=5., seed=3)
    best = minimiser(d, t)
    offset = torch.zeros(5, dtype=f64) if centred else randn(5, seed=1)
    whole = optimal_excess(d, 0, 1., offset)
    for M in range(1, 6):
        got = min(expected_excess(*learn_points(d, t, M, best + offset, 1., seed), d, best, best + offset, 1.).item() for seed in (0, 1))
        if M < 5: assert got == pytest.approx(optimal_excess(d, M, 1., offset), rel=.01)
        else: assert got < 1e-10*whole


def test_expected_excess_is_the_mean_and_its_gradient_is_right():
    d, t = linear_problem(20, 4, seed=1)
    best, mean = minimiser(d, t), randn(4, seed=2)
    x, y = randn(2, 4, seed=3).requires_grad_(), randn(2, seed=4).requires_grad_()
    starts = mean + .7*randn(200_000, 4, seed=5)
    got = excess(d, gd_step(starts, x.detach(), y.detach(), .4), best)
    assert abs(got.mean() - expected_excess(x, y, d, best, mean, .7, .4)) < 5*got.std()/len(got)**.5
    assert torch.autograd.gradcheck(lambda x, y: expected_excess(x, y, d, best, mean, .7, .4), (x, y))


@settings(max_examples=50, deadline=None)
@given(problems(condition=3), st.integers(0, 4), st.booleans())
def test_what_is_known_of_the_start_sets_the_number_of_points(p, k, through):
    (d, t), rank = p
    D, best = d.shape[1], minimiser(d, t)
    basis, centre = randn(D, min(k, D), seed=7), randn(D, seed=8)
    if through: centre = best + basis@torch.ones(basis.shape[1], dtype=f64)
    M = lower_bound(d, t, basis, centre)
    assert M == min(rank, basis.shape[1] + (not through))   # random directions are in general position
    x, y = construct_known(d, t, basis, centre, lr=1.3)
    theta = centre + randn(40, basis.shape[1], seed=9)@basis.T
    after = excess(d, gd_step(theta, x, y, 1.3), best) if M else excess(d, theta, best)
    scale = excess(d, theta, best).max() + (d@best).square().sum()/2/len(d) + (d@centre).square().sum()/2/len(d)
    assert len(x) == M and after.max() <= 1e-18*scale


def test_float32_keeps_its_dtype():
    d, t = (v.float() for v in linear_problem(20, 3))
    x, y = construct(d, t)
    assert x.dtype == y.dtype == torch.float32
    theta = torch.randn(5, 3)
    assert (excess(d, gd_step(theta, x, y), minimiser(d, t))/excess(d, theta, minimiser(d, t))).max() < 1e-9


@pytest.mark.parametrize('f,words', [
    (lambda: linear_problem(rank=11), 'rank must be at most 10, got 11'), (lambda: linear_problem(condition=.5), 'condition must be at least 1, got 0.5'),
    (lambda: linear_problem(N=0), 'N must be'), (lambda: minimiser(torch.ones(3), torch.ones(3)), r'd must be .* got \(3,\)'),
    (lambda: minimiser(torch.ones(3, 2), torch.ones(2)), r't must be a tensor of shape \(3,\), got \(2,\)'), (lambda: minimiser(torch.zeros(3, 2), torch.ones(3)), 'not all zero'),
    (lambda: minimiser(torch.full((3, 2), math.nan), torch.ones(3)), 'finite'), (lambda: construct(torch.eye(2), torch.ones(2), lr=0.), 'lr must be positive'),
    (lambda: excess_bounds(torch.eye(2), 3), 'M must be at most 2, got 3'), (lambda: lower_bound(torch.eye(2), basis=torch.ones(3, 1)), r'basis must be .* \(2, k\)'),
    (lambda: lower_bound(torch.eye(2), basis=torch.ones(2, 1), centre=torch.ones(2)), 't must be given with centre'),
    (lambda: lower_bound(torch.eye(2), torch.ones(2), torch.ones(2, 1), torch.ones(3)), r'centre must be .* \(2,\)'),
    (lambda: draw_linear(D=2, M=3), 'M must be at most 2, got 3'), (lambda: draw_linear(points='best'), "points must be one of optimal, real, got 'best'")])
def test_bad_arguments(f, words):
    with pytest.raises(ValueError, match=words): f()


def test_the_explorer_draws_again_when_a_slider_moves():
    box = explore_linear()
    (left, right), image = (b.children for b in box.children[0].children), box.children[1]
    D, M, points = left
    first = bytes(image.value)
    assert first.startswith(b'\x89PNG')
    M.value = 4
    assert bytes(image.value) != first
    D.value = 3
    assert M.value == M.max == 3      # no more points than dimensions
    for w, v in ((right[0], 0.), (right[1], 100.), (right[2], 20), (points, 'real'), (D, 1)):
        before = bytes(image.value)
        w.value = v
        assert bytes(image.value) != before, w.description
