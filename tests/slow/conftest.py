"Environments of their own for the slow checks. They reuse the torch that is installed here, through a .pth file."
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent.parent
left_out = '.git', '.venv', '.*_cache', '.hypothesis', '__pycache__', '*.egg-info', 'build', 'dist', 'out', 'runs', '_docs', '_site', '_proc'


class Env:
    "A virtual environment in `folder`."
    def __init__(self, folder):
        self.folder = folder
        venv.create(folder, with_pip=True)
        self.python = folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
        self.pip('uninstall', '-y', '-q', 'setuptools')   # venv puts an old one there before Python 3.12

    def reuse_packages(self):
        "Let the environment see, after its own packages, those of the one that runs the tests; return self."
        paths = {sysconfig.get_path(k) for k in ('purelib', 'platlib')} | {p for p in sys.path if p.endswith('site-packages')}
        site = self('-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
        Path(site, 'reused.pth').write_text('\n'.join(sorted(paths)) + '\n')   # path lines only: no editable install comes along
        return self

    def __call__(self, *args, cwd=None, **env):
        "Run this environment's Python with `args`, away from the repository; return what it prints, or fail with it."
        environ = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'PYTEST'))} | env
        run = subprocess.run([str(self.python), *map(str, args)], cwd=cwd or self.folder, env=environ, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert run.returncode == 0, f'{args}:\n{run.stdout[-6000:]}'
        return run.stdout

    def pip(self, *args, **kw): return self('-m', 'pip', '--disable-pip-version-check', *args, **kw)


@pytest.fixture
def new_env(tmp_path_factory): return lambda: Env(tmp_path_factory.mktemp('env'))


@pytest.fixture
def tree(tmp_path_factory):
    "A copy of the repository as it is on disk: what is built or exported there leaves the tree alone."
    dest = tmp_path_factory.mktemp('copy')/'dd_nb'
    shutil.copytree(root, dest, ignore=shutil.ignore_patterns(*left_out))
    return dest
