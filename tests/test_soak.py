"A small helping of `make soak`: kills, hostile files and random configurations."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_soak_in_small_passes_and_goes_on(tmp_path):
    args = [sys.executable, ROOT/'tools/soak.py', '--out', 'soak', '--kills', '6', '--files', '100', '--configurations']
    def soak(n): return subprocess.run([*map(str, args), str(n)], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    r = soak(20)
    assert r.returncode == 0, r.stdout + r.stderr
    assert re.search(r'\d+ kills, \d+ inside', r.stdout) and 'passed' in r.stdout
    first = json.loads((tmp_path/'soak'/'state.json').read_text())
    r = soak(40)
    second = json.loads((tmp_path/'soak'/'state.json').read_text())
    assert r.returncode == 0 and second['kills'] == first['kills'] and second['files'] == first['files'] and second['configurations']['done'] == 40
