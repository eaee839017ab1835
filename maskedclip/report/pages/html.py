"""HTML by jinja2: everything that comes from a file is escaped, and nothing is fetched."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from maskedclip.metrics.results import written
from maskedclip.report.pages.tables import METRIC_NAMES, TABLED, percent, tabled


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("maskedclip.report.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.globals |= {"METRIC_NAMES": METRIC_NAMES, "TABLED": TABLED}
    environment.globals |= {"tabled": tabled, "written": written}
    return environment


def render(template: str, **content: object) -> str:
    """Return a whole document, which needs nothing beside it but the targets of its links."""
    return _environment().get_template(f"{template}.html.jinja").render(content) + "\n"


def source_of(name: str) -> str:
    """Return a file of the templates as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
