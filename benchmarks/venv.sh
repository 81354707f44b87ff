# Sourced by scripts that take a FOLDER: an empty environment there, outside of this project's own.
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
python3 -m venv "$1"
