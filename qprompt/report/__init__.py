"""From the metrics.json files of finished runs to tables, comparisons, figures and one page. Reads no logs."""
