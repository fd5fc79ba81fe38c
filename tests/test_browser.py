"Explorers in a real browser: Voila serves the notebook's widget, Chromium moves a slider, and the picture changes."
import base64
import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from browser import launched, needs_chromium, shot

pytestmark = [needs_chromium,
              pytest.mark.skipif(not all(map(importlib.util.find_spec, ('voila', 'playwright'))), reason="voila and playwright are not installed (pip install 'dd_nb[dev]')")]


@pytest.fixture
def page(tmp_path):
    "A function that serves a cell's last value and returns the open page and the errors of its scripts."
    from playwright.sync_api import sync_playwright
    import nbformat
    stack = []
    def show(code, wait):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
        path = tmp_path/'page.ipynb'
        nbformat.write(nb, path)
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        log = open(tmp_path/'voila.log', 'w')
        server = subprocess.Popen([sys.executable, '-m', 'voila', '--no-browser', f'--port={port}', str(path)], stdout=log, stderr=log)
        stack.append(lambda: (server.terminate(), server.wait(20), log.close()))
        for _ in range(120):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/voila/static/voila.js', timeout=2)
            except urllib.error.HTTPError: break
            except OSError:
                assert server.poll() is None, (tmp_path/'voila.log').read_text()
                time.sleep(.5)
            else: break
        play = sync_playwright().start()
        stack.append(play.stop)
        browser = launched(play)
        stack.append(browser.close)
        page, errors = browser.new_page(viewport=dict(width=1100, height=700)), []
        page.on('pageerror', lambda e: errors.append(str(e)))   # not the console: Voila asks the network for extensions and fonts, which need not be reachable
        page.goto(f'http://127.0.0.1:{port}/', timeout=120_000)
        page.wait_for_selector(wait, timeout=120_000)
        return page, errors
    yield show
    for f in reversed(stack): f()


def picture(page):
    "The bytes of the explorer's picture."
    return base64.b64decode(page.evaluate("""async () => {
        const img = document.querySelector('img.widget-image') || document.querySelector('.widget-image img') || document.querySelector('img');
        const blob = new Uint8Array(await (await fetch(img.src)).arrayBuffer());
        let s = ''; for (let i = 0; i < blob.length; i += 8192) s += String.fromCharCode(...blob.slice(i, i + 8192));
        return btoa(s)}"""))

def changed(page, before, seconds=30):
    "Wait until the picture is another one than `before`."
    for _ in range(5*seconds):
        if (after := picture(page)) != before: break
        time.sleep(.2)
    assert after != before and after.startswith(b'\x89PNG')
    return after

def slide(page, label, key='ArrowRight'):
    slider = page.get_by_text(label, exact=True).locator('xpath=..').locator('[role=slider], .noUi-handle').first
    slider.focus()
    slider.press(key)

IMAGE = 'img.widget-image, .widget-image img, img'
SET = """
from dd_nb.all import *
data = load_data('digits')
source = FixedInit(MLP(data.shape, data.n_classes, hidden=(16,), seed=0))
syn = Synthetic.noise(data.shape, data.n_classes, steps=1, epochs=3, lr=.2, seed=0)
"""


def test_the_lower_bound_explorer(page):
    page, errors = page('from dd_nb.linear import explore_linear\nexplore_linear()', IMAGE)
    before = picture(page)
    assert before.startswith(b'\x89PNG') and len(before) > 10_000
    slide(page, 'M')
    changed(page, before)
    shot(page, 'linear')
    assert not errors, errors

def test_watch_a_set_evolve(page):
    page, errors = page(SET + "history = distill(syn, source, data, iters=40, batch_size=32, every=10, progress=False)\nexplore_run(history, syn)", IMAGE)
    before = picture(page)
    slide(page, 'moment')
    second = changed(page, before)
    shot(page, 'run')
    page.locator('.widget-play button').first.click()   # play: it goes on by itself
    changed(page, second)
    assert not errors, errors

def test_step_through_the_training(page):
    page, errors = page(SET + "explore_training(syn, source, data)", IMAGE)
    before = picture(page)
    slide(page, 'step')
    changed(page, before)
    shot(page, 'training')
    assert not errors, errors

def test_compare_entries_of_the_zoo(page):
    page, errors = page("from dd_nb.all import *\nexplore_zoo('mnist-fixed-10', 'mnist-random-100')", IMAGE)
    before = picture(page)
    page.locator('select').nth(1).select_option('mnist-bn-100,0')
    changed(page, before)
    shot(page, 'zoo')
    assert not errors, errors

def test_a_live_distillation(page):
    page, errors = page(SET + "LiveDistill(syn, source, data, iters=5000, batch_size=32, every=20)", IMAGE)
    def press(name): page.get_by_role('button', name=name, exact=True).click()
    def says(word, seconds=60):
        page.get_by_text(word).first.wait_for(timeout=1000*seconds)
    before = picture(page)
    press('start')
    running = changed(page, before)
    press('pause')
    says('paused')
    time.sleep(1)
    still = picture(page)
    time.sleep(1.5)
    assert picture(page) == still                 # it waits
    press('start')
    changed(page, still if still != running else running)
    press('stop')
    says('ended')
    shot(page, 'live')
    assert not errors, errors
