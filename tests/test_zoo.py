"Recipes and the results that ship."
from dataclasses import replace

import pytest
import torch

from dd_nb.data import load_data
from dd_nb.evaluation import evaluate
from dd_nb.inits import FixedInit
from dd_nb.pools import PretrainedPool
from dd_nb.recipes import RECIPES,Recipe,get_recipe,recipe_source
from dd_nb.zoo import baselines,list_zoo,load_zoo,reproduce


def test_reproduce_runs_a_recipe_and_records_it(tmp_path):
    syn, history, score = reproduce('demo', seed=1, iters=4, batch_size=16, progress=False)
    assert syn.meta['recipe']['name'] == 'demo' and syn.meta['changes'] == dict(iters=4, batch_size=16) and syn.meta['seed'] == 1
    assert syn.meta['test']['mean'] == score.mean and history.it[-1] == 4
    again = type(syn).load(syn.save(tmp_path/'a.safetensors'))
    assert evaluate(again, None, load_data('digits')).all == score.all


def test_a_seed_is_an_initialisation():
    a, b, c = (reproduce('demo', seed=s, iters=2, batch_size=16, progress=False)[0] for s in (0, 0, 1))
    assert torch.equal(a.images, b.images) and all(torch.equal(v, b.init['params'][k]) for k, v in a.init['params'].items())
    assert not torch.equal(a.init['params']['0.weight'], c.init['params']['0.weight'])


def test_baselines():
    scores = baselines('demo')
    assert set(scores) == {'untrained', 'random real images', 'best of 20 random sets', 'class means', '1-NN, random real images'} and scores['untrained'].mean < .25
    assert all(0 <= s.mean <= 1 for s in scores.values())


SMALL = dict(data='digits', net=dict(name='MLP', hidden=[16]), start='real', n_nets=3, pool=dict(data='digits', n=8, held_out=.5, epochs=1),
             syn=dict(ipc=1, steps=1, epochs=1, lr=.05), distill=dict(iters=3, batch_size=16))
SMALL_ONES = [Recipe('tiny-any', '', **SMALL, fixed=False), Recipe('tiny-known', '', **SMALL), Recipe('tiny-poison', '', **SMALL, fixed=False, objective='Poison', unroll=dict(source=3, target=8))]


@pytest.fixture
def small(monkeypatch, tmp_path):
    for r in SMALL_ONES: monkeypatch.setitem(RECIPES, r.name, r)
    return tmp_path


def test_recipes_for_pretrained_networks(small):
    syn, _, score = reproduce('tiny-any', pools=small, progress=False)
    assert len(list((small/'digits-MLP-[16]-epochs1').iterdir())) == 8 and syn.meta['source']['source'] == 'PretrainedPool' and syn.init is None
    assert len(score.all) == 2 and syn.meta['changes'] == {}                # half of those held out; the others choose
    data = load_data('digits')
    assert score.all == evaluate(syn, recipe_source(get_recipe('tiny-any'), data, 0, small), data, 3).all
    fewer, _, less = reproduce('tiny-any', pools=small, poolsize=4, progress=False)
    assert fewer.meta['changes'] == dict(poolsize=4) and fewer.meta['recipe']['pool']['n'] == 4 and len(less.all) == 1
    known, _, _ = reproduce('tiny-known', seed=1, pools=small, progress=False)
    pool = PretrainedPool(small/'digits-MLP-[16]-epochs1', held_out=.5)
    assert all(torch.equal(v, known.init['params'][k]) for k, v in pool.states[1].params.items())
    assert isinstance(recipe_source(get_recipe('tiny-known'), data, 1, small), FixedInit)
    scores = baselines('tiny-any', pools=small, many=2)
    assert 'untrained' not in scores and len(scores['no adaptation'].all) == 2 and scores['full target training'].mean > scores['no adaptation'].mean
    with pytest.raises(ValueError, match="poolsize must be left out for 'demo'"): reproduce('demo', poolsize=4)
    with pytest.raises(ValueError, match='poolsize must be at least 3, got 2'): reproduce('tiny-any', poolsize=2)


def test_recipes_for_another_aim(small):
    syn, _, score = reproduce('tiny-poison', pools=small, progress=False)
    test = syn.meta['test']
    assert syn.meta['objective'].startswith('Poison(3 -> 8,') and len(score.all) == 2
    assert score.mean == pytest.approx((test['moved'][1] + test['others'][1])/2) and test['moved'][0] < .4 < test['others'][0]
    scores = baselines('tiny-poison', pools=small)
    assert list(scores) == ['untouched', 'flipped, one of each', 'flipped, ten of K']
    assert scores['untouched'].mean == pytest.approx((test['moved'][0] + test['others'][0])/2)


def test_every_entry_has_its_recipe_and_loads():
    for name, seeds in list_zoo().items():
        assert name in RECIPES
        for seed in seeds:
            syn = load_zoo(name, seed)
            assert syn.meta['recipe']['name'] == name and syn.meta['seed'] == seed and syn.meta['changes'] == {}
            assert torch.isfinite(syn.images).all()


def test_the_first_entry_ships():
    assert list_zoo().get('mnist-fixed-10') == [0, 1, 2]
    syn = load_zoo('mnist-fixed-10')
    assert syn.images.shape == (1, 10, 1, 28, 28) and syn.n_steps == 3 and len(syn) == 10


def test_the_first_entry_is_as_good_as_it_says(data_root):
    data = load_data('mnist', root=data_root)
    scores = [evaluate(load_zoo('mnist-fixed-10', s), None, data).mean for s in (0, 1, 2)]
    for s, score in enumerate(scores): assert abs(score - load_zoo('mnist-fixed-10', s).meta['test']['mean']) < .003
    assert sum(scores)/3 >= .938      # the paper: 93.76 %


@pytest.mark.parametrize('name,least', [pytest.param('mnist-random-100', .87, marks=pytest.mark.slow), ('mnist-random-100-gd', .795), ('mnist-bn-100', .9)])
def test_sets_for_any_network_are_as_good_as_they_say(name, least, data_root):
    data = load_data('mnist', root=data_root)
    for seed in list_zoo()[name]:
        syn = load_zoo(name, seed)
        test, score = syn.meta['test'], evaluate(syn, None, data, n_nets=4)
        assert test['networks'] == syn.meta['recipe']['n_nets'] and test['mean'] >= least and test['std'] <= .04
        assert abs(score.mean - test['mean']) < 4*test['std']/4**.5


def test_unknown_names():
    with pytest.raises(ValueError, match='name must be one of'): load_zoo('mnist-unfixed-10')
    with pytest.raises(ValueError, match='name must be one of.*demo'): reproduce('nothing')


def test_sentences_with_learned_labels_by_recipe(tmp_path):
    (tmp_path/'trec').mkdir()
    kinds = ('ABBR:exp What does the short word mean', 'DESC:def Why do animals sleep', 'ENTY:animal What animal sleeps longest', 'HUM:ind Who was the first king', 'LOC:city Where is the town', 'NUM:date When did he live')
    for name, n in (('train_5500.label', 12), ('TREC_10.label', 2)): (tmp_path/'trec'/name).write_text(''.join(f'{k} of {"north south east west".split()[i % 4]} ?\n' for i in range(n) for k in kinds))
    syn, history, score = reproduce('trec-fixed-6', root=tmp_path, progress=False, iters=2)
    assert syn.images.shape == (1, 6, 20, syn.norm.vectors.shape[1]) and syn.label_form == 'softmax' and 'labels' in syn.learn and len(score.all) == 1
    scores = baselines('trec-fixed-6', root=tmp_path, many=2)
    assert set(scores) == {'untrained', 'random real sentences', 'best of 2 random sets', 'class means', '1-NN, random real sentences', 'full training'}
    assert scores['full training'].mean > .9 and scores['1-NN, random real sentences'].mean > .3


def test_fewer_images_than_classes_by_recipe(monkeypatch):
    recipe = replace(get_recipe('mnist-soft-5'), name='five', data='digits', distill=dict(iters=2, batch_size=32))
    monkeypatch.setitem(RECIPES, 'five', recipe)
    syn, history, score = reproduce('five', progress=False)
    assert syn.images.shape == (1, 5, 1, 28, 28) and syn.labels.shape == (1, 5, 10) and 'labels' in syn.learn
    assert set(baselines('five')) == {'untrained', 'means of classes that share an image'}
