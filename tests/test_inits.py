"Sources of networks."
import pytest
import torch

from dd_nb.inits import FixedInit, RandomInit, stored_init
from dd_nb.networks import ConvNet, LeNet


def first(state): return next(iter(state.params.values()))


def make(): return ConvNet((1, 16, 16), 3, width=4, depth=2)


def test_fixed_is_a_snapshot():
    net = LeNet(seed=0)
    source = FixedInit(net)
    with torch.no_grad(): next(net.parameters()).zero_()
    a, b = source.draw(2)
    assert torch.equal(first(a), first(b)) and first(a).abs().sum() > 0


def test_random_draws_differ_repeat_by_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a = RandomInit(make, seed=0).draw(3)
    assert torch.equal(before, torch.random.get_rng_state())
    b, c = RandomInit(make, seed=0), RandomInit(make, seed=1).draw(3)
    assert all(torch.equal(first(x), first(y)) for x, y in zip(a, b.draw(1) + b.draw(2)))
    drawn = [first(s) for s in a + c]
    assert all(not torch.equal(x, y) for i, x in enumerate(drawn) for y in drawn[:i])


def test_held_out_networks_are_never_those_of_training():
    source = RandomInit(make, seed=0)
    train = [first(s) for s in source.draw(50)]
    for seed in range(5):
        held = [first(s) for s in source.held_out(seed).draw(20)]
        assert all(not torch.equal(a, b) for a in train for b in held)
    assert torch.equal(first(source.held_out(1).draw(1)[0]), first(RandomInit(make, 7).held_out(1).draw(1)[0]))


def test_a_copy_does_not_advance_the_source():
    source = RandomInit(make, seed=0)
    source.to(dtype=torch.float64).draw(3)
    assert source.count == 0 and first(source.to(dtype=torch.float64).draw(1)[0]).dtype == torch.float64
    fixed = FixedInit(make())
    assert first(fixed.to(dtype=torch.float64).draw(1)[0]).dtype == torch.float64 and first(fixed.draw(1)[0]).dtype == torch.float32


def test_no_seed_draws_one_and_records_it():
    source = RandomInit(make)
    a = source.draw(1)
    assert isinstance(source.seed, int) and torch.equal(first(RandomInit(make, source.seed).draw(1)[0]), first(a[0]))


def test_stored_init():
    source = FixedInit(LeNet(seed=3))
    again = stored_init(source.stored())
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(again.draw(1)[0](x), source.draw(1)[0](x)) and again.spec['name'] == 'LeNet'
    own = FixedInit(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)))
    with pytest.raises(ValueError, match='network of your own'): stored_init(own.stored())
    assert torch.equal(stored_init(own.stored(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))).draw(1)[0](x), own.draw(1)[0](x))
    with pytest.raises(ValueError, match='do not fit'): stored_init(own.stored(), torch.nn.Linear(784, 10))
    with pytest.raises(ValueError, match='stores no initial weights'): stored_init(None)


def test_bad_arguments():
    with pytest.raises(TypeError, match='function that returns a network'): RandomInit(3)
    with pytest.raises(TypeError, match='use lambda'): RandomInit(make())
