#!/bin/sh
# Trains on the rows that the step before extracted: stands for a job on a cluster, which a stop has to cancel.
set -eu
step=$(cat)
rows=$(printf '%s' "$step" | sed -n 's/.*"rows":"\{0,1\}\([0-9]*\).*/\1/p')
seconds=$(printf '%s' "$step" | sed -n 's/.*"seconds":"\{0,1\}\([0-9]*\).*/\1/p')
echo "job-of-$STEP_TOKEN" > "$STEP_CHECKPOINT"
echo "training on $rows rows, as job-of-$STEP_TOKEN"
left=$seconds
while [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
    echo "still training"
done
printf '{"model": "s3://models/demo-%s", "accuracy": 0.92}' "$rows" > "$STEP_OUTPUT"
