"""Build the notebooks as a static site, without Quarto: `python tools/build_site.py [FOLDER]`, by default _site.

One page for each notebook, in the order of nbs/sidebar.yml, by nbconvert; formulas become MathML, so that a page asks the network for nothing;
and one page, api.html, with every public name and its docments, by nbdev. `check(folder)` says which links of the pages lead nowhere.
"""
import html
import inspect
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag

from render_readme import directive, root, settings

git = '{git_url}'.format(**settings['DEFAULT'])
in_code = re.compile(r'(^```.*?^```[^\n]*$|`[^`\n]+`)', re.M | re.S)
formula = re.compile(r'\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$', re.S)

style = '''
:root { color-scheme: light dark; --bg: #ffffff; --fg: #1c1e21; --soft: #5b6068; --line: #d9dce1; --code: #f5f6f8; --link: #0a58a8; --mark: #eaf2fb }
@media (prefers-color-scheme: dark) { :root { --bg: #16181c; --fg: #e3e5e8; --soft: #a2a8b1; --line: #363a41; --code: #202329; --link: #79b8ff; --mark: #1e2c3d } }
* { box-sizing: border-box } html { scroll-padding-top: 1rem }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.6 system-ui, sans-serif; display: grid; grid-template-columns: 15rem minmax(0, 1fr) }
nav { border-right: 1px solid var(--line); padding: 1.2rem 1rem; font-size: .9rem; position: sticky; top: 0; height: 100vh; overflow-y: auto }
nav b { display: block; margin-top: .9rem; color: var(--soft) } nav a { display: block; padding: .12rem .3rem; border-radius: 4px } nav a[aria-current] { background: var(--mark); font-weight: 600 }
main { max-width: 56rem; padding: 1.5rem 2rem 5rem; min-width: 0 }
a { color: var(--link); text-decoration: none } a:hover, a:focus-visible { text-decoration: underline } a.anchor-link { visibility: hidden } :is(h1,h2,h3,h4):hover > a.anchor-link { visibility: visible }
h1 { font-size: 2rem; line-height: 1.2 } blockquote { margin: 0 0 1.5rem; padding: .1rem 1rem; border-left: 4px solid var(--link); color: var(--soft) }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; overflow-x: auto; font-size: .82rem; line-height: 1.45 } code { font-family: ui-monospace, monospace } :not(pre) > code { background: var(--code); padding: .05em .3em; border-radius: 4px; font-size: .9em; overflow-wrap: anywhere }
.output pre { border-left: 3px solid var(--line); background: none } img { max-width: 100%; height: auto } .output img { background: #fff; border-radius: 4px }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem } th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top } math[display=block] { margin: 1rem 0; overflow-x: auto }
.skip { position: absolute; left: -999px } .skip:focus { left: 1rem; top: 1rem; background: var(--bg); padding: .5rem }
@media (max-width: 800px) { body { display: block } nav { position: static; height: auto; border-right: 0; border-bottom: 1px solid var(--line) } main { padding: 1rem } }
'''


def in_order():
    "Sections of the sidebar: (title or None, names of notebooks)."
    out, now = [(None, [])], None
    for line in (root/'nbs'/'sidebar.yml').read_text(encoding='utf-8').splitlines():
        if m := re.match(r'\s*- section: (.+)', line): out.append((m[1], [])); now = out[-1]
        elif m := re.match(r'\s*- (\S+)\.ipynb', line): (now or out[0])[1].append(m[1])
    return out


def with_formulas(text):
    "Markdown with its formulas as MathML; code is left alone."
    from latex2mathml.converter import convert
    parts = in_code.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = formula.sub(lambda m: convert(m[1], display='block').replace('\n', ' ') if m[1] else convert(m[2]).replace('\n', ' '), parts[i])
    return ''.join(parts)


def linked(page, headings=True):
    "Links to notebooks lead to their pages, and those to other files of the repository to where it is kept."
    def slug(a): return re.sub(r'[^a-z0-9_.-]', '', unquote(html.unescape(a)).lower())   # Jupyter's anchors and Quarto's differ: here they are one
    if headings: page = re.sub(r'(<h[1-6] id=")([^"]*)"', lambda m: f'{m[1]}{slug(m[2])}"', page)
    page = re.sub(r'(href="(?:nbs/)?[\w-]*(?:\.ipynb)?#)([^"]+)"', lambda m: f'{m[1]}{slug(m[2])}"', page)
    page = re.sub(r'(href=")\.\./([^"]+)"', lambda m: f'{m[1]}{git}/blob/main/{m[2]}"', page)
    return re.sub(r'(href=")(?:nbs/)?([\w-]+)\.ipynb(#[^"]*)?"', lambda m: f'{m[1]}{m[2]}.html{m[3] or ""}"', page)


def page(title, name, body, sections):
    "A whole page."
    def entry(n, t): return f'<a href="{n}.html"' + (' aria-current="page"' if n == name else '') + f'>{html.escape(t)}</a>'
    nav = ''.join((f'<b>{html.escape(s)}</b>' if s else '') + ''.join(entry(n, 'dd_nb' if n == 'index' else n) for n in names) for s, names in sections) + '<b>Reference</b>' + entry('api', 'every public name')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
            f'<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"></head><body><a class="skip" href="#content">to the content</a><nav aria-label="notebooks">{nav}</nav>'
            f'<main id="content">{body}<hr><p><a href="{git}">{git.removeprefix("https://")}</a></p></main></body></html>')


def notebook(path):
    "A notebook as HTML: hidden cells left out, pictures with a text for those who do not see them."
    import nbformat
    from nbconvert import HTMLExporter
    nb = nbformat.read(path, 4)
    nb.metadata.pop('widgets', None)
    cells, alts = [], []
    for c in nb.cells:
        flags = dict(directive.findall(c.source))
        if c.cell_type == 'markdown': c.source = with_formulas(c.source)
        else:
            if 'hide' in flags or flags.get('include') == 'false': continue
            c.source = directive.sub('', c.source)
            if flags.get('output') == 'false': c.outputs = []
            if flags.get('echo') == 'false': c.transient = dict(remove_source=True)
            for o in c.outputs:
                o.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
                if o.get('name') == 'stderr': o['text'] = ''
                if 'image/png' in o.get('data', {}): alts.append(flags.get('fig-alt') or 'Picture drawn by the code above; what it shows is said beside it.')
            c.outputs = [o for o in c.outputs if o.get('text') != '' and ('data' not in o or o['data'])]
        cells.append(c)
    nb.cells = cells
    body = HTMLExporter(template_name='basic', exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(nb)[0]
    body, alts = re.sub(r'<style.*?</style>', '', body, flags=re.S), iter(alts)
    body = re.sub(r'<img\b([^>]*)\balt="No description has been provided for this image"([^>]*)>', lambda m: f'<img{m[1]}alt="{html.escape(next(alts, "picture"))}"{m[2]}>', body)
    body = re.sub(r'<table.*?</table>', lambda m: f'<div class="table">{m[0]}</div>', body, flags=re.S)
    return re.sub(r'class="([^"]*\boutput_subarea\b[^"]*|[^"]*jp-OutputArea-output[^"]*)"', r'class="\1 output"', linked(body))


def described(o, md):
    "The docstring of a function or class, and its docments as a table; of a class its public methods, too."
    from nbdev.showdoc import DocmentTbl
    def table(f):
        try: return md(re.sub(r'(?<=\S)\|(?=\S)', '&#124;', DocmentTbl(f)._repr_markdown_() or ''))
        except (TypeError, ValueError, AttributeError): return ''   # an exception's constructor, say, which has none
    def doc(f): return f'<p>{html.escape(" ".join((inspect.getdoc(f) or "").split()))}</p>'
    out = doc(o) + table(o)
    if inspect.isclass(o):
        for k, f in vars(o).items():
            f = f.fget if isinstance(f, property) else getattr(o, k)   # a method of the class comes bound: patched ones, too
            if not k.startswith('_') and (inspect.isfunction(f) or inspect.ismethod(f)) and f.__doc__: out += f'<h4><code>{o.__name__}.{k}</code></h4>' + doc(f) + ('' if isinstance(vars(o)[k], property) else table(f))
    return out


def reference():
    "Every public name of every room, as nbdev documents it."
    import mistune
    md, out = mistune.create_markdown(plugins=['table'], escape=False), ['<h1>Every public name</h1><p>What <code>from dd_nb.all import *</code> gives, room by room, then <code>from dd_nb.bench import *</code>, and the commands: what each takes, in the words of its notebook.</p>']
    rooms = [m for name in ('all', 'bench') for m in re.findall(r'^from \.(\w+) import \*', (root/'dd_nb'/f'{name}.py').read_text(encoding='utf-8'), re.M)] + ['cli']
    pages = {m: p.stem for p in (root/'nbs').glob('[0-9]*.ipynb') for m in re.findall(r'#\| default_exp (\w+)', p.read_text(encoding='utf-8'))}
    modules = {room: import_module(f'dd_nb.{room}') for room in rooms}   # all of them first: later rooms give classes methods
    for room, m in modules.items():
        out.append(f'<h2 id="{room}">{room}</h2><p>{html.escape((m.__doc__ or "").strip())} <a href="{pages[room]}.html">{pages[room]}</a></p>')
        for name in m.__all__:
            o = getattr(m, name)
            out.append(f'<h3 id="{room}.{name}"><code>{name}</code></h3>' + (described(o, md) if inspect.isclass(o) or inspect.isfunction(o) else f'<pre>{html.escape(repr(o)[:400])}</pre>'))
    return re.sub(r'<table.*?</table>', lambda m: f'<div class="table">{m[0]}</div>', linked('\n'.join(out), headings=False), flags=re.S)


class _Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.pictures = [], set(), []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        for k in ('href', 'src'):
            if a.get(k): self.links.append(a[k])
        if tag == 'img': self.pictures.append(a.get('alt') or '')


def check(folder):
    "What is wrong with the pages of a folder, in sentences: links and anchors that lead nowhere, pictures without a text."
    pages = {p.name: _Links(p.read_text(encoding='utf-8')) for p in Path(folder).glob('*.html')}
    wrong = []
    for name, p in pages.items():
        for link in p.links:
            if re.match(r'[a-z]+:', link): continue
            to, anchor = urldefrag(link)
            target = pages.get(to or name)
            if target is None:
                if not (Path(folder)/unquote(to)).exists(): wrong.append(f'{name}: {link} leads nowhere')
            elif anchor and unquote(anchor) not in target.ids: wrong.append(f'{name}: {link} has no such anchor')
        wrong += [f'{name}: a picture has no text' for alt in p.pictures if not alt]
    return wrong


def build(folder=root/'_site'):
    "Write all pages; returns their paths."
    from pygments.formatters import HtmlFormatter
    folder, sections, out = Path(folder), in_order(), []
    folder.mkdir(parents=True, exist_ok=True)
    dark = HtmlFormatter(style='github-dark').get_style_defs('.highlight')
    (folder/'style.css').write_text(style + HtmlFormatter(style='default').get_style_defs('.highlight') + '\n.highlight { background: none }\n@media (prefers-color-scheme: dark) {\n' + dark + '\n.highlight { background: none } }\n', encoding='utf-8')
    for _, names in sections:
        for name in names:
            (folder/f'{name}.html').write_text(page('dd_nb' if name == 'index' else f'{name} - dd_nb', name, notebook(root/'nbs'/f'{name}.ipynb'), sections), encoding='utf-8')
            out.append(folder/f'{name}.html')
    (folder/'api.html').write_text(page('Every public name - dd_nb', 'api', reference(), sections), encoding='utf-8')
    for p in (root/'nbs'/'images').glob('*.[ps][nv]g'): (folder/'images').mkdir(exist_ok=True); shutil.copy(p, folder/'images')
    return [*out, folder/'api.html']


if __name__ == '__main__':
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else root/'_site'
    made, wrong = build(where), check(where)
    print('\n'.join(wrong) or f'{len(made)} pages in {where}')
    sys.exit(bool(wrong))
