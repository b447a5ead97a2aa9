#!/bin/sh
# Cancels the job that a stopped training left behind; its name is in the checkpoint.
set -eu
job=$(cat "$STEP_CHECKPOINT")
echo "cancelling $job ($STEP_STOP_REASON)"
echo "$job" >> "$DEMO_DIRECTORY/cancelled"
