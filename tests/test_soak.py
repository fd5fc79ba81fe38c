"A small helping of `make soak`: kills, hostile files, random configurations, layouts of data and odd networks."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_soak_in_small_passes_and_goes_on(tmp_path):
    def soak(files):
        args = [sys.executable, ROOT/'tools/soak.py', '--out', 'soak', '--kills', 4, '--files', files, '--configurations', 20, '--layouts', 20, '--networks', 30]
        r = subprocess.run([*map(str, args)], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
        assert r.returncode == 0 and re.search(r'\d+ kills, \d+ inside', r.stdout) and 'passed' in r.stdout, r.stdout + r.stderr
        return json.loads((tmp_path/'soak'/'state.json').read_text())
    first, second = soak(50), soak(100)
    assert first['files']['done'] == 50 and second['files']['done'] == 100 and first['files']['refused'] < second['files']['refused']
    assert second['kills'] == first['kills'] and second['configurations'] == first['configurations']
