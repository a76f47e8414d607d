"""Run records as tables, figures and a page. A sub-package imports only from those to its right: commands > page > figures,
tables > statistics > records."""
