"The state of a run in files: a run that is cut off is taken up where it was, by the same call alone."
import os
import pickle
import signal
import time

import pytest
import torch
from test_distillation import mlp, run

from dd_nb.checkpoints import CannotGoOn, Checkpoints, Interrupted, forget_run, run_states
from dd_nb.distillation import StopDistill, distill
from dd_nb.pools import AgingPool
from dd_nb.inits import FixedInit,RandomInit
from dd_nb.networks import MLP
from dd_nb.synthetic import Synthetic
from dd_nb.unrolling import Unroll


def sources():
    def fresh(): return RandomInit(lambda: MLP((6,), 3, hidden=(8,)))
    return dict(fixed=lambda: FixedInit(mlp()), random=fresh, aging=lambda: AgingPool(fresh(), size=3, max_age=5, steps=2, inner='momentum', batch_size=2))


class Stop:
    "End a run as if it had been asked to."
    def __init__(self, at, how=StopDistill): self.at, self.how = at, how
    def after_step(self, loop):
        if loop.it == self.at: raise self.how


@pytest.mark.parametrize('kind', sources())
def test_a_run_is_taken_up_where_it_stopped(blobs, tmp_path, kind):
    path = tmp_path/'run'
    args = dict(n_nets=2, average=.9)
    whole, h = run(blobs, source=sources()[kind](), **args)
    half, _ = run(blobs, source=sources()[kind](), cbs=[Stop(20)], checkpoint=path, **args)
    assert half.meta['outer_steps'] == 20
    rest, again = run(blobs, source=sources()[kind](), checkpoint=path, **args)
    assert torch.equal(rest.images, whole.images) and torch.equal(rest.raw_lrs, whole.raw_lrs)      # bit for bit
    assert again.it == [*h.it[:3], 20, *h.it[3:]] or again.it == h.it
    assert again.accuracy[-1] == h.accuracy[-1] and again.best_accuracy == h.best_accuracy and len(again.snapshots) >= len(h.snapshots) - 1
    done, third = run(blobs, source=sources()[kind](), checkpoint=path, **args)                      # a finished run has nothing left to do
    assert torch.equal(done.images, whole.images) and done.meta['outer_steps'] == 40
    assert whole.meta['source'] == rest.meta['source'] == done.meta['source'] and (kind == 'fixed' or "'hidden': [8]" in str(done.meta['source']))


@pytest.mark.parametrize('inner', ['sgd', 'momentum', 'adam'])
@pytest.mark.parametrize('how', [dict(strategy='graph'), dict(strategy='recompute'), dict(strategy='segments'), dict(window=2), dict()])
def test_any_objective_and_inner_optimiser_goes_on_bit_for_bit(blobs, tmp_path, how, inner):
    def go(**kw):
        syn = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0, epochs=4, inner=inner).changed(labels=torch.eye(3)[None], learn=('images', 'labels', 'lrs'))
        return syn, distill(syn, RandomInit(lambda: MLP((6,), 3)), blobs, Unroll(**how), iters=20, batch_size=32, every=7, progress=False, **kw)
    whole, h = go()
    with pytest.raises(KeyboardInterrupt): go(cbs=[Stop(17, KeyboardInterrupt)], checkpoint=tmp_path/'run')
    rest, again = go(checkpoint=tmp_path/'run')
    for k, p in whole.named_parameters().items(): assert torch.equal(p, rest.named_parameters()[k]), k
    assert again.it == h.it and again.loss[1:] == h.loss[1:] and again.lrs == h.lrs and again.grad_norm == h.grad_norm


def test_an_interrupted_run_goes_on_from_the_last_validation(blobs, tmp_path):
    path = tmp_path/'run'
    with pytest.raises(KeyboardInterrupt): run(blobs, cbs=[Stop(27, KeyboardInterrupt)], checkpoint=path)
    assert Checkpoints(path).load()[0]['it'] == 20
    assert torch.equal(run(blobs, checkpoint=path)[0].images, run(blobs)[0].images)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_obeyed_between_two_steps(blobs, tmp_path, number):
    "The state is kept at the very step, the message says where, and what the signals did before is restored."
    class Ask:
        def after_step(self, loop):
            if loop.it == 27: os.kill(os.getpid(), number); time.sleep(.01)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"interrupted at outer step 27 of 40; the run is kept in '.*run' and goes on from there"): run(blobs, cbs=[Ask()], checkpoint=tmp_path/'run')
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before and Checkpoints(tmp_path/'run').steps()[-1] == 27
    assert torch.equal(run(blobs, checkpoint=tmp_path/'run')[0].images, run(blobs)[0].images)


def test_a_second_ctrl_c_is_obeyed_at_once(blobs, tmp_path):
    class Ask:
        def after_step(self, loop):
            for _ in range(2 if loop.it == 27 else 0): os.kill(os.getpid(), signal.SIGINT); time.sleep(.01)
            assert loop.it <= 27
    with pytest.raises(KeyboardInterrupt) as e: run(blobs, cbs=[Ask()], checkpoint=tmp_path/'run')
    assert not isinstance(e.value, Interrupted) and Checkpoints(tmp_path/'run').steps()[-1] == 20


def test_the_newest_states_and_the_best_are_kept(blobs, tmp_path):
    left = []
    class Look:
        def after_step(self, loop): left.append((loop.it, Checkpoints(tmp_path/'run').steps(), loop.best[1]))
    run(blobs, cbs=[Look()], checkpoint=tmp_path/'run', every=2)
    for it, steps, best in left[6:]: assert best in steps and 2 <= len(steps) <= 3 and steps[-1] == (it - 1)//2*2
    assert not [f for f in (tmp_path/'run').iterdir() if f.suffix != '.safetensors']
    run(blobs, checkpoint=Checkpoints(tmp_path/'more', keep=4), every=2)
    assert len(Checkpoints(tmp_path/'more').steps()) in (4, 5)


def test_a_checkpoint_of_another_run_is_refused(blobs, tmp_path):
    path = tmp_path/'run'
    run(blobs, checkpoint=path)
    blobs_ = {f: f.read_bytes() for f in path.iterdir()}
    with pytest.raises(ValueError, match=r"step-00000040.safetensors' belongs to another run: its lr was 0.05, not 0.1; remove the folder '.*' to begin anew"): run(blobs, checkpoint=path, lr=.1)
    with pytest.raises(ValueError, match='belongs to another run: its seed was 0, not 1'): run(blobs, checkpoint=path, seed=1)
    with pytest.raises(ValueError, match='belongs to another run: its source was'): run(blobs, checkpoint=path, source=RandomInit(lambda: MLP(blobs.shape, blobs.n_classes, hidden=(5,))))
    with pytest.raises(ValueError, match="belongs to another run: its start was 'images "): run(blobs, checkpoint=path, syn=Synthetic.noise(blobs.shape, blobs.n_classes, seed=3))
    assert {f: f.read_bytes() for f in path.iterdir()} == blobs_


def test_a_run_of_other_weights_is_refused(blobs, tmp_path):
    "Those of a network that names no seed are told apart by themselves."
    sources = [FixedInit(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(blobs.x_train[0].numel(), blobs.n_classes))) for _ in range(2)]
    run(blobs, checkpoint=tmp_path/'run', source=sources[0])
    run(blobs, checkpoint=tmp_path/'run', source=sources[0])
    with pytest.raises(ValueError, match="belongs to another run: its weights was"): run(blobs, checkpoint=tmp_path/'run', source=sources[1])


def test_what_an_interrupted_call_left_goes_on(blobs, tmp_path):
    "A notebook's cell that was stopped is run again, with S as the first call left it."
    class Ask:
        def after_step(self, loop):
            if loop.it == 27: os.kill(os.getpid(), signal.SIGINT)
    syn, init = Synthetic.noise(blobs.shape, 3, lr=.1, seed=0), FixedInit(mlp())
    with pytest.raises(Interrupted): run(blobs, syn=syn, source=init, cbs=[Ask()], checkpoint=tmp_path/'run')
    run(blobs, syn=syn, source=init, checkpoint=tmp_path/'run')
    assert torch.equal(syn.images, run(blobs)[0].images)


def test_a_damaged_state_is_passed_over(blobs, tmp_path):
    "Of two states that are kept the older one serves; where none can be read, the run says so and touches nothing."
    path = tmp_path/'run'
    with pytest.raises(KeyboardInterrupt): run(blobs, cbs=[Stop(33, KeyboardInterrupt)], checkpoint=path)
    *_, newest = sorted(path.iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match='step-00000030.safetensors.* cannot be read, looking at the one before'): syn = run(blobs, checkpoint=path)[0]
    assert torch.equal(syn.images, run(blobs)[0].images)
    for f in path.iterdir(): f.write_bytes(b'')
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="run' cannot be read"): run(blobs, checkpoint=path)
    assert all(f.read_bytes() == b'' for f in path.iterdir())


def test_a_full_disk_does_not_end_the_run(blobs, tmp_path, monkeypatch):
    "A state that cannot be written is said once; the run goes on, and the states before it stay."
    from dd_nb import format
    real, n = os.fsync, []
    def fsync(fd):
        n.append(fd)
        if len(n) > 3: raise OSError(28, 'No space left on device')
        real(fd)
    monkeypatch.setattr(format.os, 'fsync', fsync)
    with pytest.warns(UserWarning, match='goes on without a new checkpoint: .*No space left') as said: syn = run(blobs, checkpoint=tmp_path/'run')[0]
    monkeypatch.undo()
    assert len(said) == 1 and len(n) > 5 and len(Checkpoints(tmp_path/'run').steps()) == 2
    assert torch.equal(syn.images, run(blobs)[0].images) and torch.equal(run(blobs, checkpoint=tmp_path/'run')[0].images, syn.images)


def test_a_folder_that_cannot_be_written_stops_the_run_before_it_starts(blobs, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match=r"checkpoint '.*file' must be a folder that can be written to"): run(blobs, checkpoint=tmp_path/'file')
    from dd_nb import format
    def refuse(*a, **k): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(format.tempfile, 'mkstemp', refuse)
    with pytest.raises(ValueError, match='must be a folder that can be written to.*Permission denied'): run(blobs, checkpoint=tmp_path/'run', cbs=[Stop(1, AssertionError)])


def test_no_seed_draws_one_and_records_it(blobs, tmp_path):
    a, b = (run(blobs, seed=None)[0] for _ in range(2))
    assert a.meta['seed'] != b.meta['seed'] and not torch.equal(a.images, b.images)
    assert torch.equal(run(blobs, seed=a.meta['seed'])[0].images, a.images)
    with pytest.raises(KeyboardInterrupt): run(blobs, seed=None, cbs=[Stop(27, KeyboardInterrupt)], checkpoint=tmp_path/'run')
    c = run(blobs, seed=None, checkpoint=tmp_path/'run')[0]
    assert torch.equal(run(blobs, seed=c.meta['seed'])[0].images, c.images)


def test_a_refusal_carries_its_sentence_and_the_folder_apart(blobs, tmp_path):
    path = tmp_path/'run'
    run(blobs, checkpoint=path, iters=2, every=1)
    with pytest.raises(CannotGoOn) as e: run(blobs, checkpoint=path, iters=2, every=1, lr=.1)
    assert e.value.folder == str(path) and e.value.said.endswith('its lr was 0.05, not 0.1') and str(e.value) == f'{e.value.said}; remove the folder {str(path)!r} to begin anew'
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.folder) == (str(e.value), str(path))


def test_a_run_is_forgotten_and_nothing_else(blobs, tmp_path):
    path = tmp_path/'run'
    run(blobs, checkpoint=path, iters=2, every=1)
    (path/'notes.txt').write_text('mine')
    assert run_states(path)
    forget_run(path)
    assert [f.name for f in path.iterdir()] == ['notes.txt'] and not run_states(path)
    (path/'notes.txt').unlink()
    forget_run(path)
    assert not path.exists()
