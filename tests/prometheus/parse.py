"""Reads an OpenMetrics exposition from stdin with Prometheus' own parser, and prints it as JSON: name -> [[labels, value], ...]."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        samples.setdefault(sample.name, []).append([sample.labels, float(sample.value)])
json.dump(samples, sys.stdout)
