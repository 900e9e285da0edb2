import { expect, test } from 'vitest'
import { hostCapabilities } from '../../src/block/protocols/node/capabilities.ts'
import { info } from '../../src/cli/info.ts'
import { temporaryFolder } from '../tools.ts'

async function printed(...argv: string[]): Promise<string> {
  let text = ''
  expect(await info(argv, '', { write: (more) => void (text += more) })).toBe(0)
  return text
}

test('info --host has a line for everything that the host may offer, with the reason', async () => {
  const folder = temporaryFolder()
  try {
    const found = await hostCapabilities(folder.path)
    const lines = (await printed('--host', folder.path)).trimEnd().split('\n')
    expect(lines).toEqual(
      found.map(({ name, used, reason }) => `${name.padEnd(16)} ${used ? 'used    ' : 'not used'}  ${reason}`),
    )
    expect(JSON.parse(await printed('--host', '--json', folder.path))).toEqual(found)
  } finally {
    folder.remove()
  }
})

test('info without --host says what it wants', async () => {
  await expect(info([])).rejects.toThrow('Usage: block86 info --host')
})
