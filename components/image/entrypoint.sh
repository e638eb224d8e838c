#!/bin/sh
# Beam starts a worker with options alone; whatever else comes is a command, such as `tfslim slim` or a step of Kubeflow.
case "${1:-}" in
  --help | --version) exec tfslim "$@" ;;
  -*)
    # Beam writes a file with the job's options where it is started.
    [ -w . ] || cd "${TMPDIR:-/tmp}" || exit
    exec /opt/apache/beam/boot "$@"
    ;;
  *) exec "$@" ;;
esac
