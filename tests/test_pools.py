"Networks that were trained beforehand, and networks that age."
import pytest
import torch
from torch import nn

from dd_nb.data import Data, data_from_tensors, load_data
from dd_nb.distillation import distill
from dd_nb.ordinary import accuracy
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit, RandomInit, judges, stored_init
from dd_nb.networks import MLP
from dd_nb.pools import AgingPool, PretrainedPool, pretrain
from dd_nb.synthetic import Synthetic
from dd_nb.format import read_tensors,write_tensors


def first(state): return next(iter(state.params.values()))


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
