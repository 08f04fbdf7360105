"""What stands on the HTML pages, as plain figures, charts and drawings; `graphopt.report.html` joins them."""
