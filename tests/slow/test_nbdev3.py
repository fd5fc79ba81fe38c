"nbdev 3 works on the same tree as nbdev 2: it exports the same code and runs the same notebooks."
import runpy


def test_nbdev3(tree, new_env):
    env = new_env().reuse_packages()
    env.pip('install', '-q', 'nbdev>=3')
    env.pip('install', '-q', '--no-deps', '-e', tree)   # 22_cli runs the commands

    def nbdev(name, *args): return env(env.python.parent/f'nbdev-{name}', *args, cwd=tree, OMP_NUM_THREADS='1', MPLBACKEND='agg')

    def contents():
        return {p.relative_to(tree): p.read_bytes() for folder in ('dd_nb', 'nbs') for p in (tree/folder).rglob('*')
                if p.is_file() and '__pycache__' not in p.parts}

    before = contents()
    index = tree/'dd_nb'/'_modidx.py'
    symbols = runpy.run_path(index)['d']['syms']
    nbdev('export')
    nbdev('clean')
    after = contents()
    changed = {str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert changed <= {'dd_nb/_modidx.py'}
    assert runpy.run_path(index)['d']['syms'] == symbols   # so only the settings differ

    assert 'Success' in nbdev('test', '--n-workers', '2', '--do-print')


def test_fastcore2(tree, new_env):
    "Users get the newest fastcore, developers the one that nbdev 2 asks for: the package works with both."
    env = new_env().reuse_packages()
    env.pip('install', '-q', 'fastcore>=2', '--no-deps', tree)
    assert int(env('-c', 'import fastcore; print(fastcore.__version__)').split('.')[0]) >= 2
    env('-m', 'pytest', '-q', 'tests', '--ignore', 'tests/test_package.py', '--ignore', 'tests/test_site.py', cwd=tree, OMP_NUM_THREADS='1')   # these two need nbdev 2, which needs fastcore 1
