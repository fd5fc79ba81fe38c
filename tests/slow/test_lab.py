"Every notebook top to bottom under JupyterLab, in a real browser: opened, run by the menu, saved; every cell has run and none has failed."
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from browser import launched, needs_chromium, shot

root = Path(__file__).resolve().parent.parent.parent
pytestmark = needs_chromium
NOTEBOOKS = sorted(p.name for p in (root/'nbs').glob('*.ipynb'))


def asked(port, what, method='GET'):
    return urllib.request.urlopen(urllib.request.Request(f'http://127.0.0.1:{port}/api/{what}', headers=dict(Authorization='token key'), method=method), timeout=20)


def opened(port, server, log):
    for _ in range(240):
        try: return asked(port, 'status')
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(.5)
    raise AssertionError(log.read_text())


def saved(path):
    "A notebook as it is on disk; JupyterLab empties the file before it writes."
    for _ in range(50):
        try: return json.loads(path.read_text(encoding='utf-8'))
        except ValueError: time.sleep(.1)
    raise AssertionError(f'{path} is no JSON for five seconds')


def test_every_notebook_in_jupyterlab(tree, new_env, tmp_path):
    from playwright.sync_api import sync_playwright
    env = new_env().reuse_packages()
    env.pip('install', '-q', 'jupyterlab>=4', 'ipykernel')
    env.pip('install', '-q', '--no-deps', '-e', tree)   # 22_cli runs the commands
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'PYTEST', 'JUPYTER'))}
    environ |= dict(OMP_NUM_THREADS='1', JUPYTER_CONFIG_DIR=str(tmp_path), JUPYTER_DATA_DIR=str(tmp_path/'data'), PATH=f'{env.python.parent}{os.pathsep}{os.environ["PATH"]}')   # the commands of this environment
    log, failed = tmp_path/'lab.log', []
    args = [env.python, '-m', 'jupyterlab', '--no-browser', f'--port={port}', '--IdentityProvider.token=key', '--allow-root', f'--ServerApp.root_dir={tree}']
    with open(log, 'w') as out, sync_playwright() as p:
        server = subprocess.Popen([str(a) for a in args], stdout=out, stderr=out, env=environ, cwd=tree)
        try:
            opened(port, server, log)
            browser = launched(p)
            for name in NOTEBOOKS:
                path, page, broken = tree/'nbs'/name, browser.new_page(viewport=dict(width=1200, height=900)), []
                nb = json.loads(path.read_text(encoding='utf-8'))
                for c in nb['cells']:
                    if c['cell_type'] == 'code': c['outputs'], c['execution_count'] = [], None   # so that what is found afterwards is of this run
                path.write_text(json.dumps(nb), encoding='utf-8')
                page.on('pageerror', lambda e: broken.append(str(e)))
                page.goto(f'http://127.0.0.1:{port}/lab/workspaces/auto-{name[:2]}/tree/nbs/{name}?reset&token=key', timeout=120_000)
                page.wait_for_selector('.jp-NotebookPanel .jp-Cell', timeout=120_000)
                page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached', timeout=120_000)   # its kernel is there
                page.wait_for_timeout(2000)
                if (ask := page.locator('.jp-Dialog .jp-mod-accept')).count(): ask.first.click()   # which kernel: Python 3, as is preselected
                page.get_by_role('menuitem', name='Run', exact=True).click()
                page.get_by_text('Run All Cells', exact=True).click()
                deadline = time.monotonic() + 900
                while time.monotonic() < deadline:   # what is saved says how far it is
                    time.sleep(2)
                    page.keyboard.press('Control+s')
                    cells = [c for c in saved(path)['cells'] if c['cell_type'] == 'code' and ''.join(c['source']).strip()]
                    if all(c['execution_count'] for c in cells) or any(o['output_type'] == 'error' for c in cells for o in c['outputs']): break
                bad = [o.get('evalue', '') for c in cells for o in c['outputs'] if o['output_type'] == 'error']
                idle = [''.join(c['source'])[:60] for c in cells if not c['execution_count']]
                if bad or idle or broken: failed.append((name, bad, idle[:2], broken))
                shot(page, f'lab-{name[:-6]}')
                page.close()
                for k in json.load(asked(port, 'kernels')): asked(port, f'kernels/{k["id"]}', 'DELETE')   # its memory is the next one's
        finally:
            server.terminate()
            server.wait(20)
    assert not failed, failed
