"""Temporary."""


def render(*, title, subtitle, tables, remarks, sections, settings, provenance):
    return "".join(s.title + s.html for s in sections)
