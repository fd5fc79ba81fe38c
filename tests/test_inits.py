"Sources of networks."
import pytest
import torch

from dd_nb.data import load_data
from dd_nb.distill import distill
from dd_nb.evaluate import accuracy, evaluate, stored_source, tune_lr
from dd_nb.inits import AgingPool, FixedInit, Mixture, PretrainedPool, RandomInit, judges, pretrain, stored_init
from dd_nb.networks import MLP, ConvNet, LeNet
from dd_nb.synthetic import Synthetic


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
