"Explorers in a real browser: Voila serves the notebook's widget, Chromium moves a slider, and the picture changes."
import base64
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = [pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine'),
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
        browser = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        stack.append(browser.close)
        page, errors = browser.new_page(viewport=dict(width=1100, height=700)), []
        page.on('pageerror', lambda e: errors.append(str(e)))   # not the console: Voila asks the network for extensions and fonts, which need not be reachable
        page.goto(f'http://127.0.0.1:{port}/', timeout=120_000)
        page.wait_for_selector(wait, timeout=120_000)
        return page, errors
    yield show
    for f in reversed(stack): f()


def test_the_lower_bound_explorer(page):
    page, errors = page('from dd_nb.linear import explore_linear\nexplore_linear()', 'img.widget-image, .widget-image img, img')
    def picture(): return page.evaluate("""async () => {
        const img = document.querySelector('img.widget-image') || document.querySelector('.widget-image img') || document.querySelector('img');
        const blob = await (await fetch(img.src)).arrayBuffer();
        return btoa(String.fromCharCode(...new Uint8Array(blob).slice(0, 200000)))}""")
    before = base64.b64decode(picture())
    assert before.startswith(b'\x89PNG') and len(before) > 10_000
    slider = page.get_by_text('M', exact=True).locator('xpath=..').locator('[role=slider], .noUi-handle').first
    slider.focus()
    slider.press('ArrowRight')
    for _ in range(100):
        after = base64.b64decode(picture())
        if after != before: break
        time.sleep(.2)
    assert after != before and after.startswith(b'\x89PNG')
    if shots := os.environ.get('DD_NB_SCREENSHOTS'): page.screenshot(path=os.path.join(shots, 'linear.png'))
    assert not errors, errors
