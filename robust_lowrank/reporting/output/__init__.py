"""The files of a report: page, Markdown, LaTeX, JSON, tables and figures."""
