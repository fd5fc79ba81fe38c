"The static site: every notebook a page, every public name on one, no link that leads nowhere."
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
build_site = pytest.importorskip('build_site')
pytest.importorskip('latex2mathml', reason="latex2mathml is not installed (pip install 'dd_nb[dev]')")


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    run = subprocess.run([sys.executable, root/'tools'/'build_site.py', folder], capture_output=True, text=True)   # a process of its own: nbdev changes what it imports
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_every_notebook_has_a_page(site):
    assert {p.stem for p in site.glob('*.html')} == {p.stem for p in (root/'nbs').glob('*.ipynb')} | {'api'}
    text = (site/'12_kernel.html').read_text()
    assert '<math' in text and '$' not in re.sub(r'<(pre|code).*?</\1>|<script.*?</script>|data:image[^"]*', '', text, flags=re.S)   # formulas are formulas
    assert 'aria-current="page">12_kernel' in text and '<img' in text

@pytest.mark.slow
def test_every_public_name_is_there(site):
    import dd_nb.all
    text = (site/'api.html').read_text()
    from importlib import import_module
    for room in re.findall(r'^from \.(\w+) import \*', (root/'dd_nb'/'all.py').read_text() + (root/'dd_nb'/'bench.py').read_text(), re.M):
        for name in import_module(f'dd_nb.{room}').__all__: assert f'id="{room}.{name}"' in text, name
    assert html.escape('outer learning rate of the images, Adam', quote=False) in text   # a docment of `distill`
    assert 'Synthetic.real' in text and dd_nb.all.Synthetic

@pytest.mark.slow
def test_links_and_pictures(site, tmp_path):
    assert build_site.check(site) == []
    broken = tmp_path/'broken'
    shutil.copytree(site, broken)
    page = broken/'index.html'
    page.write_text(page.read_text().replace('href="00_data.html"', 'href="00_dat.html"', 1) + '<a href="#nowhere">x</a><img src="style.css">')
    wrong = build_site.check(broken)
    assert len(wrong) == 3 and any('00_dat.html leads nowhere' in w for w in wrong) and any('no such anchor' in w for w in wrong) and any('no text' in w for w in wrong)

def test_formulas_leave_code_alone():
    t = build_site.with_formulas('a $x^2$ and `$HOME` and\n```sh\necho $PATH $HOME\n```\n')
    assert '<math' in t and '`$HOME`' in t and 'echo $PATH $HOME' in t
