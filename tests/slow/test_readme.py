"README's own lines: from a clone to a distilled folder of images, as someone new would type them."
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent.parent
MINUTES = 10   # what README's readers are promised, the installation included


def blocks(lang): return re.findall(rf'^```{lang}\n(.*?)^```', (root/'README.md').read_text(encoding='utf-8'), re.M | re.S)


@pytest.fixture
def images(tmp_path):
    "The embedded digits as a folder of colour pictures of 40 x 48 pixels, 60 a class."
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits
    d = load_digits()
    for c in range(10):
        (tmp_path/'my_images'/f'class {c}').mkdir(parents=True)
        for i, x in enumerate(d.images[d.target == c][:60]):
            Image.fromarray((x*15.9).astype(np.uint8)).convert('RGB').resize((40, 48)).save(tmp_path/'my_images'/f'class {c}'/f'{i}.png')
    return tmp_path/'my_images'


def test_readme(tree, images, tmp_path):
    shell = [b for b in blocks('sh') if b.strip() != 'make test']   # which is what runs this
    assert shell[0].startswith('git clone') and 'make demo' in shell[0] and 'dd_distill my_images' in shell[1] and len(shell) == 2
    clone = re.compile(r'git clone \S+')
    script = 'set -e\n' + clone.sub(f'cp -r "{tree}" dd_nb', shell[0]) + f'cp -r "{images}" my_images\n' + shell[1]   # the tree as it is here, in the place of a clone
    env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'PYTEST', 'VIRTUAL_ENV', 'MAKE', 'DD_NB'))}
    begun = time.monotonic()
    run = subprocess.run(['bash', '-c', script], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60*MINUTES)
    assert run.returncode == 0, run.stdout[-4000:]
    print(f'{time.monotonic() - begun:.0f} s')
    home = tmp_path/'dd_nb'
    for made in ('out/demo.png', 'out/demo.safetensors', 'my_set.safetensors', 'my_set.png', 'my_set.html'): assert (home/made).stat().st_size > 1000, made
    own = re.search(r'^  distilled +Score\(([\d.]+)%', run.stdout, re.M)
    assert own and float(own[1]) > 40, run.stdout[-2000:]   # ten classes: chance is 10

    python = '\n'.join(blocks('python'))
    said = subprocess.run([home/'.venv/bin/python', '-c', python + '\nprint(score.mean)'], cwd=home, env=env, text=True, capture_output=True, timeout=600)
    assert said.returncode == 0 and float(said.stdout.split()[-1]) > .5, said.stderr[-2000:]
    shutil.rmtree(home)   # several GB
