#!/bin/sh
# Registers the model that was trained: stands for a call to a model registry.
set -eu
model=$(sed -n 's/.*"model":"\([^"]*\)".*/\1/p')
echo "registering $model"
echo "registered=$model" >> "$STEP_OUTPUT"
