# Run a stage, as dvc.yaml does: sh stages/run.sh stages/NAME.py [ARGUMENT]
#
# By the Python that runs DVC, so that `.venv/bin/dvc repro` needs no activated environment: DVC is an ancestor of this
# process, and its command line names its Python. Where that cannot be read (not Linux), by the first on the PATH.
# The code is that of this folder, which in DVC's experiments may be a temporary copy of the project.
process=$PPID
python=
while [ "$process" -gt 1 ] && [ -r "/proc/$process/cmdline" ]; do
  name=$(tr '\0' '\n' <"/proc/$process/cmdline" | head -n 1)
  case ${name##*/} in
    python*)
      case $name in
        [!/]*/*) python=$(readlink "/proc/$process/cwd")/$name ;;
        *) python=$name ;;
      esac
      break
      ;;
  esac
  process=$(sed 's/.*) //' "/proc/$process/stat" | cut -d ' ' -f 2) # behind the name, which may hold anything: state, parent
done
: "${python:=python}"
PYTHONPATH=src
export PYTHONPATH
if ! "$python" -c 'import sys; from importlib.util import find_spec as find; sys.exit(not (find("click") and find("mlflow")))'; then
  echo "Error: $python lacks the project's packages: run \`source .venv/bin/activate\`, then the command again" >&2
  exit 1
fi
exec "$python" "$@"
