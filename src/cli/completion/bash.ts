/** The completion of bash. */
import type { Lines } from './index.ts'

/** A word of a shell script that stands for itself. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

/** A script to be sourced. */
export function bashScript({ verbs, img, options, values }: Lines): string {
  const words = (list: readonly string[]) => quoted(list.join(' '))
  const valueCases = values.map(
    ([place, option, list]) => `    ${place === '*' ? '*' : quoted(place)}:${option}) choices=${words(list)} ;;`,
  )
  const optionCases = Object.entries(options).map(([place, list]) => `    ${quoted(place)}) choices=${words(list)} ;;`)
  return `# bash completion of block86: source <(block86 completion bash)
_block86() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} place=\${COMP_WORDS[1]} choices=
  COMPREPLY=()
  # --option=value comes as three words
  if [[ $cur == = ]]; then
    cur=
  elif [[ $prev == = ]]; then
    prev=\${COMP_WORDS[COMP_CWORD-2]}
  fi
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W ${words([...Object.keys(verbs), '--help', '--version'])} -- "$cur"))
    return
  fi
  if [[ $place == img ]]; then
    if ((COMP_CWORD == 2)); then
      COMPREPLY=($(compgen -W ${words([...img, '--help', '--version'])} -- "$cur"))
      return
    fi
    place="img \${COMP_WORDS[2]}"
  fi
  case "$place:$prev" in
${valueCases.join('\n')}
  esac
  if [[ -z $choices && $cur == -* ]]; then
    case "$place" in
${optionCases.join('\n')}
    esac
  fi
  if [[ -n $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
  else
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -F _block86 block86
`
}
