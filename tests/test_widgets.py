"Explorers without a browser: what they draw, what they refuse, and the thread of a live distillation."
import base64
import threading
import time

import pytest
import torch

from dd_nb.data import load_data
from dd_nb.distillation import History, distill
from dd_nb.inits import FixedInit, RandomInit
from dd_nb.networks import MLP
from dd_nb.synthetic import Synthetic
from dd_nb.train import trained
from dd_nb.widgets import Explorer, LiveDistill, class_accuracies, draw_run, draw_training, draw_zoo, explore_run, explore_training, explore_zoo
from dd_nb.zoo import list_zoo

PNG = b'\x89PNG'


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)
@pytest.fixture
def source(data): return FixedInit(MLP(data.shape, 10, hidden=(8,), seed=0))
def start(data, **kw): return Synthetic.noise(data.shape, 10, **{**dict(steps=2, epochs=2, lr=.1, seed=0), **kw})
def sliders(box): return [c for h in box.children for c in getattr(h, 'children', ()) if hasattr(c, 'max')]


def test_explorer_has_both_forms(data, source):
    syn = start(data)
    bundle = explore_run(distill(syn, source, data, iters=4, every=1, batch_size=16, progress=False), syn)._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in bundle and base64.b64decode(bundle['image/png']).startswith(PNG)

def test_moments_of_a_run(data, source):
    syn = start(data)
    history = distill(syn, source, data, iters=6, every=2, batch_size=16, progress=False)
    e = explore_run(history, syn)
    slider, image = sliders(e.box)[1], e.box.children[1]
    assert slider.max == len(history.snapshots) - 1
    seen = set()
    for i in range(slider.max + 1): slider.value = i; seen.add(bytes(image.value))
    assert len(seen) == slider.max + 1 and all(v.startswith(PNG) for v in seen)
    with pytest.raises(ValueError, match='snapshots'): draw_run(History(), syn)

def test_pictures_show_the_images(data, source):
    "Every example has an axes with its pixels: an empty picture once passed as one."
    syn = start(data, steps=1)
    history = distill(syn, source, data, iters=2, every=1, batch_size=16, progress=False)
    for fig, n in ((draw_run(history, syn, 0), 10), (draw_training(syn, class_accuracies(syn, source.state, data), 1), 10), (draw_zoo('mnist-fixed-10'), 10)):
        assert sum(bool(ax.images) for ax in fig.axes) == n

def test_class_accuracies_are_those_of_the_training(data, source):
    syn = start(data)
    known = class_accuracies(syn, source.state, data)
    assert len(known) == 5 and all(len(k) == 10 for k in known)
    for t in (0, 3):
        p = trained(syn, source.state, steps=t)(data.x_test).argmax(1)
        want = [(p[data.y_test == c] == c).float().mean().item() for c in range(10)]
        assert known[t] == pytest.approx(want)
    with pytest.raises(ValueError, match='0..4'): draw_training(syn, known, 5)

def test_explore_training_takes_what_the_set_stores(data, source):
    syn = start(data)
    distill(syn, source, data, iters=2, every=1, batch_size=16, progress=False)
    e = explore_training(syn, data=data)
    assert sliders(e.box)[0].max == 4 and e.picture.startswith(PNG)
    assert explore_training(start(data).softened('smoothed'), RandomInit(lambda: MLP(data.shape, 10)), data).picture.startswith(PNG)
    with pytest.raises(ValueError, match='data'): explore_training(syn)

def test_examples_that_are_no_images(source):
    from dd_nb.data import data_from_tensors
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.arange(60) % 3
    table = data_from_tensors(x, y, x[:30], y[:30])
    syn = Synthetic.noise(table.shape, 3, steps=1, epochs=2, lr=.1, seed=0)
    history = distill(syn, FixedInit(MLP(table.shape, 3, hidden=(4,))), table, iters=2, every=1, batch_size=8, n_valid=9, progress=False)
    assert explore_run(history, syn).picture.startswith(PNG)

def test_compare_the_zoo():
    e = explore_zoo('mnist-fixed-10', 'mnist-random-100')
    a, b = e.box.children[0].children
    before = e.box.children[1].value
    assert a.value.startswith('mnist-fixed-10') and len(a.options) == sum(map(len, list_zoo().values()))
    b.value = next(o for o in b.options if o.startswith('mnist-bn-100'))
    assert e.box.children[1].value != before
    with pytest.raises(ValueError, match='name must be one of'): explore_zoo('nothing')

def test_live_distillation(data, source):
    syn, other = start(data), start(data)
    live = LiveDistill(syn, source, data, iters=30, every=10, batch_size=16, seed=3)
    assert isinstance(live, Explorer) and [b.disabled for b in live.buttons] == [False, True, True]
    with pytest.raises(ValueError, match='started'): live.wait()
    live.start()
    assert live.wait(60)
    assert live.bar.value == 30 and live.label.value.startswith('ended') and all(b.disabled for b in live.buttons)
    history = distill(other, source, data, iters=30, every=10, batch_size=16, seed=3, progress=False)
    assert torch.equal(syn.images, other.images) and live.history.accuracy == history.accuracy   # the same run

def test_pause_and_stop(data, source):
    live = LiveDistill(start(data), source, data, iters=100_000, every=100_000, batch_size=8)
    live.start()
    while not live.bar.value: time.sleep(.01)
    live.pause()
    for _ in range(200):
        if live.label.value.startswith('paused'): break
        time.sleep(.05)
    at = live.bar.value
    time.sleep(.5)
    assert live.bar.value == at and not live.buttons[0].disabled   # it waits, and can go on
    live.start()
    while live.bar.value == at: time.sleep(.01)
    live.stop()
    assert live.wait(60) and live.history.it[-1] < 100_000 and live.thread is not threading.main_thread()

def test_a_failed_live_distillation_says_so(data, source):
    live = LiveDistill(start(data, lr=1e4), source, data, iters=50, batch_size=16, clip=None)
    def broken(syn, state, batch): raise RuntimeError('no such thing')
    live._args = (*live._args[:2], broken, live._args[3])
    live.start()
    with pytest.raises(RuntimeError, match='no such thing'): live.wait(60)
    assert 'no such thing' in live.label.value and all(b.disabled for b in live.buttons)

def test_live_refuses_before_it_starts(data, source):
    with pytest.raises(ValueError, match='iters'): LiveDistill(start(data), source, data, iters=0)
    with pytest.raises(ValueError, match='shape'): LiveDistill(Synthetic.noise((1, 9, 9), 10), source, data)
