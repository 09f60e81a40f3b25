"""The site has the folders of the repository, so that the same links work in both.

MkDocs takes one folder of pages, and its pages may not link out of it. Here its files
are those of the repository instead: every page, and whatever a page links to. A linked
file of Python becomes a page that shows it.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "scores/README.md")
CELL = re.compile(r"<td.*?</td>")
SHORT_CODE = re.compile(r"<code>(?=[^<]{1,24}</code>)")
LINK = re.compile(r"(?<=\]\()(?!https:|mailto:)([^)#\s]+)(?=[)#])")


def on_files(files, config):
    """Put the files of the repository in place of those of docs/."""
    found = Files([x for x in files if x.src_dir != config.docs_dir])  # The theme's.
    pages = [*PAGES, *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
    for name in pages:
        path = ROOT / name
        found.append(_file(config, name, path))
        for link in LINK.findall(path.read_text("utf-8")):
            target = (path.parent / link).resolve()
            uri = target.relative_to(ROOT).as_posix()
            if found.get_file_from_path(uri) or not target.is_file():
                continue  # What is no file is a broken link, as MkDocs says itself.
            if target.suffix == ".py":
                text = f"# {uri}\n\n```python\n{target.read_text('utf-8')}```\n"
                page = File.generated(config, f"{uri}.md", content=text)
                page.inclusion = page.inclusion.NOT_IN_NAV
                found.append(page)
            elif target.suffix != ".md":
                found.append(_file(config, uri, target))
    found.append(_file(config, "docs/api.md", ROOT / "docs/site/api.md"))
    style = "docs/site/extra.css"
    found.append(_file(config, style, ROOT / style))
    return found


def on_page_markdown(markdown, page, config, files):
    """Lead links to files of Python to the pages that show them."""
    return LINK.sub(lambda m: m[0] + ".md" * m[0].endswith(".py"), markdown)


def on_page_content(html, page, config, files):
    """Keep short code, such as flags, on one line; undo GitHub's bars in tables."""
    html = CELL.sub(lambda m: m[0].replace(r"\|", "|"), html)
    return SHORT_CODE.sub('<code class="whole">', html)


def _file(config, uri, path):
    return File.generated(config, uri, abs_src_path=str(path))
