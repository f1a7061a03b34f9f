"""A report shows things as numbers, tables, figures, pictures and statements, in one look."""
