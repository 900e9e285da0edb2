/** The completion of zsh. */
import { quoted } from './bash.ts'
import type { Lines } from './index.ts'

/** A script to be sourced, or to be a file `_block86` in `fpath`. */
export function zshScript({ verbs, img, options, values }: Lines): string {
  const words = (list: readonly string[]) => list.map(quoted).join(' ')
  const described = Object.entries(verbs).map(([name, summary]) => quoted(`${name}:${summary.replaceAll(':', '\\:')}`))
  const valueCases = values.map(
    ([place, option, list]) => `    (${place === '*' ? '*' : quoted(place)}:${option}) choices=(${words(list)}) ;;`,
  )
  const optionCases = Object.entries(options).map(
    ([place, list]) => `      (${quoted(place)}) choices=(${words(list)}) ;;`,
  )
  return `#compdef block86
# zsh completion of block86: block86 completion zsh > ~/.zfunc/_block86, with ~/.zfunc in fpath
_block86() {
  local place=$words[2] prev=$words[CURRENT-1]
  local -a choices verbs
  if (( CURRENT == 2 )); then
    verbs=(${described.join(' ')})
    _describe verb verbs
    compadd -- --help --version
    return
  fi
  if [[ $place == img ]]; then
    if (( CURRENT == 3 )); then
      compadd -- ${words([...img, '--help', '--version'])}
      return
    fi
    place="img $words[3]"
  fi
  if [[ $PREFIX == --*=* ]]; then
    prev=\${PREFIX%%=*}
    compset -P '*='
  fi
  case "$place:$prev" in
${valueCases.join('\n')}
  esac
  if (( ! $#choices )) && [[ $PREFIX == -* ]]; then
    case "$place" in
${optionCases.join('\n')}
    esac
  fi
  if (( $#choices )); then
    compadd -- $choices
  else
    _files
  fi
}
if [[ $funcstack[1] == _block86 ]]; then
  _block86 "$@"
else
  compdef _block86 block86
fi
`
}
