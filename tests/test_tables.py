"Tables of accuracies: complete, each cell computed once, and honest about what they compare."
import json
from dataclasses import replace

import pytest

from dd_nb.data import load_data
from dd_nb.protocols import PROTOCOLS,Protocol
from dd_nb.review import families, plot_families, print_families
from dd_nb.tables import (BN_KINDS, BN_ROWS, JUDGED, NORM_ROWS, _bn_cost, architectures, batchnorm, coresets, judge, poisoning, print_architectures, print_batchnorm, print_coresets, print_judge, print_poisoning)
from dd_nb.recipes import RECIPES,Recipe
from dd_nb.zoo import list_zoo

NET, SHORT = dict(name='ConvNet', width=4, depth=1), Protocol(epochs=2)


def test_coresets(tmp_path, capsys):
    def run(**kw): return coresets(progress=False, folder=tmp_path, columns=[dict(data='digits', net=NET, ipc=i, sets=2, nets=1, protocol=SHORT) for i in (1, 2)] + [dict(data='digits', net=NET, ipc=1, sets=2, nets=1, kinds=('real', 'means'), chosen=1, protocol=replace(SHORT, augment='rotate'))], feature_epochs=1, **kw)
    out = run()
    [t] = out['tables']
    assert len(t['rows']) == 6 and all({'1 a class', '2 a class'} <= set(r) and all(len(r[f'{i} a class']['all']) == 2 for i in (1, 2)) for r in t['rows'].values())
    assert t['rows']['random real']['1 a class']['sets'] == 2 and t['rows']['herding']['1 a class'] != t['rows']['herding']['2 a class']
    assert {k: len(r['1 a class, augmented']['all']) for k, r in t['rows'].items() if len(r) == 3} == {'random real': 2, 'class means': 1}
    files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert run() == out and {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == files   # nothing is computed again
    with pytest.raises(ValueError, match='folder must be empty or of the same settings'): run(seed=1)
    print_coresets(json.loads(json.dumps(out)))
    assert 'random real' in capsys.readouterr().out


@pytest.fixture
def mnist_like(monkeypatch):
    "The embedded digits in the place of MNIST, so that the zoo's sets can be judged anywhere."
    import dd_nb.tables as B
    from dd_nb.data import Data
    d = load_data('digits')
    def fake(name, **kw): return Data(d._train, d._test, name, d.classes, d.norm)
    monkeypatch.setattr(B, 'load_data', fake)
    monkeypatch.setattr(B, 'evaluate', lambda s, source, data, n, seed: __import__('dd_nb.evaluation').evaluation.evaluate(s.changed(norm=d.norm), source, data, n, seed))
    import dd_nb.evaluation as E, dd_nb.protocols as P
    for room in (E, P, B): monkeypatch.setattr(room, 'check_fits', lambda *a: None)
    monkeypatch.setattr(P, 'PROTOCOLS', dict(plain=SHORT, tuned=Protocol(epochs=2, lrs=(.01, .1)), augmented=Protocol(epochs=2, augment='standard')))


def test_judge(tmp_path, mnist_like, capsys):
    out = judge(progress=False, folder=tmp_path, names=['mnist-fixed-10', 'mnist-random-100'], sets=2, nets=1, full=1)
    a, b = out['rows']['mnist-fixed-10'], out['rows']['mnist-random-100']
    assert set(a['scores']) == {'own schedule', 'tuned', 'augmented'} and 'k-means centres' not in a['scores']['tuned'] and 'k-means centres' in b['scores']['tuned']
    assert a['scores']['own schedule']['distilled']['sets'] == 3 and a['fixed'] and not b['fixed']
    r, t = b['ranking'], b['scores']['tuned']
    assert r['ior'] == t['distilled']['mean'] - t['random real']['mean'] and 0 < r['lrs'] < 1 and 0 < r['ars'] < 1
    assert set(JUDGED) <= set(list_zoo())
    with pytest.raises(ValueError, match="names must be entries of the zoo, got 'nobody'"): judge(progress=False, folder=tmp_path, names=['nobody'])
    print_judge(json.loads(json.dumps(out)))
    assert 'mnist-random-100: 100 images, LeNet' in capsys.readouterr().out


def test_architectures(tmp_path, mnist_like, capsys):
    out = architectures(progress=False, folder=tmp_path, names=('mnist-random-100',), archs={'MLP': dict(name='MLP'), 'none': dict(NET, norm='none')}, epochs={'none': 2}, protocol=SHORT)
    assert set(out['rows']) == {'mnist-random-100', 'random real', 'k-means centres'}
    assert all(len(r['MLP']['all']) == 2 and len(r['none']['all']) == 1 for r in out['rows'].values())
    kept = {p.name: json.loads(p.read_text())['key'] for p in tmp_path.iterdir()}
    assert kept['random-real-none.json']['protocol']['epochs'] == 2 and kept['random-real-MLP.json']['protocol']['epochs'] == SHORT.epochs
    assert kept['random-real-none.json']['sets'] == 1 and kept['random-real-MLP.json']['sets'] == 2
    print_architectures(json.loads(json.dumps(out)))
    shown = capsys.readouterr().out
    assert 'MLP' in shown and '2 epochs, one network' in shown


def test_poisoning(tmp_path, monkeypatch, capsys):
    pool = dict(data='digits', n=8, held_out=.5, epochs=4, batch_size=32)
    for name, k, fixed in (('a', 3, False), ('b', 5, False), ('c', 3, True)):
        monkeypatch.setitem(RECIPES, name, Recipe(name, '', 'digits', dict(name='MLP', hidden=[32]), fixed=fixed, pool=pool, start='real', syn=dict(ipc=1, steps=1, epochs=1, lr=.1),
                                                    distill=dict(iters=4, batch_size=16), objective='Poison', unroll=dict(source=k, target=8)))
    def run(**kw): return poisoning(progress=False, folder=tmp_path/'out', names=('a', 'b', 'c'), pools=tmp_path/'pools', nets=2, defended=1, **kw)
    out = run()
    a, c = out['rows']['a'], out['rows']['c']
    assert len(a['unseen']['after']) == 2 and 'known' not in a and len(c['known']['after']) == 1 and 'defences' not in c
    d = a['defences']
    assert all(len(d[k]) == len(d[v]) for k, v in (('undo', 'steps'), ('shorter', 'factors'), ('clipped', 'norms'))) and d['shorter'][0] == d['undo'][0] and 0 <= d['loss'] <= 1
    assert d['shorter'][-1]['moved'] == pytest.approx(a['unseen']['before'][0]['moved'])       # no step at all
    assert run() == out                                                                        # nothing is made again
    print_poisoning(json.loads(json.dumps(out)))
    shown = capsys.readouterr().out
    assert 'known' in shown and 'mean over 2 pairs, unseen' in shown


@pytest.mark.slow
def test_policies_for_batchnorm(tmp_path, capsys):
    recipe = Recipe('small', 'a small one', 'digits', dict(name='ConvNet', width=2, depth=1, norm='batch'), fixed=False, start='real', syn=dict(ipc=1, epochs=2, lr=.05),
                    distill=dict(batch_size=16, every=2, n_eval=1))
    def run(iters=2): return batchnorm(progress=False, folder=tmp_path, sets=2, nets=2, recipe=recipe, short=dict(syn=dict(epochs=1)), other='digits', pool=6, repeats=1, iters=iters, cost=False)
    out = run()
    assert list(out['rows']) == [f'{k}, {p}' for k in BN_KINDS for p in (*BN_ROWS, *(NORM_ROWS if k == BN_KINDS[0] else ()))]
    assert out['elsewhere']['tracked']['batch']['all'] == out['rows']['as in the recipe, tracked']['own']['all'] and out['elsewhere']['no norm']['none']['all'] == out['rows']['as in the recipe, no norm']['own']['all']
    files = {f: f.stat().st_mtime_ns for f in tmp_path.glob('*.safetensors')}
    assert len(files) == 2*(len(out['rows']) + 1)
    for k, r in out['rows'].items():
        assert len(r['own']['all']) == 2 and all(len(v) == 2 for v in r['own']['all'])
        if r['row'] in ('tracked', 'constants', *NORM_ROWS): assert r['own'] == r['ordinary']
        if r['row'] == 'tracked': assert r['own']['difference'] == 0
    again = run()   # everything is there
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob('*.safetensors')} == files and again['rows'] == out['rows']
    with pytest.raises(ValueError, match='folder must be empty or of the same settings'): run(3)
    out['cost'] = {p: _bn_cost(dict(recipe=recipe, row=p, root=None, repeats=1)) for p in ('constants', 'tracked')}
    print_batchnorm(json.loads(json.dumps(out)))
    assert 'pre-trained, calibrated' in capsys.readouterr().out
    with pytest.raises(ValueError, match='sets must be'): batchnorm(sets=0)


def test_families(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PROTOCOLS, 'plain', Protocol(epochs=2))
    kw = dict(folder=tmp_path, progress=False, tables=(('digits', 1),), methods=('kip', 'dm'), archs={'MLP': dict(name='MLP')}, nets=dict(plain=2), repeats=1, seeds={'digits-kip-1': (0, 1)}, iters=2, every=1, n_eval=1, batch_size=32)
    out = families(**kw)
    json.dumps(out)
    rows = out['tables'][0]['rows']
    assert list(rows) == ['random real', 'class means', 'herding', 'kip', 'dm'] and rows['kip']['seeds'] == 2 and rows['kip']['accuracy']['plain']['sets'] == 2
    assert {p.name for p in tmp_path.glob('*.safetensors')} == {'digits-kip-1-s0.safetensors', 'digits-kip-1-s1.safetensors', 'digits-dm-1-s0.safetensors'} and not list(tmp_path.glob('*.run'))
    assert out['cost']['dm']['whole'] > 0 and out['cost']['dm']['bytes'] >= 0
    monkeypatch.setattr('dd_nb.tables.benchmark', None)
    monkeypatch.setattr('dd_nb.tables.reproduce', None)   # nothing is made or judged again
    assert {**families(**kw), 'machine': 0} == {**out, 'machine': 0}
    print_families(out)
    assert 'digits, 1 a class' in capsys.readouterr().out
    assert len(plot_families(out).axes) == 6


def test_the_same_labels_for_every_row(monkeypatch, tmp_path, capsys):
    "Rows that store four images in one, and a column whose labels are an expert's: one expert for the table."
    import dd_nb.protocols as p
    made = []
    monkeypatch.setattr(p, 'train_expert', lambda net, *a, **kw: made.append(1) or net.eval())   # as it is
    import dd_nb.review as v
    whole = v.family_recipe
    monkeypatch.setattr(v, 'family_recipe', lambda *a, **kw: replace(whole(*a, **kw), net=dict(name='ConvNet', width=4, depth=1), n_nets=1))
    monkeypatch.setitem(PROTOCOLS, 'plain', Protocol(epochs=2))
    monkeypatch.setitem(PROTOCOLS, 'expert', Protocol(epochs=1, labels='expert'))
    kw = dict(folder=tmp_path, progress=False, tables=(('digits', 1),), methods=('dm', 'dm formation'), archs={}, nets=dict(plain=1, expert=1), repeats=0, seeds={},
              kinds=('real', 'kcenter', 'kmeans formation'), iters=1, every=1, n_eval=1, batch_size=16)
    out = families(**kw)
    t, = out['tables']
    assert list(t['rows']) == ['random real', 'k-center', 'k-means centres, formation', 'dm', 'dm formation'] and made == [1] and 0 < t['whole'] <= 1
    four, flat = t['rows']['dm formation'], t['rows']['dm']
    assert four['recipe'] == 'digits-formation-dm-1' and flat['bytes'] < four['bytes'] < 1.05*flat['bytes'] and all(set(r['accuracy']) == {'plain', 'expert'} for r in t['rows'].values())
    print_families(out)
    assert 'trained on all of it' in capsys.readouterr().out
    with pytest.raises(ValueError, match='methods'): families(**dict(kw, methods=('dm basis',)))
