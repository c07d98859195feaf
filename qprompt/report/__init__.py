"""Tables, comparisons, figures and one HTML page from the metrics.json files of finished runs. No log is parsed."""
