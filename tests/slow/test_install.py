"The package as a user gets it: a wheel, `pip install .`, and how long the import takes."
import tarfile
import zipfile
from statistics import median

EXAMPLE = '''
import dd_nb, sys
assert dd_nb.__file__.startswith(sys.prefix), dd_nb.__file__
from dd_nb.all import *
syn = load_zoo('mnist-fixed-10')
assert syn.images.shape[1:] == (10, 1, 28, 28), syn.images.shape
assert syn.lrs.gt(0).all()
print('loaded')
'''


def test_wheel_in_an_empty_environment(tree, new_env):
    env = new_env()
    env.pip('install', '-q', 'build')
    env('-m', 'build', '-q', '--outdir', tree/'dist', tree)   # the sdist, and the wheel from the sdist, with the newest setuptools
    (wheel,), (sdist,) = (tree/'dist').glob('*.whl'), (tree/'dist').glob('*.tar.gz')
    names = zipfile.ZipFile(wheel).namelist()
    assert {'dd_nb/py.typed', 'dd_nb/all.py', 'dd_nb/_modidx.py'} <= set(names)
    assert [n for n in names if n.startswith('dd_nb/zoo_data/mnist-fixed-10')]
    assert {n.split('/')[0].split('-')[0] for n in names} == {'dd_nb'}, 'the wheel holds more than the package'
    assert sum(i.compress_size for i in zipfile.ZipFile(wheel).infolist() if 'zoo_data/' in i.filename) < 15e6, 'the zoo has grown too large for the wheel'
    inside = {n.split('/', 1)[1] for n in tarfile.open(sdist).getnames() if '/' in n}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= inside

    env = new_env()
    env.pip('install', '-q', '--no-deps', wheel)
    env.reuse_packages()
    assert 'No broken requirements' in env.pip('check')
    assert 'loaded' in env('-c', EXAMPLE)
    for command in 'dd_distill', 'dd_evaluate', 'dd_show', 'dd_export', 'dd_reproduce', 'dd_bench':
        assert command in env(env.python.parent/command, '--help')


def test_pip_install_from_a_clone(tree, new_env):
    env = new_env().reuse_packages()
    log = env.pip('install', tree)
    assert 'Successfully installed dd_nb' in log.replace('-', '_') and 'torch' not in log.split('Successfully installed')[1]
    assert 'loaded' in env('-c', EXAMPLE)


def test_editable_install_for_developers(tree, new_env):
    env = new_env().reuse_packages()
    env.pip('install', '-q', '-e', f'{tree}[dev]')
    where = env('-c', 'import dd_nb.all; print(dd_nb.__file__)').strip()
    assert where == str(tree/'dd_nb'/'__init__.py')


def test_import_time(tree, new_env):
    "Medians of 5, the two taking turns, so that a busy moment of the machine weighs on both."
    env = new_env()
    env.pip('install', '-q', '--no-deps', tree)
    env.reuse_packages()

    def seconds(names): return float(env('-c', f'from time import perf_counter as t; s = t(); import {names}; print(t() - s)'))
    seconds('dd_nb.all')   # once for the .pyc files
    pairs = [(seconds('torch, torchvision'), seconds('dd_nb.all')) for _ in range(5)]
    base, ours = (median(times) for times in zip(*pairs))
    assert ours <= base + .3, f'import torch, torchvision: {base:.2f} s; import dd_nb.all: {ours:.2f} s'
