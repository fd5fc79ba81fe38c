"What every room uses: refusals, and stored numbers as tables."
import json
import math

import pytest
import torch

from dd_nb.core import BadArgument, BadType, Given, check_choice, check_count, check_number, check_type, point, renaming, stored, table


def test_a_refusal_is_one_sentence_and_keeps_its_parts():
    e = BadArgument('net', torch.nn.ReLU(), 'have parameters', 'wrap it')
    assert str(e) == 'net must have parameters, got the module ReLU: wrap it' and str(e.renamed('--net')).startswith('--net must')
    assert str(BadArgument('data', Given(''), 'be given', 'there are none')) == 'data must be given: there are none'
    assert isinstance(BadType('n', 'x', 'be a whole number'), (TypeError, ValueError)) and not isinstance(e, TypeError)


def test_renaming_is_of_those_that_are_named():
    with pytest.raises(BadArgument, match='^n_valid must be at least 1, got 0$'):
        with renaming(n='n_valid'): check_count('n', 0)
    with pytest.raises(BadArgument, match='^m must be'):
        with renaming(n='n_valid'): check_count('m', 0)


@pytest.mark.parametrize('check, kind, want', [
    (lambda: check_count('n', True), BadType, 'n must be a whole number, got True'),
    (lambda: check_count('n', 5, most=4), BadArgument, 'n must be at most 4, got 5'),
    (lambda: check_number('lr', math.nan, lambda v: 0 < v, 'be positive'), BadArgument, 'lr must be positive, got nan'),
    (lambda: check_number('lr', '1', lambda v: 0 < v, 'be positive'), BadType, "lr must be positive, got '1'"),
    (lambda: check_choice('of', 'x', dict(a=1, b=2)), BadArgument, "of must be one of a, b, got 'x'"),
    (lambda: check_type('net', [], torch.nn.Module), BadType, 'net must be a Module, got list'),
])
def test_checks(check, kind, want):
    with pytest.raises(kind) as e: check()
    assert str(e.value) == want and type(e.value) is kind


def test_stored_numbers_as_a_table(tmp_path):
    score = dict(mean=.9, std=.01, half=.02, all=[.89, .91])
    (tmp_path/'a.json').write_text(json.dumps(score))
    assert stored('b', tmp_path) is None and point(stored('a', tmp_path), True) == '90.0 ± 1.0 (2.0)' and point(None) == ''
    assert table(('x', 'y'), [(1, point(score))]).data == '| x | y |\n| --- | --- |\n| 1 | 90.0 ± 1.0 |'
