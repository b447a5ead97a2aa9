#!/bin/sh
# Extracts the rows of a day: stands for a query on a warehouse.
set -eu
echo "extracting the rows of the day"
sleep 1
echo "rows=1200" >> "$STEP_OUTPUT"
