"Recorded trainings, and sets that lead where they led."
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from objectives import data, set64, smooth   # noqa: F401 - fixtures among them

from dd_nb.data import data_from_tensors, load_data, split_validation
from dd_nb.distillation import distill
from dd_nb.ordinary import accuracy
from dd_nb.inits import RandomInit, judges
from dd_nb.networks import MLP
from dd_nb.synthetic import Synthetic
from dd_nb.format import read_tensors,write_tensors
from dd_nb.trajectory_matching import Experts, TrajectoryMatch, parameter_distance, record_experts
from dd_nb.structure import functional
from dd_nb.train import trained


@pytest.fixture(scope='module')
def experts(data, tmp_path_factory):
    return record_experts(lambda seed=None: smooth(data, seed), data, tmp_path_factory.mktemp('experts'), n=3, records=4, every=5, lr=.05, batch_size=32, progress=False)

def test_experts_are_recorded_trainings(data, experts):
    assert len(experts) == 3 and experts.records == 4
    start = RandomInit(lambda seed=None: smooth(data, seed), 0).net(1)
    assert all(torch.equal(v.detach().half().float(), experts(1, 0).params[k]) for k,v in start.named_parameters())
    assert accuracy(experts(0, 4), data) > accuracy(experts(0, 0), data) + .1
    assert parameter_distance(experts(0, 0), experts(0, 4)) > parameter_distance(experts(0, 0), experts(0, 1)) > 0
    files = sorted(Path(experts.folder).glob('expert-*.safetensors'))
    assert len(files) == 3 and files[0].stat().st_size < 2*5*sum(p.numel() for p in start.parameters()) + 4000   # two bytes a weight and record

def test_experts_resume(data, tmp_path):
    def record(n, **kw): return record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'e', n=n, records=2, every=3, **kw, progress=False)
    whole = record(3)
    (tmp_path/'e'/'expert-0001.safetensors').unlink()
    before = (tmp_path/'e'/'expert-0000.safetensors').stat().st_mtime_ns
    again = record(3)
    assert (tmp_path/'e'/'expert-0000.safetensors').stat().st_mtime_ns == before
    assert all(torch.equal(a[k], b[k]) for a,b in zip(whole.tracks, again.tracks) for k in a)
    assert len(record(2)) == 2
    with pytest.raises(ValueError, match='otherwise'): record(3, lr=.5)
    assert len(Experts(tmp_path/'e')) == 3   # the architecture is one of ours: the files name it

def test_experts_refuse(data, tmp_path):
    with pytest.raises(ValueError, match='BatchNorm'): record_experts(lambda seed=None: smooth(data, seed, norm='batch'), data, tmp_path/'b', n=1, records=1, every=1, progress=False)
    with pytest.raises(ValueError, match='lr'): record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'b', lr=0)
    with pytest.raises(ValueError, match='none'): Experts(tmp_path)
    (tmp_path/'f').write_text('')
    with pytest.raises(ValueError, match='folder'): record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'f'/'g', n=1)
    record_experts(lambda seed=None: smooth(data, seed), data, tmp_path/'o', n=1, records=1, every=1, progress=False)
    with pytest.raises(ValueError, match='fit'): Experts(tmp_path/'o', lambda: MLP(data.shape, 10))

class Placed(nn.Module):
    "With position numbers and frequencies that are drawn at its start, none of which training changes; with `counts`, a counter that it does."
    def __init__(self, counts=False):
        super().__init__()
        self.inner,self.counts = nn.Linear(64, 10),counts
        self.register_buffer('ids', torch.arange(64)[None])
        self.register_buffer('w', torch.rand(64) + .5)
        self.register_buffer('n', torch.zeros((), dtype=torch.long))
    def forward(self, x):
        if self.training and self.counts: self.n += 1
        return self.inner(x.flatten(1).gather(1, self.ids.expand(len(x), -1))*self.w)

def test_experts_with_constant_buffers(data, tmp_path):
    "Each expert keeps its own; training leaves them as they are."
    experts = record_experts(Placed, data, tmp_path/'e', n=2, records=2, every=5, lr=.05, progress=False)
    source = RandomInit(Placed, 0)
    for i in range(2): assert torch.equal(experts(i, 1).buffers['w'], source.net(i).w) and experts(i, 1).buffers['ids'].dtype == torch.long
    assert not torch.equal(experts(0, 0).buffers['w'], experts(1, 0).buffers['w'])
    again = Experts(tmp_path/'e', Placed)
    assert torch.equal(again(1, 2).buffers['w'], experts(1, 2).buffers['w']) and accuracy(experts(0, 2), data) > accuracy(experts(0, 0), data) + .1
    syn = Synthetic.real(data, epochs=3, lr=.02)
    match = TrajectoryMatch(experts, span=1, max_start=1)
    start,target = match.stretch(replace(experts.state, seed=1), syn.images)
    want = parameter_distance(trained(syn, start), target)/parameter_distance(start, target)
    assert match(syn, replace(experts.state, seed=1)).item() == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(ValueError, match="buffers training leaves as they are, got 'n', which it changes"): record_experts(lambda: Placed(True), data, tmp_path/'n', n=1, records=1, every=2, progress=False)
    assert not list((tmp_path/'n').iterdir())

def test_experts_of_other_data_or_networks_are_refused(data, tmp_path):
    how = dict(n=1, records=1, every=2, progress=False)
    def make(): return smooth(data, None)
    record_experts(make, data, tmp_path, **how)
    white,flipped = load_data('digits', size=8, zca=True),data_from_tensors(data.raw_train.flip(3), data.y_train, data.raw_test, data.y_test, name='digits', classes=data.classes, norm=data.norm)
    for other in (white, flipped):
        with pytest.raises(ValueError, match='holds experts that were recorded otherwise: data of other contents, classes, split or normalisation; name another folder'): record_experts(make, other, tmp_path, **how)
    with pytest.raises(ValueError, match='recorded otherwise: a network of another structure'): record_experts(lambda: MLP(data.shape, 10), data, tmp_path, **how)
    with pytest.raises(ValueError, match='recorded otherwise: lr 0.01, not 0.02;'): record_experts(make, data, tmp_path, lr=.02, **how)
    f, = tmp_path.iterdir()
    tensors,head = read_tensors(f, 'network')
    write_tensors(f, tensors, dict(spec=head['spec'], recorded={k: v for k,v in head['recorded'].items() if k not in ('digest', 'network')}), 'network')
    with pytest.raises(ValueError, match='in a version that kept no digest'): record_experts(make, data, tmp_path, **how)
    with pytest.raises(ValueError, match="draw its random numbers from torch's own generator"): record_experts(lambda: MLP(data.shape, 10, hidden=(int(np.random.randint(5, 5000)),)), data, tmp_path/'x', **how)

def test_trajectory_match(data, experts):
    match = TrajectoryMatch(experts, span=2, max_start=2)
    still = Synthetic.real(data, epochs=3, lr=1e-8)
    assert match(still, replace(experts.state, seed=1)).item() == pytest.approx(1, abs=1e-3)   # who does not move has all the way to go
    start,target = match.stretch(replace(experts.state, seed=1), still.images)
    syn = Synthetic.real(data, epochs=3, lr=.02)
    want = parameter_distance(trained(syn, start), target)/parameter_distance(start, target)
    assert match(syn, replace(experts.state, seed=1)).item() == pytest.approx(want.item(), rel=1e-5)
    seen = {tuple(match.stretch(replace(experts.state, seed=s), syn.images)[0].params['0.weight'].flatten().tolist()) for s in range(60)}
    assert len(seen) == 9   # three experts, three starts

@pytest.mark.parametrize('strategy', ['graph', 'hybrid', 'recompute', 'segments'])
def test_trajectory_gradient(data, experts, strategy, check_against_differences):
    e = Experts(experts.folder)
    e.state = e.state.to(dtype=torch.float64)
    match = TrajectoryMatch(e, span=1, max_start=1, strategy=strategy)
    check_against_differences(lambda s: match(s, replace(e.state, seed=4)), set64(data, ipc=1, epochs=4, lr=.05))

def test_trajectory_learns_and_is_finished(data, experts):
    syn,source = Synthetic.real(data, epochs=5, lr=.01),RandomInit(lambda: smooth(data, None))
    match = TrajectoryMatch(experts, span=2, max_start=2, epochs=30)
    history = distill(syn, source, data, match, iters=60, lr=.05, lr_lrs=.05, n_valid=100, every=30, n_eval=2, progress=False)
    assert history.loss[-1] < history.loss[1] < 1
    done = match.finished(syn)
    assert done.n_steps == 30 and torch.allclose(done.lrs, syn.lrs.mean().expand(30)) and torch.equal(done.images, syn.images)
    valid = split_validation(data, 100, 0)   # the loop judged what is finished, not the five steps
    states = [replace(s, seed=0) for s in judges(source.to(data.device), 2, 0, choose=True)]
    assert history.best_accuracy == pytest.approx(sum(accuracy(trained(done, s), valid) for s in states)/2)

def test_trajectory_refuses(experts):
    with pytest.raises(ValueError, match='at most 4'): TrajectoryMatch(experts, span=3, max_start=2)
    with pytest.raises(ValueError, match='span'): TrajectoryMatch(experts, span=0)


def test_the_strategy_stays_when_memory_goes(data, experts, monkeypatch):
    "Strategies round differently: a run must not change its own in the middle, and one that is taken up must know it."
    from dd_nb import choice
    syn, state = Synthetic.real(data, epochs=4, lr=.02), functional(smooth(data))
    match = TrajectoryMatch(experts, span=1, max_start=1, epochs=2)
    match(syn, state)
    first = match.strategy.pick.strategy
    monkeypatch.setattr(choice, 'free_memory', lambda device: 1)
    match(syn, state)
    again = TrajectoryMatch(experts, span=1, max_start=1, epochs=2)
    again.load_state_dict(match.state_dict())
    again(syn, state)
    assert first == 'graph' and match.strategy.pick.strategy == again.strategy.pick.strategy == first
    fresh = TrajectoryMatch(experts, span=1, max_start=1, epochs=2)
    fresh(syn, state)
    assert fresh.strategy.pick.strategy == 'segments'
