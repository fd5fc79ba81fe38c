"Every page of the static site in a real browser, light and dark: nothing in the console, nothing fetched from elsewhere, no text wider than the window."
import subprocess
import sys
from pathlib import Path

import pytest

from browser import launched, needs_chromium, shot

root = Path(__file__).resolve().parent.parent.parent
pytestmark = needs_chromium


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pages(tmp_path, scheme):
    from playwright.sync_api import sync_playwright
    subprocess.run([sys.executable, root/'tools'/'build_site.py', tmp_path], check=True)
    pages, wrong = sorted(tmp_path.glob('*.html')), []
    assert len(pages) > 20
    with sync_playwright() as p:
        browser = launched(p)
        page = browser.new_context(color_scheme=scheme, viewport=dict(width=1200, height=900)).new_page()
        page.on('console', lambda m: wrong.append((page.url, m.type, m.text)))
        page.on('pageerror', lambda e: wrong.append((page.url, str(e))))
        page.on('request', lambda r: None if r.url.startswith(('file:', 'data:')) else wrong.append((page.url, r.url)))
        for path in pages:
            page.goto(path.as_uri())
            assert page.locator('h1').count() and page.locator('nav a[aria-current]').count() == 1, path.name
            assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth'), f'{path.name} is wider than the window'
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), f'{path.name}: a picture is missing'
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back.strip('rgba()').split(',')[:3])) < 200) == (scheme == 'dark')
        page.goto((tmp_path/'06_unroll.html').as_uri())
        shot(page, f'site-{scheme}')
    assert not wrong, wrong
