"Sources of networks."
import random

import numpy as np
import pytest
import torch
from torch import nn

from dd_nb.data import Data, data_from_tensors, load_data
from dd_nb.distill import distill
from dd_nb.train import accuracy
from dd_nb.evaluate import evaluate,stored_source,tune_lr
from dd_nb.inits import AgingPool, FixedInit, Mixture, PretrainedPool, RandomInit, judges, pretrain, stored_init
from dd_nb.networks import MLP, ConvNet, LeNet
from dd_nb.synthetic import Synthetic, read_tensors, write_tensors


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


# --- pre-trained networks

@pytest.fixture(scope='module')
def digits(): return load_data('digits', size=8)


def small(): return MLP((1, 8, 8), 10, hidden=(16,))


@pytest.fixture(scope='module')
def pool(digits, tmp_path_factory):
    return pretrain(small, digits, tmp_path_factory.mktemp('pool'), n=6, epochs=3, lr=.01, batch_size=32, workers=2, progress=False)


def test_a_pool_is_trained_and_knows_its_accuracies(digits, pool):
    assert len(pool) == 6 and min(pool.accuracies) > .8
    for s, a in zip(pool.states, pool.accuracies): assert accuracy(s, digits) == pytest.approx(a)
    ws = [first(s) for s in pool.states]
    assert all(not torch.equal(a, b) for i, a in enumerate(ws) for b in ws[:i])


def test_training_goes_on_where_it_stopped(digits, pool, tmp_path):
    "A pool made in two parts, one network at a time, is the same to the last bit as one made at once."
    how = dict(epochs=3, lr=.01, batch_size=32, progress=False)
    pretrain(small, digits, tmp_path, n=3, workers=1, **how)
    before = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    again = pretrain(small, digits, tmp_path, n=6, workers=1, **how)
    assert {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir() if f.name in before} == before
    assert all(torch.allclose(first(a), first(b), atol=1e-5) for a, b in zip(again.states, pool.states))
    with pytest.raises(ValueError, match='holds networks that were trained otherwise'): pretrain(small, digits, tmp_path, n=6, **{**how, 'epochs': 4})
    assert sorted(f.name for f in tmp_path.iterdir()) == [f'net-{i:05}.safetensors' for i in range(6)]   # nothing half-written lies about


def like(data, raw=None, norm=None, y=None):
    "Data of the same name and shape, and otherwise as given."
    return data_from_tensors(data.raw_train if raw is None else raw, data.y_train if y is None else y, data.raw_test, data.y_test, name=data.name, classes=data.classes, norm=norm)


HOW = dict(n=3, epochs=1, batch_size=64, progress=False)


def test_a_pool_of_other_data_is_refused(digits, tmp_path):
    "The name alone is the same: whitened, other images, other labels, another order of the classes."
    pretrain(small, digits, tmp_path, **HOW)
    pretrain(small, load_data('digits', size=8), tmp_path, **HOW)
    pretrain(small, digits.to(dtype=torch.float32), tmp_path, **HOW)
    swapped = Data(digits._train, digits._test, digits.name, digits.classes[::-1], digits.norm, digits.dtype)
    for other in (load_data('digits', size=8, zca=True), like(digits, digits.raw_train.flip(3)), like(digits, y=digits.y_train.roll(1)), swapped):
        with pytest.raises(ValueError, match='holds networks that were trained otherwise: data of other contents, classes, split or normalisation; name another folder$'): pretrain(small, other, tmp_path, **HOW)
    with pytest.raises(ValueError, match='trained otherwise: lr 0.001, not 0.002; name'): pretrain(small, digits, tmp_path, lr=.002, **HOW)


@pytest.mark.parametrize('other', [lambda: MLP((1, 8, 8), 10, hidden=(17,)), lambda: MLP((1, 8, 8), 10, hidden=(16,), act='tanh'), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))], ids=['width', 'activation', 'own'])
def test_a_pool_of_another_network_is_refused_before_it_is_trained(digits, tmp_path, other):
    pretrain(small, digits, tmp_path, **HOW)
    with pytest.raises(ValueError, match='trained otherwise: a network of another structure; name another folder'): pretrain(other, digits, tmp_path, **{**HOW, 'n': 4})
    assert len(list(tmp_path.iterdir())) == 3


def test_a_pool_without_digests_is_judged_again(digits, tmp_path):
    "Folders of before: taken where the networks still have the accuracy that is recorded with them."
    pool = pretrain(small, digits, tmp_path, **HOW)
    for f in tmp_path.iterdir():
        tensors, head = read_tensors(f, 'network')
        head['trained'] = {k: v for k, v in head['trained'].items() if k not in ('digest', 'network')}
        write_tensors(f, tensors, {k: v for k, v in head.items() if k in ('spec', 'accuracy', 'trained')}, 'network')
    again = pretrain(small, digits, tmp_path, **HOW)
    assert again.accuracies == pool.accuracies and 'digest' not in again.trained and again.diverged == again.constant == 0
    with pytest.raises(ValueError, match='trained otherwise: an accuracy of .* on data where they have'): pretrain(small, load_data('digits', size=8, zca=True), tmp_path, **HOW)
    with pytest.raises(ValueError, match='a network of another structure'): pretrain(lambda: MLP((1, 8, 8), 10, hidden=(17,)), digits, tmp_path, **HOW)
    more = pretrain(small, digits, tmp_path, **{**HOW, 'n': 4})   # the fourth has digests
    assert len(more) == 4 and more.describe()['trained'] == again.trained


def test_a_pool_says_what_it_was_trained_on(digits, pool):
    assert pool.describe()['trained']['digest'] == digits.digest and pool[0].describe()['net'] == pool.spec


def test_draws_of_a_pool(pool):
    ids = {first(s).data_ptr(): i for i, s in enumerate(pool.states)}
    source = PretrainedPool(pool.folder, held_out=.3, seed=0)
    ids = {first(s).data_ptr(): i for i, s in enumerate(source.states)}
    def drawn(states): return [ids[first(s).data_ptr()] for s in states]
    a = [drawn(source.draw(3)) for _ in range(20)]
    assert {i for d in a for i in d} == {0, 1, 2, 3} and all(len(set(d)) == 3 for d in a)
    assert set(drawn(source.held_out(0).draw(20))) == {5} and set(drawn(source.held_out(-1).draw(20))) == {4}   # to judge and to choose by
    assert len(judges(source, 20)) == 1 and len(judges(RandomInit(small), 20)) == 20 and len(judges(pool[0], 20)) == 1
    assert a == [drawn(s.draw(3)) for s in [source.to()] for _ in range(20)]      # a copy begins anew
    assert sorted(drawn(source.draw(9))[:4]) == [0, 1, 2, 3]                       # more than there are: all, then again


def test_noise_on_the_weights_of_a_pool(pool):
    source = PretrainedPool(pool.folder, held_out=.3, seed=0, noise=.2)
    plain = {i: first(s) for i, s in enumerate(source.states)}
    def nearest(s): return min(plain, key=lambda i: (first(s) - plain[i]).norm().item())
    drawn = [source.draw(3) for _ in range(20)]
    assert all(len({nearest(s) for s in d}) == 3 for d in drawn)
    ratios = [first(s)/plain[nearest(s)] - 1 for d in drawn for s in d]
    assert all((r - r[:, :1]).abs().max() < 1e-4 for r in ratios)                                   # one factor for all that leads to a unit
    e = torch.cat([r[:, 0] for r in ratios])
    assert abs(e.mean()) < .05 and e.std().item() == pytest.approx(.2, abs=.03)
    again, rest = source.to(), PretrainedPool(pool.folder, held_out=.3, noise=.2)
    assert all(torch.equal(first(a), first(b)) for d in drawn for a, b in zip(d, again.draw(3)))   # a copy begins anew
    for _ in range(7): source.draw(3)
    rest.load_state_dict(source.state_dict())
    assert torch.equal(first(rest.draw(1)[0]), first(source.draw(1)[0]))                           # and one that is taken up goes on
    assert torch.equal(first(source.held_out(0).draw(1)[0]), plain[5]) and source.describe()['noise'] == .2
    with pytest.raises(ValueError, match='noise must be'): PretrainedPool(pool.folder, noise=-1.)


def test_one_of_a_pool_is_a_fixed_source(digits, pool):
    source = pool[2]
    assert source.fixed and torch.equal(first(source.draw(1)[0]), first(pool.states[2]))
    assert torch.equal(first(stored_init(source.stored()).draw(1)[0]), first(pool.states[2]))


def test_distilling_for_a_pool(digits, pool):
    syn = Synthetic.real(digits, lr=.01)
    distill(syn, pool, digits, iters=5, n_nets=2, progress=False)
    score = evaluate(syn, pool, digits)
    assert syn.meta['source']['source'] == 'PretrainedPool' and score.mean > .5 and len(score.all) == 1   # as many as are held out


def test_bad_pools(digits, tmp_path):
    with pytest.raises(ValueError, match='three networks or more'): PretrainedPool(tmp_path)
    with pytest.raises(ValueError, match='lr must be a positive'): pretrain(small, digits, tmp_path, lr=0.)
    with pytest.raises(ValueError, match='n must be at least 3'): pretrain(small, digits, tmp_path, n=0)
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match="file' cannot be made"): pretrain(small, digits, tmp_path/'file')


def test_a_pool_of_another_architecture_is_refused(pool):
    with pytest.raises(ValueError, match='does not fit the network that make_net returns'): PretrainedPool(pool.folder, lambda: MLP((1, 8, 8), 10, hidden=(17,)))
    with pytest.raises(ValueError, match=r'held_out must be in \(0, 1\)'): PretrainedPool(pool.folder, held_out=1.)


# --- networks that age

def test_an_aging_pool_is_what_one_would_write(digits):
    "Against training by torch.optim."
    syn = Synthetic.real(digits, lr=.1)
    pool = AgingPool(RandomInit(small, seed=0), size=2, max_age=4, steps=2, lr=.1, inner='momentum', seed=0)
    start = [s.module() for s in RandomInit(small, seed=0).draw(2)]
    for step in (2, 4):
        pool.draw(2); pool.age(syn)
        for net in start if step == 2 else []:
            opt = torch.optim.SGD(net.train().parameters(), .1, momentum=.9)
            for _ in range(2): opt.zero_grad(); torch.nn.functional.cross_entropy(net(syn.images[0]), syn.labels[0]).backward(); opt.step()
        if step == 2:
            assert pool.ages == [2, 2]
            for s, net in zip(pool.states, start): assert torch.allclose(first(s), next(net.parameters()), atol=1e-6)
            assert all(s.opt == {} for s in pool.draw(2))
    assert pool.ages == [0, 0]                                            # too old: replaced
    fresh = RandomInit(small, seed=0).draw(4)[2:]
    assert {first(s).sum().item() for s in pool.states} == {first(s).sum().item() for s in fresh}


def test_only_what_was_drawn_ages(digits):
    pool = AgingPool(RandomInit(small), size=5, max_age=100, seed=0)
    pool.draw(2); pool.age(Synthetic.real(digits))
    assert sorted(pool.ages) == [0, 0, 0, 1, 1]
    pool.age(Synthetic.real(digits))
    assert sum(pool.ages) == 2
    with pytest.raises(ValueError, match='n must be at most 5'): pool.draw(6)
    with pytest.raises(ValueError, match='source must be one that draws fresh networks'): AgingPool(FixedInit(small()))


def dropped(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(.5), nn.Linear(16, 10))


def test_an_aging_pool_with_dropout_has_one_result_a_seed_and_is_taken_up_bit_for_bit(digits):
    syn = Synthetic.real(digits, ipc=2)
    def new(seed=0): return AgingPool(RandomInit(dropped, seed=3), size=3, max_age=6, steps=2, lr=.1, inner='momentum', batch_size=8, seed=seed)
    def go(pool, n):
        for _ in range(n): pool.draw(2); pool.age(syn)
        return torch.cat([p.flatten() for s in pool.states for p in s.params.values()])
    torch.manual_seed(0); a = go(new(), 6)
    torch.manual_seed(1); b = go(new(), 6)
    assert torch.equal(a, b) and not torch.equal(a, go(new(1), 6))
    half = new()
    go(half, 3)
    saved = half.state_dict()
    torch.manual_seed(2)
    rest = new()
    rest.load_state_dict(saved)
    assert torch.equal(go(rest, 3), a) and all(s.seed is None for s in rest.draw(2))


def test_a_run_with_an_aging_pool_and_dropout_is_taken_up_bit_for_bit(digits, tmp_path):
    def run(iters_seen, folder):
        syn = Synthetic.real(digits, ipc=1)
        class Stop:
            def after_step(self, loop):
                if loop.it == iters_seen: raise KeyboardInterrupt
        source = AgingPool(RandomInit(dropped, seed=3), size=2, max_age=3, steps=1, lr=.1)
        try: distill(syn, source, digits, iters=6, every=2, batch_size=32, n_eval=1, progress=False, checkpoint=folder, cbs=[Stop()])
        except KeyboardInterrupt: pass
        return syn.images.detach()
    torch.manual_seed(0); whole = run(None, tmp_path/'a')
    torch.manual_seed(1); run(4, tmp_path/'b')
    torch.manual_seed(2); assert torch.equal(run(None, tmp_path/'b'), whole)


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
