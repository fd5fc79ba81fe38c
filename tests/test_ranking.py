"Robustness scores, and what a set costs to keep."
import math

import pytest
import torch
from torch import nn

from dd_nb.data import load_data
from dd_nb.protocols import Protocol
from dd_nb.ranking import augment_robust_score, hardened, label_robust_score, robustness, storage
from dd_nb.synthetic import Synthetic

NET = dict(name='ConvNet', width=4, depth=2)


@pytest.fixture(scope='module')
def data(): return load_data('digits', size=8)


@pytest.fixture(scope='module')
def syn(data): return Synthetic.real(data, ipc=2, steps=2)


def test_storage_counts_what_is_shipped(data, syn):
    s = storage(syn)
    assert s['images'] == 40*64*4 and s['labels'] == 40 and s['lrs'] == 6*4 and s['total'] == 40*64*4 + 40 + 24 and s['real_images'] == s['total']/64
    soft = syn.changed(labels=nn.functional.one_hot(syn.labels, 10).float())
    assert storage(soft)['labels'] == 40*10*4
    bn = syn.with_bn('calibrated', data=data, per_class=3)
    assert storage(bn)['statistics'] == 30*64*4 and storage(syn.minibatches(8))['order'] == 3*40*4


def test_scores_lie_between_0_and_1():
    assert label_robust_score(1., 1., 1., 0.) == pytest.approx((math.exp(.5) - math.exp(-1))/(math.e - math.exp(-1)))
    assert label_robust_score(0., 1., 0., 1.) == pytest.approx(0) and augment_robust_score(1., 0., 1., 0.) == pytest.approx(1)
    assert augment_robust_score(.5, .5, .5, .5) == pytest.approx((1 - math.exp(-1))/(math.e - math.exp(-1)))
    with pytest.raises(ValueError, match=r'real_hard must be in \[0, 1\], got 85'): label_robust_score(.3, 85., .3, .1)


def test_robustness_is_made_of_its_accuracies(data, syn):
    import dd_nb.protocols as E
    short = dict(E.PROTOCOLS)
    try:
        E.PROTOCOLS |= dict(tuned=Protocol(epochs=3, lrs=(.01, .1)), augmented=Protocol(epochs=3, augment='standard'))
        r = robustness(syn, data, NET, full=.9, n_nets=2)
        soft = robustness(syn.changed(labels=nn.functional.one_hot(syn.labels, 10).float()*2), data, NET, full_epochs=1, n_nets=2)
    finally: E.PROTOCOLS.clear(); E.PROTOCOLS |= short
    assert r['hlr'] == .9 - r['syn_hard'] and r['ior'] == r['syn_any'] - r['random_any'] and r['syn_hard'] == r['syn_any']
    assert r['lrs'] == label_robust_score(r['syn_hard'], .9, r['syn_any'], r['random_any']) and 0 < r['ars'] < 1
    assert soft['syn_hard'] == r['syn_hard'] != soft['syn_any'] and 0 < soft['real_hard'] <= 1


def test_hardened(syn):
    soft = syn.changed(labels=nn.functional.one_hot(syn.labels, 10).float(), learn=('images', 'labels', 'lrs'))
    assert torch.equal(hardened(soft).labels, syn.labels) and hardened(soft).learn == ('images', 'lrs') and hardened(syn) is syn
    assert torch.equal(hardened((soft.images[0], soft.labels[0]))[1], syn.labels[0])
