"The oldest torch that settings.ini allows: several GB to download, so only where DD_NB_OLDEST_TORCH=1 asks for it."
import os
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(os.environ.get('DD_NB_OLDEST_TORCH') != '1', reason='downloads several GB: DD_NB_OLDEST_TORCH=1 runs it')
def test_oldest_torch(tree, new_env):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    oldest = dict(re.findall(r'\b(torch|torchvision)>=([\d.]+)', cfg['DEFAULT']['requirements']))
    env = new_env()
    env.pip('install', '-q', *(f'{name}=={version}.*' for name, version in oldest.items()), tree, 'pytest', 'hypothesis')
    assert env('-c', 'import torch; print(torch.__version__)').startswith(oldest['torch'])
    env('-c', 'import dd_nb.all')
    env('-m', 'pytest', '-q', tree/'tests', '--ignore', tree/'tests'/'test_package.py', cwd=tree, OMP_NUM_THREADS='1')
