"Recipes: the tables, and what is made of a row."
import json
from dataclasses import asdict, replace

import pytest
import torch

from dd_nb.data import load_data
from dd_nb.families import FAMILIES
from dd_nb.recipes import OBJECTIVES, RECIPES, family_recipe, get_recipe, net_maker, recipe_objective, recipe_source, recipe_start
from dd_nb.zoo import baselines, load_zoo, reproduce


def test_every_row_can_be_found_and_written_down():
    for name, r in RECIPES.items():
        assert r.name == name and get_recipe(name) is r and r.objective in OBJECTIVES and r.about
        json.dumps(asdict(r))


@pytest.mark.parametrize('name', ['mnist-fixed-10', 'mnist-random-100-gd', 'mnist-fixed-100', 'mnist-bn-100', 'mnist-usps28-100', 'trec-fixed-6'])
def test_a_row_is_the_recipe_that_its_result_was_made_by(name):
    "The settings, not the words: a recipe that ships with a result says how that was made."
    now, then = json.loads(json.dumps(asdict(get_recipe(name)))), load_zoo(name).meta['recipe']
    for k in ('data', 'net', 'size', 'fixed', 'pool', 'start', 'syn', 'labels', 'distill', 'unroll'): assert now.get(k) == then.get(k, now.get(k)), k


def test_a_seed_is_a_network_and_a_start():
    r, data = get_recipe('demo'), load_data('digits')
    a, b = (recipe_source(r, data, s).state.params for s in (0, 1))
    one = dict(net_maker(r, data)(0).named_parameters())
    assert all(torch.equal(one[k], v) for k, v in a.items()) and not torch.equal(a['0.weight'], b['0.weight'])
    assert recipe_start(r, data, 0).images.shape == (1, 10, *data.shape)
    assert type(recipe_objective(r, data)).__name__ == 'Unroll'


@pytest.mark.parametrize('method', FAMILIES)
def test_recipes(method, monkeypatch, tmp_path):
    for name in (f'mnist-{method}-1', f'mnist-{method}-10', f'fashion-mnist-{method}-1'): assert RECIPES[name] == get_recipe(name)
    for ipc in (1, 10, 50, 7):
        r = get_recipe(f'cifar10-{method}-{ipc}')
        assert r.syn['ipc']*r.syn['steps'] == ipc and r.net['width'] == 32 and r.data == 'cifar10'
        wide, four = get_recipe(f'cifar10-w128-{method}-{ipc}'), get_recipe(f'cifar10-formation-{method}-{ipc}')
        assert replace(wide, name=r.name, about=r.about, net=r.net) == r and wide.net['width'] == 128
        assert four.syn['ipc'] == 4*ipc and four.syn['steps'] == 1 and four.param['factor'] == 2 and not four.paper
    flat, four = (recipe_start(replace(r, data='digits'), load_data('digits')) for r in (family_recipe(method, 'digits', 2), family_recipe(method, 'digits', 2, formation=2)))
    assert len(flat) == 20 and len(four) == 80 and four.bytes_by_part()['images'] == flat.bytes_by_part()['images']
    small = replace(family_recipe(method, 'digits', 1), name='small', size=8, net=dict(name='ConvNet', width=4, depth=1), syn=dict(family_recipe(method, 'digits', 1).syn, epochs=3), n_nets=2)
    if small.experts: small = replace(small, experts=dict(n=2, records=3, every=2), unroll=dict(span=1, max_start=2, epochs=5))
    if small.unroll.get('window'): small = replace(small, unroll=dict(small.unroll, window=2))
    monkeypatch.setitem(RECIPES, 'small', small)
    syn,history,score = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64, checkpoint=tmp_path/'run')
    assert 0 <= score.mean <= 1 and len(syn) == 10 and len(syn.meta['curve']['seconds']) == len(history.it) == 3
    json.dumps(syn.meta)
    same,_,again = reproduce('small', pools=tmp_path, progress=False, iters=4, every=2, batch_size=64)
    assert torch.equal(same.images, syn.images) and again.all == score.all
    if method == 'kip': assert len(score.all) == 1 and set(baselines('small', many=2)) >= {'random real images', 'class means'}


def test_unknown_recipes():
    with pytest.raises(ValueError, match='method'): family_recipe('x')
    with pytest.raises(ValueError, match='name must be one of'): get_recipe('mnist-x-1')
    with pytest.raises(ValueError, match='ipc'): family_recipe('dm', ipc=0)
