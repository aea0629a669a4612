"""Telling what was found: HTML and Markdown reports, tables in four formats, terminal lines, charts."""
