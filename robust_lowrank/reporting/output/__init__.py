"""A report is a page, Markdown, LaTeX, JSON, tables and figures."""
