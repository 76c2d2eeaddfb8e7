# shellcheck shell=bash
# Sourced by the launchers: commands that are shown before they run, or only shown.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "error: bash 4.4 or newer is needed" >&2; exit 1; }

dry_run=false # --dry-run sets it

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# The words as one line that a shell reads back as the same words.
quoted() {
  local word words=() quote="'\\''"
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then word="'${word//\'/"$quote"}'"; fi
    words+=("$word")
  done
  printf '%s\n' "${words[*]}"
}

# Runs the command after showing it on stderr; in a dry run shows it on stdout and runs nothing.
run() {
  if $dry_run; then
    quoted "$@"
  else
    say "+ $(quoted "$@")"
    "$@"
  fi
}

# A remark between the commands of a dry run.
remark() {
  if $dry_run; then printf '# %s\n' "$*"; fi
}

# need "$@": the option $1 has a value after it.
need() { (($# >= 2)) || fail "$1 needs a value"; }

# given --OPTION VALUE: the option was given.
given() { [[ -n $2 ]] || fail "$1 is missing; see --help"; }

# number --OPTION VALUE: the value is a whole number.
number() { [[ $2 =~ ^[0-9]+$ ]] || fail "$1 $2: a whole number is expected"; }

# A run of several machines keeps its state where all of them can read it.
check_program() {
  (($#)) || fail "the program is missing; it comes after --, as in -- python -m ddm_embed.main --config C --workdir W"
  [[ " $* " != *" ddm_embed.main "* || " $* " == *" --workdir"[\ =]* ]] ||
    fail "the program has no --workdir; all machines need one that they share, such as gs://BUCKET/PATH"
}

# The head of the calling script, down to the first line that is no comment.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
  exit 0
}
