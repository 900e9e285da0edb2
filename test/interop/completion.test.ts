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
    env: { ...process.env, TERM: 'dumb', PS1: 'ready$ ', HOME: folder.path, HISTFILE: '' },
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

/** Keys, and what the line is then; each line is thrown away afterwards. */
const CASES = [
  ['block86 comp\tba\t', 'block86 completion bash'],
  ['block86 img conv\t', 'block86 img convert'],
  ['block86 img snaps\t', 'block86 img snapshot'],
  ['block86 img create -f qcow2 --obj\t', 'block86 img create -f qcow2 --object'],
  ['block86 img info --output js\t', 'block86 img info --output json'],
  ['block86 io -t writet\t', 'block86 io -t writethrough'],
  ['block86 io -c aio_f\t', 'block86 io -c aio_flush'],
  ['block86 nbd --detect-zeroes=un\t', 'block86 nbd --detect-zeroes=unmap'],
  ['block86 nbd --persis\t', 'block86 nbd --persistent'],
  ['block86 nbd -k /s disk\t', 'block86 nbd -k /s disk\\ one.qcow2'],
  ['block86 run -kern\t', 'block86 run -kernel'],
  ['block86 img info ima\t', 'block86 img info images/'],
] as const

describe.skipIf(lacks('script', 'bash'))('bash', () => {
  test('completes verbs, commands, options, their values and file names', async () => {
    writeFileSync(folder.file('block86.bash'), bashScript(await completions()))
    const type = await terminal('bash --norc --noprofile -i')
    await type(". ./block86.bash; bind 'set bell-style none'; PS1='ready$ '\n", 'ready$ ')
    for (const [keys, line] of CASES) {
      await type(keys, line)
      await type('\x03', 'ready$ ')
    }
    await type('block86 \t\t', 'completion')
    await type('\x03', 'ready$ ')
    await type('block86 img co\t\t', 'compare')
  })
})

describe.skipIf(lacks('script', 'zsh'))('zsh', () => {
  test('completes verbs, commands, options, their values and file names', async () => {
    mkdirSync(folder.file('functions'))
    writeFileSync(folder.file('functions/_block86'), zshScript(await completions()))
    writeFileSync(folder.file('block86.zsh'), zshScript(await completions()))
    for (const load of ['fpath=(./functions $fpath); autoload -U compinit; compinit -u -D', '. ./block86.zsh']) {
      const first = load.startsWith('fpath') ? load : `autoload -U compinit; compinit -u -D; ${load}`
      const type = await terminal('zsh -f -i')
      await type(`${first}; PS1='rea''dy$ '\n`, 'ready$ ')
      for (const [keys, line] of CASES) {
        await type(keys, line)
        await type('\x03', 'ready$ ')
      }
      await type('block86 \t', 'serve an image over NBD')
      shell!.kill('SIGKILL')
    }
  })
})
