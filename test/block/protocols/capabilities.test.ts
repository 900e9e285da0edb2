import { expect, test } from 'vitest'
import { hostCapabilities } from '../../../src/block/protocols/node/capabilities.ts'
import { libc } from '../../../src/block/protocols/node/libc.ts'

test('every capability has a reason, and what is found is what works', async () => {
  const found = await hostCapabilities()
  for (const { name, reason } of found) expect(reason, name).not.toBe('')
  const used = (name: string) => found.find((capability) => capability.name === name)?.used
  expect(used('system calls')).toBe(libc() !== undefined)
  expect(used('io_uring')).toBe(!used('threads'))
})

test('a folder that is not there is an answer, not a failure', async () => {
  const found = await hostCapabilities('/nowhere')
  expect(found.find(({ name }) => name === 'files')).toMatchObject({ used: false })
})
