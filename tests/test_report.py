"A page about a set: whole, by itself, and readable in a browser."
import re

import pytest
import torch
from browser import launched, needs_chromium, shot

from dd_nb.all import MLP, RandomInit, Synthetic, data_from_tensors, distill
from dd_nb.automatic import compared, recipe_for
from dd_nb.report import confusions, write_report
from dd_nb.structure import functional


def net(seed=None): return MLP((1, 8, 8), 10, hidden=(16,), seed=seed)


@pytest.fixture(scope='module')
def page(digits, tmp_path_factory):
    recipe, why = recipe_for(digits, 'digits')
    recipe = recipe.__class__(**{**vars(recipe), 'net': dict(name='MLP', hidden=(16,))})
    syn = Synthetic.means(digits, epochs=10, lr=.05, inner='momentum')
    history = distill(syn, RandomInit(net, 0), digits, iters=6, every=2, progress=False)
    scores = compared(syn, recipe, digits, nets=2, protocol='plain')
    path = tmp_path_factory.mktemp('report')/'a <set>.html'
    write_report(path, syn, digits, recipe, history, scores, functional(net(0)), 'a <set>.safetensors', [why, 'made by "me" & you'])
    return path


def test_nothing_is_fetched_and_everything_is_there(page):
    text = page.read_text()
    assert 'http' not in text and '<script' not in text and text.count('data:image/png;base64,') == 3
    for what in ('The set', 'Was it worth it?', 'How it went', 'Class by class', 'Load it', 'Make it again', 'random real', 'distilled'):
        assert what in text
    assert 'a &lt;set&gt;.safetensors' in text and '<set>' not in text and '&amp; you' in text
    assert all(re.search('alt="[^"]+"', i) for i in re.findall('<img[^>]+>', text))


def test_confusions_count_every_test_example(digits):
    counts = confusions(functional(net(0)), digits)
    assert counts.sum() == len(digits.y_test) and torch.equal(counts.sum(1), digits.y_test.bincount())


def test_a_report_of_a_regression(tmp_path):
    d = data_from_tensors(torch.randn(60, 4), torch.randn(60), name='numbers', task='numbers')
    recipe, _ = recipe_for(d, 'numbers')
    syn = Synthetic.kmeans(d, ipc=3)
    h = distill(syn, RandomInit(lambda: MLP((4,), 1), 0), d, iters=2, every=1, progress=False)
    write_report(tmp_path/'a.html', syn, d, recipe, h, None, functional(MLP((4,), 1, seed=0)))
    text = (tmp_path/'a.html').read_text()
    assert 'Class by class' not in text and 'Was it worth it?' not in text and 'How it went' in text


@needs_chromium
@pytest.mark.parametrize('scheme, width', [('light', 1280), ('dark', 400)])
def test_in_a_browser(page, scheme, width):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = launched(p)
        tab = browser.new_page(color_scheme=scheme, viewport=dict(width=width, height=800))
        errors = []
        tab.on('pageerror', lambda e: errors.append(e))
        tab.goto(page.as_uri())
        assert tab.locator('img').count() == 3 and all(i.evaluate('i => i.naturalWidth') > 50 for i in tab.locator('img').all())
        ink, ground = (tab.evaluate(f'getComputedStyle(document.body).{k}') for k in ('color', 'backgroundColor'))
        assert ('255' in ink) == (scheme == 'dark'), (ink, ground)
        assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth'), 'the page scrolls sideways'
        shot(tab, f'report-{scheme}')
        assert not errors
        browser.close()
