"Benchmarks: that they measure what they say, not how fast the machine is."
import torch

from dd_nb.bench import faster_threads, print_time_to_accuracy, time_to_accuracy


def test_time_to_accuracy_compares_from_the_same_weights(capsys):
    before = torch.get_num_threads()
    out = time_to_accuracy(.5, recipe='demo', limit=60, every=5, progress=False, iters=200)
    assert torch.get_num_threads() == before
    o, t = out['ours'], out['original recipe']
    assert o['seconds'] is not None and o['best'] >= .5 and o['curve'][-1][1] == o['best']
    assert o['threads'] in (1, 2) and set(t['seconds_per_step']) == {'1', '2'}
    assert t['seconds'] is not None or t['ran'] >= 4*o['seconds']
    print_time_to_accuracy(out)
    assert 'ratio' in capsys.readouterr().out


def test_a_target_that_is_not_reached_is_said(capsys):
    out = time_to_accuracy(1.01, recipe='demo', limit=.5, factor=1., every=5, progress=False, iters=50)
    assert out['ours']['seconds'] is None and 'ratio' not in out
    print_time_to_accuracy(out)
    assert 'not reached' in capsys.readouterr().out


def test_faster_threads_sets_the_faster():
    import time
    before = torch.get_num_threads()
    try:
        n, times = faster_threads(lambda k: time.sleep(.002*k*torch.get_num_threads()), steps=3)
        assert n == 1 == torch.get_num_threads() and times[1] < times[2]
    finally: torch.set_num_threads(before)
