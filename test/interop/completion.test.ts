/** Completion, by shells on a terminal in which keys are typed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, test } from 'vitest'
import { bashScript } from '../../src/cli/completion/bash.ts'
import { completions } from '../../src/cli/completion/index.ts'
import { zshScript } from '../../src/cli/completion/zsh.ts'
import { lacks, temporaryFolder } from '../tools.ts'

let folder: ReturnType<typeof temporaryFolder>
let shell: ChildProcess | undefined
beforeEach(() => {
  folder = temporaryFolder()
  writeFileSync(folder.file('disk one.qcow2'), '')
  mkdirSync(folder.file('images'))
})
afterEach(() => {
  shell?.kill('SIGKILL')
  folder.remove()
})

/** Starts a shell on a terminal of its own; gives what types keys and waits for text. */
async function terminal(command: string): Promise<(keys: string, expected: string) => Promise<void>> {
  shell = spawn('script', ['-qec', command, '/dev/null'], {
    cwd: folder.path,
    env: { ...process.env, TERM: 'dumb', HOME: folder.path, HISTFILE: '' },
  })
  let text = ''
  shell.stdout!.on('data', (piece: Buffer) => {
    text += piece.toString()
  })
  const comes = async (expected: string) => {
    const until = Date.now() + 20_000
    while (!text.includes(expected)) {
      if (Date.now() > until) throw new Error(`no '${expected}' in:\n${text}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    text = text.slice(text.indexOf(expected) + expected.length)
  }
  return async (keys, expected) => {
    shell!.stdin!.write(keys)
    await comes(expected)
  }
}

/** Keys, and what the command then gets. */
const CASES = [
  ['block86 comp\tba\t', '<completion><bash>'],
  ['block86 img crea\t', '<img><create>'],
  ['block86 img snaps\t', '<img><snapshot>'],
  ['block86 img create -f qcow2 --obj\t', '<img><create><-f><qcow2><--object>'],
  ['block86 img info --output js\t', '<img><info><--output><json>'],
  ['block86 io -t writet\t', '<io><-t><writethrough>'],
  ['block86 io -c aio_f\t', '<io><-c><aio_flush>'],
  ['block86 nbd --detect-zeroes=un\t', '<nbd><--detect-zeroes=unmap>'],
  ['block86 nbd --persis\t', '<nbd><--persistent>'],
  ['block86 nbd -k /s disk\t', '<nbd><-k></s><disk one.qcow2>'],
  ['block86 run -kern\t', '<run><-kernel>'],
  ['block86 img info ima\t', '<img><info><images'],
] as const

/** What the shell runs in place of the tool. */
const STAND_IN = `block86() { printf 'gets '; printf '<%s>' "$@"; echo; }`

async function completes(type: (keys: string, expected: string) => Promise<void>): Promise<void> {
  for (const [keys, words] of CASES) await type(`${keys}\n`, `gets ${words}`)
}

describe.skipIf(lacks('script', 'bash'))('bash', () => {
  test('completes verbs, commands, options, their values and file names', async () => {
    writeFileSync(folder.file('block86.bash'), bashScript(await completions()))
    const type = await terminal('bash --norc --noprofile -i')
    await type(`. ./block86.bash; ${STAND_IN}; echo $((6*7)) is it\n`, '42 is it')
    await completes(type)
    await type('block86 \t\t', 'completion')
    await type('\x15echo $((6*8)) is it\n', '48 is it')
    await type('block86 img co\t\t', 'compare')
  })
})

describe.skipIf(lacks('script', 'zsh'))('zsh', () => {
  test.each([
    'fpath=(./functions $fpath); autoload -U compinit; compinit -u -D',
    'autoload -U compinit; compinit -u -D; . ./block86.zsh',
  ])('completes verbs, commands, options, their values and file names: %s', async (load) => {
    mkdirSync(folder.file('functions'))
    writeFileSync(folder.file('functions/_block86'), zshScript(await completions()))
    writeFileSync(folder.file('block86.zsh'), zshScript(await completions()))
    const type = await terminal('zsh -f -i')
    await type(`${load}; ${STAND_IN}; echo $((6*7)) is it\n`, '42 is it')
    await completes(type)
    await type('block86 \t', 'serve an image over NBD')
  })
})
