"Progress bars: who has one, when it shows, and where it does not."
import pytest

from dd_nb.data import load_data


@pytest.fixture
def bars(monkeypatch):
    "Every progress bar that is made: [description, total, how far it came], whether it is shown or not."
    from dd_nb import core
    made, real = [], core.progress_bar
    def bar(total, desc, unit='step', initial=0, show=True, delay=0.):
        b, mine = real(total, desc, unit, initial, False, delay), [desc, total, 0]
        def update(n=1): mine[2] += n
        b.update = update
        if show: made.append(mine)
        return b
    monkeypatch.setattr(core, 'progress_bar', bar)
    return made


def test_what_may_take_long_says_how_far_it_is(bars, tmp_path):
    "Judges, baselines, choices and trainings each arrive at their end, with one thread or two."
    from dd_nb.adaptation import full_target
    from dd_nb.coresets import feature_net
    from dd_nb.protocols import Protocol,benchmark,fit
    from dd_nb.evaluation import evaluate,tune_lr
    from dd_nb.pools import PretrainedPool,pretrain
    from dd_nb.inits import RandomInit
    from dd_nb.networks import MLP
    from dd_nb.poisoning import attack, tuned_flips
    from dd_nb.synthetic import Synthetic
    from dd_nb.widgets import class_accuracies
    from dd_nb.structure import functional
    d = load_data('digits', size=8)
    def net(seed=None): return MLP(d.shape, d.n_classes, hidden=(8,), seed=seed)
    def said(f):
        bars.clear()
        f()
        return [tuple(b) for b in bars]
    source, syn = RandomInit(net, 0), Synthetic.real(d, epochs=4, lr=.1)
    assert said(lambda: Synthetic.kmeans(d, ipc=2)) == said(lambda: Synthetic.herding(d)) == [('choose', 10, 10)]
    assert said(lambda: evaluate(syn, source, d, 3)) == said(lambda: evaluate(syn, source, d, 3, workers=2)) == [('evaluate', 3, 3)]
    assert said(lambda: syn.train(net())) == said(lambda: evaluate(syn, source, d, 1)) == [('train', 4, 4)]
    assert said(lambda: evaluate(syn, source, d, 3, progress=False)) == said(lambda: tune_lr(syn, source, d, (.1,), 2, progress=False)) == []
    assert said(lambda: benchmark(syn, d, source, Protocol(epochs=5), 2, progress=False)) == []
    assert said(lambda: tune_lr(syn, source, d, (.1, .2), 2)) == [('step sizes', 2, 2), ('evaluate', 2, 2), ('evaluate', 2, 2)]
    for workers in (1, 2): assert said(lambda: benchmark(syn, d, source, Protocol(epochs=5), 2, workers=workers)) == [('benchmark', 10, 10)]
    assert said(lambda: benchmark(syn, d, source, Protocol(epochs=5, lrs=(.1, .2)), 2)) == [('benchmark', 30, 30)]   # two networks a step size, then two to judge
    assert said(lambda: fit(net(), syn.images[0], syn.labels[0], Protocol(epochs=5))) == [('fit', 5, 5)]
    assert said(lambda: feature_net(net(), d, epochs=2)) == [('train', 2, 2)]
    assert said(lambda: class_accuracies(syn, functional(net()), d)) == [('train', 5, 5)]
    pool = pretrain(net, d, tmp_path, n=4, epochs=1, progress=False)
    pool = PretrainedPool(tmp_path, n=4, held_out=.5)
    assert said(lambda: full_target(pool, d, 1, epochs=2)) == [('full training', 2, 2)]
    assert said(lambda: attack(syn, pool, d, 3, 8, 1)) == [('attack', 1, 1)]
    assert said(lambda: tuned_flips(pool, d, 3, 8, lrs=(.1, .2), n_nets=1)) == [('choose', 10, 10), ('step sizes', 2, 2)]*2


def test_bars_wait_and_keep_silent_where_nobody_looks(monkeypatch, capsys):
    from dd_nb.core import ticking,no_progress,progress_bar
    for k in ('CI', 'TQDM_DISABLE'): monkeypatch.delenv(k, raising=False)
    def shown(**kw):
        with progress_bar(3, 'work', **kw) as bar: bar.update(3)
        return 'work' in capsys.readouterr().err
    assert shown() and not shown(show=False) and not shown(delay=60)
    assert list(ticking('abc', 'work')) == ['a', 'b', 'c'] and not capsys.readouterr().err   # it took no two seconds
    with no_progress():
        assert not shown()
        with no_progress(): pass
        assert not shown()
    assert shown()
    for k in ('CI', 'TQDM_DISABLE'):
        monkeypatch.setenv(k, 'true'); assert not shown()
        monkeypatch.setenv(k, '0'); assert shown()
        monkeypatch.delenv(k)
