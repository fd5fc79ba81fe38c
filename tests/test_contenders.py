"One hypergradient, computed by everybody: the same result, and failures that end."
import importlib.util
import json
import os
import re
import time

import pytest

from dd_nb import contenders
from dd_nb.contenders import CONTENDERS, hypergrad, plot_hypergrad, print_hypergrad
from dd_nb.harness import Worker

OURS = ['graph', 'hybrid', 'recompute', 'segments']


def mine(folder, monkeypatch, **modules):
    "Put modules of our own in front of all others, for this process and the workers it starts."
    for name, code in modules.items(): (folder/f'{name}.py').write_text(code)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture(scope='module')
def quick(): return hypergrad(quick=True, progress=False, parts=('time', 'nets'))


@pytest.mark.slow
def test_every_contender_computes_the_same_gradient(quick):
    rows, = [t['rows'] for t in quick['time']]
    assert list(rows) == [k for k in CONTENDERS if k != 'compiled']
    for k in ('stepwise', *OURS): assert rows[k]['error'] < 1e-10 and rows[k]['error32'] < 1e-4, (k, rows[k])
    for k in ('higher', 'torchopt'):   # an optional extra
        if importlib.util.find_spec(k): assert rows[k]['error'] < 1e-10 and rows[k]['error32'] < 1e-4, (k, rows[k])
        else: assert k in rows[k]['failed']
    assert rows['plain']['error'] is None and rows['stepwise']['ratio'] == 1
    for row in rows.values():
        if 'failed' in row: continue
        assert {n: len(s) for n, s in row['seconds'].items()} == {'1': 2}


def test_the_faster_thread_count_counts(capsys):
    out = hypergrad(quick=True, progress=False, parts=('time',), repeats=1, threads=(1, 2), contenders=['stepwise'])
    for row in out['time'][0]['rows'].values():
        assert set(row['seconds']) == {'1', '2'} and row['best'] == min(row['median'].values()) == row['median'][row['threads']]
    print_hypergrad(out)
    assert '1 thread  2 threads' in capsys.readouterr().out


@pytest.mark.slow
def test_several_networks(quick):
    rows = quick['nets'][0]['rows']
    assert set(rows) == {'in sequence', 'two workers', 'vmap'} and rows['in sequence']['ratio'] == 1
    for k in ('two workers', 'vmap'): assert rows[k]['error'] < 1e-10 and rows[k]['error32'] < 1e-4


@pytest.mark.slow
def test_printed_and_kept(quick, capsys):
    again = json.loads(json.dumps(quick, allow_nan=False))
    assert again == quick, 'JSON returns the same, names of keys included'
    for out in (quick, {**quick, 'quick': False}):   # a full run is judged
        print_hypergrad(out)
        text = capsys.readouterr().out
        for k in quick['time'][0]['rows']: assert len(re.findall(rf'^  {k} ', text, re.M)) == 1
        assert ('target' in text) == ('check' in text) == (not out['quick'])


@pytest.mark.slow
def test_memory_and_its_plot(capsys):
    out = hypergrad(quick=True, progress=False, parts=('memory',), contenders=['segments'])
    mem = out['memory']
    assert list(mem['rows']) == ['stepwise', 'segments']
    for row in mem['rows'].values():
        assert set(row) == {'2', '4'} and all(c['bytes'] > 0 and c['seconds'] > 0 for c in row.values())
    assert all(c['error'] < 1e-4 and c['against'] == 'stepwise' for c in mem['rows']['segments'].values())
    print_hypergrad(out)
    text = capsys.readouterr().out
    for k in mem['rows']: assert len(re.findall(rf'^  {k} ', text, re.M)) == 1
    fig = plot_hypergrad(out)
    assert [len(ax.lines) for ax in fig.axes] == [2, 2]
    with pytest.raises(ValueError, match='memory'): plot_hypergrad({})


@pytest.mark.slow
def test_failures_are_reported_and_end(tmp_path, monkeypatch, capsys):
    pids = tmp_path/'pids'
    mine(tmp_path, monkeypatch, higher="raise ModuleNotFoundError(\"No module named 'higher'\")", faulty=f'''
import os, signal, subprocess, time
from dd_nb.contenders import whole_graph
def killed(p): os.kill(os.getpid(), signal.SIGKILL)
def leaves(p): print('out of paper', file=__import__('sys').stderr); os._exit(3)
def hangs(p):
    child = subprocess.Popen(['sleep', '600'])
    with open({str(pids)!r}, 'a') as f: print(os.getpid(), child.pid, file=f)
    time.sleep(600)
def raises(p): raise RuntimeError('not enough memory')
def wrong(p): print('{{}}'); loss, grads = whole_graph(p); return loss, [1.01*g for g in grads]
''')
    kinds = 'killed', 'leaves', 'hangs', 'raises', 'wrong'
    out = hypergrad(quick=True, progress=False, parts=('time',), repeats=1, timeout=8, contenders=['higher', *(f'faulty:{k}' for k in kinds)])
    rows = out['time'][0]['rows']
    for k, why in {'higher': 'No module named', 'faulty:killed': 'SIGKILL', 'faulty:leaves': 'exit code 3: out of paper',
                   'faulty:hangs': 'no answer within 8 s', 'faulty:raises': 'RuntimeError: not enough memory'}.items(): assert why in rows[k]['failed'], k
    assert abs(rows['faulty:wrong']['error'] - .01) < 1e-10
    assert rows['stepwise']['error'] < 1e-10, 'the others go on'
    for pid in map(int, pids.read_text().split()):
        with pytest.raises(ProcessLookupError):
            for _ in range(100): os.kill(pid, 0); time.sleep(.05)   # a killed child is there until it is reaped
    print_hypergrad(out)
    text = capsys.readouterr().out
    assert text.count('failed: ') == 5
    json.dumps(out, allow_nan=False)


def test_a_worker_does_not_outlive_its_owner(tmp_path, monkeypatch):
    mine(tmp_path, monkeypatch, asleep='def f(p): __import__("time").sleep(600)')
    w = Worker(contenders._SERVED, tmp_path)
    try:
        w.ask(op='make', name='asleep:f', task=contenders._SMALL)
        print(json.dumps(dict(op='run', threads=1)), file=w.proc.stdin, flush=True)
        w.proc.stdin.close()
        assert w.proc.wait(30) == 0
    finally: w.close()


def test_a_contender_that_fails_has_no_memory_to_show(tmp_path, monkeypatch, capsys):
    mine(tmp_path, monkeypatch, greedy='def f(p): raise MemoryError(f"T={p.syn.n_steps}")')
    task = dict(contenders._SMALL, seed=0)
    mem = contenders._memory(task, (2, 4), ['greedy:f'], {}, 60, lambda what: None, 1)
    assert mem['rows'] == {'greedy:f': {'2': {'failed': 'MemoryError: T=1'}}} and mem['params'] is None
    print_hypergrad(dict(hypergrad(quick=True, progress=False, parts=()), memory=mem))
    assert 'MemoryError' in capsys.readouterr().out


def test_what_does_not_fit_is_extrapolated_and_said(monkeypatch, capsys):
    class Fake:
        def __init__(self, kind, tmp, cache, timeout): pass
        def ask(self, task, name, **kwargs): return dict(bytes=10**8 + 10**7*task['epochs']*task['steps'], seconds=.1, params=1000)
        def close(self): pass
    monkeypatch.setattr(contenders, 'Worker', Fake)
    names = ['stepwise', 'whole graph', 'recompute', 'segments']
    task = dict(contenders._CONV, seed=0)
    monkeypatch.setattr(contenders, 'free_memory', lambda device: 1e11)
    mem = contenders._memory(task, (10, 100, 300, 1000), names, {'stepwise': 300, 'whole graph': 100}, 60, lambda what: None, 1)
    rows = mem['rows']
    assert [T for T, c in rows['stepwise'].items() if 'extrapolated' in c] == ['1000']
    assert [T for T, c in rows['whole graph'].items() if 'extrapolated' in c] == ['300', '1000']
    assert rows['whole graph']['1000']['bytes'] == pytest.approx(10**8 + 10**10)
    assert [t['met'] for t in mem['targets']] == [False]*5 and mem['targets'][0]['limit'] == 2*10**8 + 4.4*1000*100
    monkeypatch.setattr(contenders, 'free_memory', lambda device: 1.25e9)
    rows = contenders._memory(task, (10, 100, 300, 1000), names, {}, 60, lambda what: None, 1)['rows']
    assert rows['stepwise']['300']['extrapolated'] == 'too little free memory' and 'extrapolated' not in rows['stepwise']['10']
    print_hypergrad(dict(hypergrad(parts=(), progress=False), memory=mem))
    text = capsys.readouterr().out
    assert text.count('~10.10 GB') == 2 and '~ not measured' in text and text.count('MISSED') == 5
    plot_hypergrad(dict(memory=mem))


def test_baselines_are_held_against_the_libraries():
    def check(**best): return contenders._peers({k.replace('_', ' '): dict(best=v) for k, v in best.items()} | {'torchopt': dict(failed='x')})
    assert check(stepwise=1.1, whole_graph=.9, higher=1.)['valid'] is True
    slow = check(stepwise=1.2, whole_graph=.9, higher=1.)
    assert slow['valid'] is False and 'VOID' in slow['verdict'] and 'stepwise 1.20' in slow['verdict']
    fast = check(stepwise=1., whole_graph=.8, higher=1.)
    assert fast['valid'] is True and fast['all_within'] is False and 'against us' in fast['verdict']
    assert check(stepwise=1.)['valid'] is None and 'not checked' in check(stepwise=1.)['verdict']


def test_bad_arguments():
    with pytest.raises(ValueError, match="parts must be among .*'speed'"): hypergrad(parts=('speed',))
    with pytest.raises(ValueError, match="contenders must be among .*'graf'"): hypergrad(contenders=['graf'])
    with pytest.raises(ValueError, match='repeats must be at least 1'): hypergrad(repeats=0)


@pytest.mark.slow
def test_lean_rows_are_the_same_strategies_with_another_allocator():
    out = contenders._memory(dict(contenders._SMALL, seed=0), (2, 4), ['stepwise', 'recompute', 'segments'], {}, 300., lambda what: None, 1, ['recompute', 'segments'])
    assert list(out['rows']) == ['stepwise', 'recompute', 'segments', 'recompute, lean', 'segments, lean'] and out['lean'] == contenders._LEAN
    for k, row in out['rows'].items():
        assert list(row) == ['2', '4']
        for c in row.values(): assert c['bytes'] >= 0 and (k == 'stepwise' or c['error'] < 1e-4)
    assert [t['what'].split(' at')[0] for t in out['targets']] == ['recompute', 'recompute, lean', 'segments', 'segments, lean', 'segments']


def test_the_allocators_settings_reach_the_worker(tmp_path):
    w = Worker(contenders._SERVED, tmp_path, **contenders._LEAN)
    try: assert {k: v for k, v in (e.split('=', 1) for e in open(f'/proc/{w.proc.pid}/environ').read().split('\0') if '=' in e) if k in contenders._LEAN} == contenders._LEAN
    finally: w.close()
