"Chromium, for the tests that look at pages."
import os
import shutil

import pytest

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine')


def launched(playwright):
    "A browser that asks the network for nothing by itself."
    return playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])


def shot(page, name):
    "A picture of the page, to be looked at, if DD_NB_SCREENSHOTS names a folder for it."
    if shots := os.environ.get('DD_NB_SCREENSHOTS'): page.screenshot(path=os.path.join(shots, f'{name}.png'))
