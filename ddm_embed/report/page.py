"""A probe's results as one page, report.html, that needs no network and no other file."""

from html import escape
from pathlib import Path

from ddm_embed.probe.atlas import Atlas
from ddm_embed.report import document, tables
from ddm_embed.report.sections import SECTIONS, Given
from ddm_embed.report.tables import percent, value
from ddm_embed.results import Results, baseline_of, main_protocol
from ddm_embed.runs.outcome import ProbeFolder


def write_page(results: Results, atlas: Atlas | None, samples: dict[str, bytes], folder: Path) -> Path:
    """Writes report.html into the folder, W/probe/NAME, and returns its path.

    Args:
      results: what results.json holds. Parts that are null or missing are left out of the page.
      atlas: what `probe.atlas` describes, or None.
      samples: PNG files to show, by name.
    """
    return ProbeFolder(folder).write_report(page(results, atlas or {}, samples, folder))


def page(results: Results, atlas: Atlas, samples: dict[str, bytes], folder: Path) -> str:
    """The page as HTML."""
    given = Given(results, atlas, samples, folder)
    kept = {name: html for name, section in SECTIONS.items() if (html := section.html(name, given))}
    links = "".join(f'<a href="#{name}">{SECTIONS[name].title}</a>' for name in kept)
    rows: dict[str, str] = {}  # those that stand beside one another, under the first one's name
    for name, html in kept.items():
        first = SECTIONS[name].beside or name
        rows[first] = rows.get(first, "") + html
    wide = {section.beside for section in SECTIONS.values()}
    content = "".join(f'<div class="beside">{row}</div>' if name in wide else row for name, row in rows.items())
    body = f'{headline(results)}<nav aria-label="Sections">{links}</nav><main>{content}</main>'
    return document.document(f"{results['manifest']['run']}: {results['dataset']}", body)


def headline(results: Results) -> str:
    """What was measured, the accuracy, what was chosen, the pixels, and what there is to be warned of."""
    chosen = results.get("selected") or {}
    cards = []
    if results.get("test_accuracy") is not None:
        draws = (results.get("protocol") or {}).get("noise_draws")
        told_of = [escape(main_protocol(results) or "")]
        if results.get("test_accuracy_std") is not None and draws:
            told_of.append(f"&plusmn; {100 * results['test_accuracy_std']:.2f} over {draws} draws of the noise")
        cards.append(("Test accuracy", percent(results["test_accuracy"]), ", ".join(filter(None, told_of))))
    if chosen:
        t = "no noise level" if chosen.get("t") is None else f"t = {chosen['t']:g}"
        settled = f", {_hyper(results)} {value(chosen['hyper'])}" if chosen.get("hyper") is not None else ""
        cards.append(("Chosen", escape(chosen["feature"]), f"{t}{settled}, on held-out training images"))
    pixels = baseline_of(results, main_protocol(results))
    if pixels and results.get("test_accuracy") is not None:
        gain = 100 * (results["test_accuracy"] - pixels.accuracy)
        cards.append(
            (f"From {tables.raw(results)}", percent(pixels.accuracy), f"the same head; features {gain:+.2f} points")
        )
    cards.append(
        ("Checkpoint", f"step {results['checkpoint_step']:,}".replace(",", "&thinsp;"), escape(_seeds(results)))
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{big}<small>{small}</small></dd></div>" for name, big, small in cards)
    memory = (results.get("measures") or {}).get("memorisation") or {}
    warnings = list(results.get("warnings") or [])
    if memory.get("falls_steadily"):
        warnings.append(
            f"the profile of {memory.get('feature')} falls steadily from t={memory.get('peak_t')}: the network may "
            "have memorised its training images"
        )
    if not results.get("protocols"):
        warnings.append("the dataset has no labels: what follows is measured without them")
    notes = "".join(f'<p class="warning">{escape(line)}</p>' for line in warnings)
    name = f"{escape(results['manifest']['run'])} <small>probe {escape(results['name'])}</small>"
    kind = f"What the embeddings of {escape(results['dataset'])} are worth"
    return f'<header><p class="kind">{kind}</p><h1>{name}</h1><dl class="facts">{shown}</dl>{notes}</header>'


def _hyper(results: Results) -> str:
    main = next(iter((results.get("protocols") or {}).values()), {})
    return escape(main.get("hyper") or "setting")


def _seeds(results: Results) -> str:
    return "seeds: " + ", ".join(f"{name} {seed}" for name, seed in (results.get("seeds") or {}).items())
