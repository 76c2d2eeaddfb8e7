"""What MkDocs is told beyond mkdocs.yml, so that the same files read well on GitHub and as a site.

README.md and launch/README.md lie outside of docs/ and become pages of the site. A link from a page to one of them, or
from them to a page, stays within the site; a link to another file of the repository leads to the file on GitHub.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "start.md", "launch/README.md": "launchers.md"}  # file of the repository: page of the site
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    source = next((file for file, name in PAGES.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def lead(link):
        before, target, anchor, after = link.groups()
        return before + place(source, target, config.repo_url) + (anchor or "") + after

    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in fences)


def place(source: str, target: str, repository: str) -> str:
    """Where a link of a file of the repository leads in the site."""
    if "://" in target:
        return target
    path = (ROOT / source).parent.joinpath(target).resolve().relative_to(ROOT)
    name = PurePosixPath(path).as_posix()
    if name in PAGES:
        return PAGES[name]
    if path.parts[0] == "docs":
        return name.removeprefix("docs/")
    return f"{repository}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{name}"
