"Sources of networks."
import random

import numpy as np
import pytest
import torch
from torch import nn

from dd_nb.distillation import distill
from dd_nb.evaluation import evaluate, stored_source, tune_lr
from dd_nb.pools import AgingPool,pretrain
from dd_nb.inits import FixedInit,Mixture,RandomInit,judges,stored_init
from dd_nb.networks import MLP, ConvNet, LeNet
from dd_nb.synthetic import Synthetic


def first(state): return next(iter(state.params.values()))


def make(): return ConvNet((1, 16, 16), 3, width=4, depth=2)


def small(): return MLP((1, 8, 8), 10, hidden=(16,))


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


# --- equal seeds, equal networks; other seeds, others

def by_numpy():
    net = nn.Linear(4, 3)
    with torch.no_grad(): net.weight.copy_(torch.as_tensor(np.random.randn(3, 4)))
    return net


def by_python():
    net = nn.Linear(4, 3)
    with torch.no_grad(): net.weight[0, 0] = random.random()
    return net


def a_buffer_by_numpy():
    net = nn.Linear(4, 3)
    net.register_buffer('frequencies', torch.as_tensor(np.random.randn(4)))
    return net


def seeded_inside():
    torch.manual_seed(5)
    return nn.Linear(4, 3)


def zeros():
    net = nn.Linear(4, 3)
    for p in net.parameters(): nn.init.zeros_(p)
    return net


one = nn.Linear(4, 3)


@pytest.mark.parametrize('make_net', [by_numpy, by_python, a_buffer_by_numpy])
def test_numbers_from_other_generators_are_told_at_once(make_net):
    with pytest.raises(ValueError, match="make_net must draw its random numbers from torch's own generator, got two networks that differ after one seed"): RandomInit(make_net, 0).draw(1)


@pytest.mark.parametrize('make_net', [lambda: one, seeded_inside, zeros, lambda: MLP((4,), 3, seed=1)], ids=['one', 'seeded inside', 'zeros', 'a seed'])
def test_one_network_for_all_seeds_is_told_at_once(make_net, digits, tmp_path):
    for f in (lambda: RandomInit(make_net, 0).draw(1), lambda: RandomInit(make_net, 0).held_out(1).draw(1), lambda: RandomInit(make_net, 3).net(7),
              lambda: AgingPool(RandomInit(make_net), size=2, seed=0).draw(1), lambda: Mixture(RandomInit(make_net, 0), RandomInit(make, 0)).draw(2),
              lambda: pretrain(make_net, digits, tmp_path, n=3)):
        with pytest.raises(ValueError, match=r'make_net must return another network for each seed.*FixedInit\(net\)$'): f()
    assert not list(tmp_path.iterdir())


def test_what_is_random_in_any_way_is_taken():
    "In its buffers alone, in its width, or one module that is initialised anew each time."
    def fourier():
        net = zeros()
        net.register_buffer('frequencies', torch.randn(4))
        return net
    a, b = RandomInit(fourier, 0).draw(2)
    assert not torch.equal(a.buffers['frequencies'], b.buffers['frequencies'])
    assert len(RandomInit(lambda: nn.Linear(4, int(torch.randint(2, 9, ()))), 0).draw(5)) == 5
    def anew(): one.reset_parameters(); return one
    source = RandomInit(anew, 0)
    a, b = source.draw(2)
    assert not torch.equal(first(a), first(b)) and source.net(0) is not one and torch.equal(next(source.net(0).parameters()), first(a))


def test_a_source_is_looked_at_once():
    made = []
    def make_net(): made.append(1); return nn.Linear(4, 3)
    source = RandomInit(make_net, 0)
    source.draw(2); source.draw(3); source.held_out(0).draw(1); source.to(dtype=torch.float64).draw(1)
    assert len(made) == 7 + 3
    with pytest.raises(TypeError, match='make_net must return a torch.nn.Module, got int'): RandomInit(lambda: 3, 0).draw(1)
    with pytest.raises(ValueError, match="must return a network that has seen a batch before, got the uninitialised 'weight'"): RandomInit(lambda: nn.LazyLinear(3), 0).draw(1)
    def marked():
        net = nn.Linear(4, 3)
        net.register_buffer('unknown', torch.tensor(float('nan')))
        return net
    assert len(RandomInit(marked, 0).draw(2)) == 2


def test_what_chooses_never_judges(digits):
    a, b = judges(RandomInit(small, 0), 20, choose=True), judges(RandomInit(small, 0), 20)
    assert not any(torch.equal(first(s), first(t)) for s in a for t in b)
    asked = []
    class Spy(RandomInit):
        def held_out(self, seed=0): asked.append(seed); return super().held_out(seed)
    source = Spy(small, 0)
    syn = Synthetic.real(digits, lr=.01)
    distill(syn, source, digits, iters=2, progress=False)
    tune_lr(syn, source, digits, lrs=(.01, .1), n_nets=2)
    assert len(asked) >= 4 and all(seed < 0 for seed in asked)
    asked.clear()
    evaluate(syn, source, digits, n_nets=2)
    assert asked == [0]


def test_a_mixture_takes_turns(digits, tmp_path):
    a, b = RandomInit(lambda: MLP(digits.shape, 10, hidden=(8,)), 0), RandomInit(lambda: MLP(digits.shape, 10, hidden=(6, 5)), 0)
    both = Mixture(a, b)
    kinds = [len(s.params) for s in both.draw(3)] + [len(s.params) for s in both.draw(2)]
    assert kinds == [4, 6, 4, 6, 4]
    x, y = both.to(), Mixture(a.to(), b.to())   # from the beginning
    assert all(torch.equal(first(p), first(q)) for p, q in zip(x.draw(4), y.draw(4)))
    saved = x.state_dict()
    want = x.draw(3)
    y = both.to()
    y.load_state_dict(saved)
    assert all(torch.equal(first(p), first(q)) for p, q in zip(y.draw(3), want))
    drawn, held = both.to().draw(6), both.held_out().draw(6)
    assert not any(first(p).shape == first(q).shape and torch.equal(first(p), first(q)) for p in drawn for q in held)
    unseeded = Mixture(a, RandomInit(b.make_net))
    assert unseeded.seed is None
    syn = Synthetic.real(digits, epochs=2)
    distill(syn, unseeded, digits, iters=4, batch_size=32, every=2, n_nets=2, progress=False)
    syn.save(tmp_path/'s.safetensors')
    assert unseeded.seed is None and [s['net']['hidden'] for s in syn.meta['source']['sources']] == [[8], [6, 5]]
    assert [len(s.params) for s in stored_source(Synthetic.load(tmp_path/'s.safetensors')).draw(2)] == [4, 6]
    ages = Mixture(AgingPool(a, size=2, seed=0), b)
    distill(syn, ages, digits, iters=2, batch_size=32, n_valid=0, keep='last', n_nets=2, progress=False)
    with pytest.raises(ValueError, match='must be two or more, got 1'): Mixture(a)
    with pytest.raises(ValueError, match='got the fixed FixedInit'): Mixture(a, FixedInit(a.draw()[0].module()))
