"""Render nbs/index.ipynb as README.md, and nbs/25_leaderboard.ipynb as LEADERBOARD.md: `python tools/render_readme.py` (no Quarto needed).

Hidden cells and `#|` lines are left out, pictures keep their alt text (`#| fig-alt:` for one that a cell has drawn),
and links are made to work from the repository's root.
"""
import base64
import json
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
on_the_web = '{git_url}/blob/{branch}/'.format(**settings['DEFAULT'])   # how the site's pages link to files outside nbs/
note = '<!-- Rendered from nbs/{} by `make readme`: edit the notebook, not this file. -->'
PAGES = {'README.md': root/'nbs'/'index.ipynb', 'LEADERBOARD.md': root/'nbs'/'25_leaderboard.ipynb'}
directive = re.compile(r'^#\s*\|\s*([\w-]+):?[ \t]*(.*)\n?', re.M)


def from_root(match):
    "A link of nbs/index.ipynb as seen from the repository's root."
    before, url, after = match.groups()
    if url.startswith(on_the_web): url = url[len(on_the_web):]
    elif not re.match(r'[a-z]+:|#|/', url): url = url[3:] if url.startswith('../') else f'nbs/{url}'
    return before + url + after


def relink(text):
    "Rewrite the links of Markdown `text`, and the `src` and `href` of its HTML; code is left alone."
    parts = re.split(r'(^```.*?^```$|`[^`\n]+`)', text, flags=re.M | re.S)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'(\]\()([^)\s]+)([^)]*\))', from_root, parts[i])
        parts[i] = re.sub(r'(\s(?:src|href)=")([^"]+)(")', from_root, parts[i])
    return ''.join(parts)


def fenced(text, lang=''): return f'```{lang}\n{text.strip()}\n```'


def output(out, name, alt, pictures):
    "One stored output as Markdown; a picture is put in `pictures` under a path that begins with `name`."
    data = {k: ''.join(v) for k, v in out.get('data', {}).items()}
    if 'image/png' in data:
        pictures[f'{name}.png'] = base64.b64decode(data['image/png'])
        return f'![{alt}]({name}.png)'
    if 'text/markdown' in data: return data['text/markdown']
    if 'text/plain' in data: return fenced(data['text/plain'])
    return fenced(''.join(out['text'])) if out.get('name') == 'stdout' else ''


def render(path=root/'nbs'/'index.ipynb'):
    "The text of README.md, and the pictures stored in the notebook `path` as {path beside the notebook: bytes}."
    parts, pictures = [note.format(path.name)], {}
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(source)
        if cell['cell_type'] != 'code': continue
        flags = dict(directive.findall(source))
        code = directive.sub('', source)
        if 'hide' in flags or flags.get('include') == 'false': continue
        if code.strip() and flags.get('echo') != 'false': parts.append(fenced(code, 'python'))
        if flags.get('output') == 'false': continue
        alt = flags.get('fig-alt', 'the picture that the cell above draws').strip('"\'')
        parts += [output(out, f"images/{path.stem}-{cell['id']}-{i}", alt, pictures) for i, out in enumerate(cell['outputs'])]
    lines = '\n\n'.join(p.strip() for p in parts if p.strip()).splitlines()
    return relink('\n'.join(line.rstrip() for line in lines)) + '\n', pictures


if __name__ == '__main__':
    for page, notebook in PAGES.items():
        text, pictures = render(notebook)
        for path, data in pictures.items():
            (root/'nbs'/path).parent.mkdir(exist_ok=True)
            (root/'nbs'/path).write_bytes(data)
        (root/page).write_text(text, encoding='utf-8')
