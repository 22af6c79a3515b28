# Tab completion of `python -m src.train` in bash: source this file in ~/.bashrc, or once in a shell.

_src_train() {
  local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} prefix= word reply
  COMPREPLY=()
  if [[ $line =~ (.*[[:space:]]-m[[:space:]]+src\.(train|verify_resume)[[:space:]]+) ]]; then
    word=${line##*[[:space:]]}
    [[ -n $breaks ]] && prefix=${word%"${word##*[$breaks]}"} # readline replaces only what follows these
    while IFS= read -r reply; do
      [[ $reply == *[=./] ]] && compopt -o nospace
      reply=${reply#"$prefix"}
      COMPREPLY+=("${reply// /\\ }")
    done < <("$1" -m src.config.completion "${line#"${BASH_REMATCH[1]}"}" 2>/dev/null)
  elif [[ -n $_src_train_others ]]; then
    "$_src_train_others" "$@"
  else
    compopt -o default
  fi
}

# What completes other commands of Python's stays.
declare -F _completion_loader >/dev/null && _completion_loader python
[[ $(complete -p python 2>/dev/null) =~ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _src_train ]] &&
  _src_train_others=${BASH_REMATCH[1]}
complete -F _src_train python python3
