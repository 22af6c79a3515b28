# Tab completion of `python -m src.train` in zsh: source this file in ~/.zshrc, or once in a shell.

_src_train() {
  setopt local_options extended_glob
  local line=${LBUFFER/#*[[:space:]]-m[[:space:]]##src.(train|verify_resume)[[:space:]]##/}
  if [[ $line != $LBUFFER ]]; then
    local -a replies=("${(@f)$($words[1] -m src.config.completion "$line" 2>/dev/null)}")
    local -a open=(${(M)replies:#*[=./]}) whole=(${replies:#*[=./]})
    compadd -S '' -a open
    compadd -a whole
  else
    ${_src_train_others:-_default}
  fi
}

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
# What completes other commands of Python's stays.
[[ $_comps[python] == _src_train ]] || _src_train_others=$_comps[python]
compdef _src_train python python3
