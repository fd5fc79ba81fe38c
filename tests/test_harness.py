"What measuring needs: clocks, memory, processes of their own, and results that are kept."
import json
import os
import sys
import time

import pytest
import torch

from dd_nb.data import load_data
from dd_nb.harness import Cells, Failed, Worker, as_bytes, faster_threads, in_process, in_turn, kept_set, machine, medians, peak_memory, points, target
from dd_nb.synthetic import Synthetic


def test_faster_threads_sets_the_faster():
    before = torch.get_num_threads()
    try:
        n, times = faster_threads(lambda k: time.sleep(.002*k*torch.get_num_threads()), steps=3)
        assert n == 1 == torch.get_num_threads() and times[1] < times[2]
    finally: torch.set_num_threads(before)


def ones(n): return peak_memory(lambda: torch.ones(n).mean().item())


def test_peak_memory():
    out, used = in_process(ones, 2**23)   # whose allocator holds nothing back from other tests
    assert out == 1
    if sys.platform == 'linux': assert 28 < used/2**20 < 40


def test_ways_take_turns_at_their_own_threads():
    before, seen, ticks = torch.get_num_threads(), [], []
    def way(k): return lambda: seen.append((k, torch.get_num_threads())) or len(seen)
    times, last = in_turn({'a': (1, way('a')), 'b': (2, way('b'))}, 3, lambda: ticks.append(1))
    assert seen == [('a', 1), ('b', 2)]*3 and len(ticks) == 6 and torch.get_num_threads() == before
    assert {k: len(v) for k, v in times.items()} == {'a': 3, 'b': 3} and last == {'a': 5, 'b': 6}
    assert medians({'a': [3, 1, 2]}) == {'a': 2}


def test_a_process_of_its_own():
    assert in_process(os.getenv, 'HOME') == os.environ['HOME'] and in_process(abs, -2) == 2
    assert 'load' not in machine() and set(machine(load=True)) - set(machine()) <= {'load'}


def test_a_worker_answers_by_the_methods_of_an_object(tmp_path):
    w = Worker('builtins:dict', tmp_path)   # a dict, for one: it has `update`, and no `weigh`
    try:
        assert w.ask(op='update', a=1) == {}
        assert w.ask(op='copy') == {'a': 1}
        with pytest.raises(Failed, match="AttributeError: 'dict' object has no attribute 'weigh'"): w.ask(op='weigh')
        assert w.ask(op='copy') == {'a': 1}, 'an error is no end'
    finally: w.close()


def test_each_cell_is_computed_once(tmp_path):
    made = []
    def f(): made.append(1); return dict(mean=.5)
    for _ in range(2):
        with Cells(tmp_path, 2, progress=False) as cell:
            got = [cell('a, b', dict(n=(1, 2)), f), cell('c', dict(n=3), lambda: dict(mean=1., seconds=7.))]
    assert len(made) == 1 and got[0]['mean'] == .5 and got[0]['seconds'] >= 0 and got[1]['seconds'] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a--b.json', 'c.json']
    assert json.loads((tmp_path/'a--b.json').read_text())['key'] == {'n': [1, 2]}
    with Cells(tmp_path, progress=False) as cell, pytest.raises(ValueError, match="folder must be empty or of the same settings, got .*c.json', which was made by others"): cell('c', dict(n=4), f)


def test_a_set_is_kept_for_its_data_and_settings(tmp_path):
    data, path = load_data('digits', size=8), tmp_path/'new'/'s.safetensors'
    def make():
        syn = Synthetic.real(data)
        syn.meta['data'] = dict(digest=data.digest)
        return syn
    syn = kept_set(path, data, make, dict(row='a'))
    assert torch.equal(kept_set(path, data, None, dict(row='a')).images, syn.images) and syn.meta['bench'] == dict(row='a')
    with pytest.raises(ValueError, match='folder must be empty or of the same settings'): kept_set(path, data, None, dict(row='b'))
    with pytest.raises(ValueError, match="folder must be empty or of the same data, got .*, which was made for others named 'digits'"): kept_set(path, load_data('digits', size=9), None)


def test_in_words():
    assert [as_bytes(b) for b in (None, 1.2e5, 45e6, 2e9)] == ['', '0.1 MB', '45 MB', '2.00 GB']
    assert points(dict(mean=.5, std=.01, half=None, all=[.5])) == ' 50.0' and points(dict(mean=.5, std=.01, half=.02, all=[.5, .5])) == ' 50.0 +-  1.0 (2.0)'
    assert [target('t', v, 1.)['met'] for v in (.9, 1.1, None)] == [True, False, None]
