"""Run records as tables, figures and a page. A sub-folder imports from those behind it alone: commands > page > figures, tables >
statistics > records."""
