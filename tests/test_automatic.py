"What is chosen for data and time, how it is said, and what a result is compared with."
import json
import time
from dataclasses import replace

import pytest
import torch

from dd_nb import automatic
from dd_nb.all import data_from_tensors, distill
from dd_nb.automatic import METHODS, InTime, as_line, compared, from_line, in_seconds, kind_of, recipe_for, rivals, step_seconds, stored_per_class, verdict
from dd_nb.core import BadArgument
from dd_nb.evaluation import Score
from dd_nb.recipes import net_maker, recipe_objective, recipe_source, recipe_start


@pytest.fixture(scope='module')
def colour():
    "Three classes of small colour images."
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = (torch.rand(120, 3, 24, 24, generator=g)*128 + 40*y[:, None, None, None]).to(torch.uint8)
    return data_from_tensors(x, y, name='colour')


@pytest.fixture(scope='module')
def numbers(): return data_from_tensors(torch.randn(90, 5), torch.randn(90, 2), name='numbers', task='numbers')


def test_kinds(colour, numbers, blobs, digits):
    assert [kind_of(d) for d in (colour, numbers, blobs, digits)] == ['images', 'rows', 'rows', 'images']


def test_the_network_follows_from_the_examples(colour, blobs, digits):
    assert recipe_for(colour, 'c')[0].net == dict(name='ConvNet', width=32, depth=2)
    assert recipe_for(digits, 'd')[0].net == dict(name='ConvNet', width=32, depth=1)
    assert recipe_for(blobs, 'b')[0].net == dict(name='MLP')
    flat = data_from_tensors(torch.randint(0, 255, (30, 1, 5, 64), dtype=torch.uint8), torch.arange(30) % 2)
    r = recipe_for(flat, 'f')[0]
    assert r.param is None and net_maker(r, flat)(0)(torch.zeros(1, 1, 5, 64)).shape == (1, 2)


def test_large_images_are_stored_four_in_one(colour, digits):
    r, why = recipe_for(colour, 'c', ipc=2)
    assert r.param == dict(name='Formation', factor=2) and r.syn['ipc'] == 8
    assert len(recipe_start(r, colour)) == 24 and recipe_start(r, colour).param.factor == 2
    assert recipe_for(digits, 'd')[0].param is None
    assert recipe_for(colour, 'c', formation=1)[0].param is None
    assert recipe_for(colour, 'c', 'dm', formation=3, ipc=2)[0].syn['ipc'] == 18


@pytest.mark.parametrize('ipc', [1, 2, 7, 10, 50])
def test_unrolling_takes_about_forty_steps_of_minibatches_that_divide(colour, ipc):
    syn = recipe_start(recipe_for(colour, 'c', 'dd', ipc=ipc, formation=1)[0], colour)
    assert 20 <= syn.n_steps <= 40 and len(syn) == 3*ipc
    assert syn.order is None or syn.order.shape[1] >= 20


def test_images_are_matched_and_all_else_is_unrolled(colour, numbers, blobs):
    r, why = recipe_for(colour, 'c', ipc=20)
    assert r.param and r.syn['ipc'] == 80 and r.minibatch == 40 and r.distill['balanced']
    assert r.objective == 'DistributionMatch' and 'gains more a minute' in why
    assert all(recipe_for(d, 'd')[0].objective == 'Unroll' for d in (numbers, blobs))


@pytest.mark.parametrize('method', METHODS)
def test_every_method_runs_on_every_kind(method, colour, numbers, blobs, tmp_path):
    for d in (colour, blobs, numbers):
        r, _ = recipe_for(d, d.name, method, ipc=2)
        small = dict(net=dict(name='MLP', hidden=(8,)) if d is not colour else dict(r.net, width=4))
        if r.experts: small['experts'] = dict(r.experts, n=2, records=14, every=1)
        r = replace(r, **small)
        syn, source = recipe_start(r, d), recipe_source(r, d)
        how = dict(r.distill, iters=2, every=1, n_eval=1, batch_size=16 if method != 'mtt' else 1)
        h = distill(syn, source, d, recipe_objective(r, d, pools=tmp_path/d.name), progress=False, **how)
        assert h.it == [0, 1, 2], (method, d.name)


def test_what_cannot_be_asked(colour, numbers):
    with pytest.raises(BadArgument, match='method must be one of auto, dd'): recipe_for(colour, 'c', 'gan')
    with pytest.raises(BadArgument, match='formation must be left out for numbers'): recipe_for(numbers, 'n', formation=2)
    with pytest.raises(BadArgument, match='ipc must be at least 1'): recipe_for(colour, 'c', ipc=0)


def test_a_recipe_is_a_line_that_can_be_given_again(colour, numbers):
    for d in (colour, numbers):
        r, _ = recipe_for(d, d.name)
        again = from_line(as_line(r))
        assert json.loads(as_line(again)) == json.loads(as_line(r)) and '\n' not in as_line(r)
        assert torch.equal(recipe_start(again, d).images, recipe_start(r, d).images)
    for text, said in (('{', 'a JSON object'), ('[1]', 'a JSON object'), ('{"name": "a"}', 'say its data'), ('{"colour": 1}', 'have fields of')):
        with pytest.raises(BadArgument, match=said): from_line(text)


def test_steps_follow_from_a_measured_second(colour, monkeypatch):
    r, _ = recipe_for(colour, 'c', 'dd')
    assert all(0 < s < 20 for s in step_seconds(replace(r, net=dict(r.net, width=4)), colour))
    monkeypatch.setattr(automatic, 'step_seconds', lambda recipe, *a, **k: (.01*recipe.syn['epochs'], .1))
    quick = in_seconds(r, colour, 1000)
    assert quick.syn == r.syn and quick.distill['iters'] == int(.8*1000/(.01*r.syn['epochs']))
    slow = in_seconds(r, colour, 30)
    assert slow.syn['epochs'] < r.syn['epochs'] and slow.unroll['window'] == 10 and slow.distill['iters'] >= 20
    least = in_seconds(r, colour, .001)
    assert least.distill['iters'] == 20 and least.syn['epochs'] >= 1


def test_looks_that_take_long_are_few(colour, monkeypatch):
    r, _ = recipe_for(colour, 'c', 'dm')
    monkeypatch.setattr(automatic, 'step_seconds', lambda *a, **k: (.1, .5))
    some = in_seconds(r, colour, 100).distill
    assert some['iters'] == 800 and some['n_eval'] == 2 and 75 <= some['every'] <= 90
    monkeypatch.setattr(automatic, 'step_seconds', lambda *a, **k: (.1, 30.))
    few = in_seconds(r, colour, 100).distill
    assert few['n_eval'] == 1 and few['every'] == 800//3


def test_the_clock_ends_a_run_and_its_schedule(blobs):
    r, _ = recipe_for(blobs, 'blobs')
    rates = []
    class Slow:
        def after_step(self, loop):
            time.sleep(.01)
            rates.append(loop.opt.param_groups[0]['lr'])
    begun = time.perf_counter()
    distill(recipe_start(r, blobs), recipe_source(r, blobs), blobs, cbs=[InTime(2.), Slow()], progress=False,
            **dict(r.distill, iters=100_000, every=100, n_eval=1))
    assert 1.5 < time.perf_counter() - begun < 6
    assert rates[-1] < .05*rates[0] and len(rates) < 1000   # though a hundred thousand steps were planned
    with pytest.raises(ValueError, match='seconds must be a positive number'): InTime(0)


def test_a_faster_machine_makes_more_steps(blobs):
    r, _ = recipe_for(blobs, 'blobs')
    h = distill(recipe_start(r, blobs), recipe_source(r, blobs), blobs, cbs=[InTime(1.5)], progress=False,
                **dict(r.distill, iters=6, every=1, n_eval=1))
    assert h.it[-1] > 6


def test_rivals_at_equal_examples_and_at_equal_bytes(colour, numbers, blobs):
    r, _ = recipe_for(colour, 'c', ipc=2)
    sets = rivals(r, colour)
    assert list(sets) == ['random real', 'k-means', 'herding', 'k-means, stored alike'] and len(sets['random real']) == 3
    syn = recipe_start(r, colour)
    assert all(len(s) == 6 for k in list(sets)[:3] for s in sets[k]) and sets['k-means, stored alike'][0].nbytes == syn.nbytes
    assert list(rivals(recipe_for(blobs, 'b')[0], blobs)) == ['random real', 'class means', 'herding']
    assert 'k-means' in rivals(recipe_for(numbers, 'n')[0], numbers)


def test_stored_examples_are_counted_through_every_parametrisation(colour):
    r, _ = recipe_for(colour, 'c', ipc=3)
    assert stored_per_class(r) == 3 and stored_per_class(replace(r, param=dict(name='Quantised', bits=8, of=r.param))) == 3
    assert stored_per_class(recipe_for(colour, 'c', ipc=5, formation=1)[0]) == 5


def test_a_comparison_by_two_judges(blobs):
    r, _ = recipe_for(blobs, 'blobs')
    r = replace(r, net=dict(name='MLP', hidden=(8,)))
    names = []
    out = compared(recipe_start(r, blobs), r, blobs, nets=2, tick=names.append)
    assert list(out) == ['field protocol', 'own schedule'] and names == list(out['field protocol'])
    assert all(isinstance(s, Score) for rows in out.values() for s in rows.values()) and 'distilled' in out['own schedule']
    assert out['field protocol']['random real'].sets == 3


@pytest.mark.parametrize('ours, theirs, better, said', [
    ((.90, .92, .91), (.80, .82, .81), True, 'is better than real, the best of the others, by 10.0 points'),
    ((.81, .83, .82), (.80, .82, .81), False, 'leads real by 1.0 points'),
    ((.70, .72, .71), (.80, .82, .81), False, 'is not better: real leads it by 10.0 points')])
def test_a_plain_sentence(ours, theirs, better, said):
    yes, text = verdict(dict(real=Score(theirs), other=Score((.1, .1, .1)), distilled=Score(ours)))
    assert yes is better and said in text


def test_the_sentence_of_a_regression():
    yes, text = verdict(dict(real=Score((.1, .2), task='numbers'), distilled=Score((.9, .9), task='numbers')))
    assert 'R2' in text and 'points' not in text
