"""The forms in which a report shows things: numbers, tables, figures, pictures, statements and their look."""
