"The package as a whole: metadata, notebooks, imports."
import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
notebooks = sorted((root/'nbs').glob('*.ipynb'))
rooms = sorted(p.stem for p in (root/'dd_nb').glob('*.py') if p.stem not in ('__init__', '_modidx', 'all', 'bench'))

# The one order of imports: a room imports only rooms that stand before it.
import_order = '''core rules tasks parametrise normalise data pictures readers rows sources objects augment networks synthetic starts format folders export files
    batchnorm layers structure penultimate guard speed train ordinary objective choice unrolling gradcheck ranks inits
    pools linear adaptation poisoning soft_labels text kernel gradient_matching frozen trajectory_matching distribution_matching
    families coresets evaluation relabel protocols ranking checkpoints distillation recipes zoo harness speed_bench contenders tables budgets probes review
    bench widgets automatic report shell distilling cli all'''.split()

bench_rooms = 'harness', 'speed_bench', 'contenders', 'tables', 'budgets', 'probes', 'review'   # out of the star: dd_nb.bench gathers them

# Cells that no test runs, as (notebook, first line of code). Only cells that install something or need a GPU may be among them.
skipped_cells = set()


def read(nb): return json.loads(nb.read_text(encoding='utf-8'))
def source(cell): return ''.join(cell['source'])
def code_cells(nb): return [c for c in read(nb)['cells'] if c['cell_type'] == 'code']
def outputs(nb): return [o for c in code_cells(nb) for o in c['outputs']]
def python(code): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root)
each_notebook = pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)


def directives(cell):
    "The `#|` lines of `cell` as {name: value}."
    return dict(re.findall(r'^#\s*\|\s*([\w-]+):?[ \t]*(.*)$', source(cell), flags=re.M))


def tracked_files():
    "The files that git tracks, or would: all but the ignored ones."
    run = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=root, capture_output=True, text=True)
    if run.returncode: pytest.skip('not a git checkout')
    return [p for p in (root/name for name in run.stdout.split('\0') if name) if p.is_file()]


# --- metadata

def test_version_is_one():
    import dd_nb
    assert dd_nb.__version__ == settings['version']
    assert re.search(r'^version: (.*)$', (root/'CITATION.cff').read_text(), re.M)[1] == settings['version']
    assert f"[{settings['version']}]" in (root/'CHANGELOG.md').read_text()


def test_installed_metadata_is_that_of_settings():
    from importlib.metadata import distribution
    dist = distribution('dd_nb')
    assert dist.version == settings['version']
    commands = {f'{e.name}={e.value}' for e in dist.entry_points if e.group == 'console_scripts'}
    assert commands == set(settings['console_scripts'].split())
    assert {'nbdev'} <= {e.group for e in dist.entry_points}
    assert {re.match(r'[\w-]+', r)[0] for r in dist.requires if 'extra ==' not in r} == declared()


def test_setup_needs_only_setuptools():
    tree = ast.parse((root/'setup.py').read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names == {'configparser', 'pathlib', 'setuptools'}


def declared(): return {re.match(r'[\w-]+', r)[0] for r in settings['requirements'].split()}


def test_every_import_is_declared():
    other_names = {'sklearn': 'scikit-learn', 'PIL': 'pillow', 'IPython': 'ipywidgets'}   # ipywidgets brings IPython
    imported = {}
    for room in rooms:
        for node in ast.walk(ast.parse((root/'dd_nb'/f'{room}.py').read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import): names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level: names = [node.module]
            else: continue
            imported.update({n.split('.')[0]: room for n in names})
    third_party = {n: r for n, r in imported.items() if n not in sys.stdlib_module_names and n != 'dd_nb'}
    missing = {n: r for n, r in third_party.items() if other_names.get(n, n) not in declared()}
    assert not missing, f'imported, but not in the requirements of settings.ini: {missing}'


def test_no_machine_paths():
    here = re.compile(r'(?<![\w.:/~-])/(?:root|work|tmp|home|Users)/\w')
    found = []
    for path in tracked_files():
        if path.suffix == '.ipynb':
            nb = read(path)
            for out in (o for c in nb['cells'] for o in c.get('outputs', [])):
                for kind in [k for k in out.get('data', {}) if k.startswith('image/')]: del out['data'][kind]
            text = json.dumps(nb)
        else:
            try: text = path.read_text(encoding='utf-8')
            except UnicodeDecodeError: continue
        found += [f'{path.relative_to(root)}: {m[0]}' for m in here.finditer(text)]
    assert not found


# --- imports

def test_all_has_every_room():
    import dd_nb.all as everything
    tree = ast.parse((root/'dd_nb'/'all.py').read_text())
    starred = [n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.level == 1 and n.names[0].name == '*']
    assert set(starred) == {r for r in rooms if r not in ('shell', 'distilling', 'cli', 'demo', *bench_rooms)}
    assert starred == sorted(starred, key=import_order.index)
    owner = {}
    for room in starred:
        module = __import__(f'dd_nb.{room}', fromlist=['_'])
        for name in module.__all__:
            assert name not in owner, f'{name} is exported by {owner.get(name)} and by {room}'
            assert getattr(everything, name) is getattr(module, name)
            owner[name] = room


def test_bench_has_every_benchmark():
    import dd_nb.all as everything
    from dd_nb import bench
    for room in bench_rooms:
        module = __import__(f'dd_nb.{room}', fromlist=['_'])
        assert module.__all__ and all(getattr(bench, name) is getattr(module, name) for name in module.__all__)
        assert not [name for name in module.__all__ if getattr(everything, name, None) is getattr(module, name)], 'out of the star'
    assert all(callable(f) for pair in bench.BENCHES.values() for f in pair)


@pytest.mark.parametrize('room', [*rooms, 'bench'])
def test_rooms_import_one_way(room):
    assert room in import_order, f'{room} has no place in the order of imports'
    for node in ast.parse((root/'dd_nb'/f'{room}.py').read_text(encoding='utf-8')).body:
        if not isinstance(node, ast.ImportFrom): continue
        if node.level == 1: names = [node.module] if node.module else [a.name for a in node.names]
        elif node.module and node.module.startswith('dd_nb.'): names = [node.module[6:]]
        else: continue
        for name in set(names) & set(import_order): assert import_order.index(name) < import_order.index(room), f'{room} imports {name}'


def test_nothing_heavy_at_import():
    heavy = 'matplotlib sklearn ipywidgets pandas scipy IPython'.split()
    run = python(f'import sys, torch, torchvision; before = set(sys.modules); import dd_nb.all; '
                 f'print([m for m in {heavy} if m in sys.modules and m not in before])')
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == '[]'


def test_commands_exist():
    for entry in settings['console_scripts'].split():
        name, module, function = re.fullmatch(r'(\w+)=([\w.]+):(\w+)', entry).groups()
        assert name == function and callable(getattr(__import__(module, fromlist=['_']), function))


# --- notebooks

@each_notebook
def test_title_and_subtitle(nb):
    first = read(nb)['cells'][0]
    lines = [line for line in source(first).splitlines() if line.strip()]
    assert first['cell_type'] == 'markdown' and lines[0].startswith('# ')
    assert [i for i, line in enumerate(lines) if line.startswith('>')] == [1], 'one line of subtitle, under the title'
    assert lines[1].startswith('> ') and '\\' not in lines[1]   # it becomes the docstring of the module


@each_notebook
def test_outputs_are_stored(nb):
    kinds = {k for o in outputs(nb) for k in o.get('data', {})}
    if nb.stem != 'index': assert 'image/png' in kinds, 'no picture stored'
    assert not [o for o in outputs(nb) if o['output_type'] == 'error']
    texts = [''.join(o.get('text', '')) for o in outputs(nb)]
    assert not [t for t in texts if 'Warning' in t or 'Traceback' in t]


def test_skipped_cells_are_listed():
    flags = {*settings['tst_flags'].split(), 'eval'}
    found = set()
    for nb in notebooks:
        front = source(read(nb)['cells'][0])
        assert not re.search(r'skip_exec:\s*true', front), f'{nb.name} is not run at all'
        for cell in code_cells(nb):
            d = directives(cell)
            if d.get('eval', '').strip() in ('', 'true') and not (flags - {'eval'}) & set(d): continue
            code = [line for line in source(cell).splitlines() if line.strip() and not re.match(r'#\s*\|', line)]
            found.add((nb.stem, code[0]))
    assert found == skipped_cells


def test_every_notebook_is_listed():
    names = [nb.name for nb in notebooks if nb.stem != 'index']
    sidebar = re.findall(r'^\s*- (\S+\.ipynb)$', (root/'nbs'/'sidebar.yml').read_text(), re.M)
    assert sidebar == ['index.ipynb', *names]
    index = '\n'.join(source(c) for c in read(root/'nbs'/'index.ipynb')['cells'])
    plan = re.findall(r'^\|.*?\]\((\d\d[a-z]?_\w+\.ipynb)\)', index, re.M)
    book = [n for n in names if re.match(r'\d\d_', n)]
    assert plan == [*book, *(n for n in names if n not in book)], 'the book first, then the cellar'
    for table in re.findall(r'(?:^\|.*\n?)+', index, re.M):   # else it is shown as text
        assert len({row.count('|') for row in table.strip().splitlines()}) == 1, table[:200]


def test_links_lead_somewhere():
    broken = []
    for path in [*notebooks, root/'README.md', root/'CONTRIBUTING.md', root/'CHANGELOG.md']:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.ipynb': text = '\n'.join(source(c) for c in read(path)['cells'] if c['cell_type'] == 'markdown')
        text = re.sub(r'^```.*?^```$|`[^`\n]+`|\$[^$]*\$', '', text, flags=re.M | re.S)
        urls = re.findall(r'\]\(([^)\s]+)[^)]*\)|\ssrc="([^"]+)"', text)
        for url in (a or b for a, b in urls):
            if re.match(r'[a-z]+:|#', url): continue
            if not (path.parent/url.split('#')[0]).exists(): broken.append(f'{path.name}: {url}')
    assert not broken


@each_notebook
def test_lines_of_exported_cells_can_be_read(nb):
    "At most 110 columns: the rendered pages cut off what is longer."
    found = [line for c in code_cells(nb) if {'export', 'exports'} & set(directives(c)) for line in source(c).splitlines() if len(line) > 110]
    assert not found


def test_a_sentence_of_prose_does_not_start_the_slow_suite_anew(tmp_path, monkeypatch):
    import stamp
    for name in ('nbs/a.ipynb', 'README.md', 'tools/x.py'): (tmp_path/name).parent.mkdir(exist_ok=True)
    def write(prose='a', code='1', readme='x', lines='ls'):
        cells = [dict(cell_type='markdown', source=[prose]), dict(cell_type='code', source=[code], outputs=[prose])]
        (tmp_path/'nbs/a.ipynb').write_text(json.dumps(dict(cells=cells)))
        (tmp_path/'README.md').write_text(f'{readme}\n```sh\n{lines}\n```\n')
        (tmp_path/'tools/x.py').write_text('')
        return stamp.digest()
    monkeypatch.setattr(stamp, 'root', tmp_path)
    first = write()
    assert write(prose='b', readme='y') == first
    assert first not in (write(code='2'), write(lines='pwd'))


# --- the house

@pytest.mark.parametrize('room', [*rooms, 'bench', 'all'])
def test_rooms_import_public_names_only(room):
    "A private name that another room needs is a missing public name, or stands in the wrong room."
    for node in ast.walk(ast.parse((root/'dd_nb'/f'{room}.py').read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom) or not (node.level == 1 or (node.module or '').startswith('dd_nb')): continue
        assert not [a.name for a in node.names if a.name.startswith('_') and a.name != '__version__'], f'{room} from {node.module}'


def test_the_star_brings_what_users_type():
    "At most 200 names, and none of them is a function here and a module there."
    import dd_nb.all as everything
    tree = ast.parse((root/'dd_nb'/'all.py').read_text())
    names = {n for room in (n.module for n in tree.body if isinstance(n, ast.ImportFrom))
             for n in __import__(f'dd_nb.{room}', fromlist=['_']).__all__}
    assert len(names) <= 200 and all(hasattr(everything, n) for n in names)
    assert not names & {p.stem for p in (root/'dd_nb').glob('*.py')}


# Export cells of over forty lines, by notebook and the first name that they define, and why.
long_cells = {('03_single_step', 'distill'), ('22d_distilling', 'dd_distill')}   # arguments by the dozen, each with a line


def export_cells(nb):
    "Lines of code of each exported cell, without blank ones and directives, and the first name that it defines."
    for cell in code_cells(nb):
        if not {'export', 'exporti'} & set(directives(cell)): continue
        lines = [l for l in source(cell).splitlines() if l.strip() and not re.match(r'#\s*\|', l)]
        first = re.search(r'^(?:def|class) (\w+)', source(cell), re.M)
        yield len(lines), first[1] if first else lines[0]


def test_export_cells_are_short():
    from statistics import median
    cells = {nb.stem: list(export_cells(nb)) for nb in notebooks}
    assert median(n for found in cells.values() for n, _ in found) <= 20
    assert {(nb, name) for nb, found in cells.items() for n, name in found if n > 40} <= long_cells
