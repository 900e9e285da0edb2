/** The long run of garbage in virtio rings; each seed is a machine of its own and can be run alone with BLOCK86_SEED. */
import { expect, test } from 'vitest'
import { Slow } from '../devices/slow.ts'
import { wreck } from '../devices/virtio/garbage.ts'
import { random } from '../random.ts'

const { seed: first } = random()
const machines = Number(process.env.MACHINES ?? (process.env.BLOCK86_SEED ? 1 : 400))

test(`drivers that follow no rule (BLOCK86_SEED=${first}, MACHINES=${machines})`, async () => {
  for (let i = 0; i < machines; i++) {
    const slow = new Slow()
    slow.direct = (first + i) % 3 === 0
    try {
      await wreck(first + i, 1500, slow)
    } catch (error) {
      throw new Error(`BLOCK86_SEED=${first + i} breaks the device`, { cause: error })
    }
    expect(slow.pending).toEqual([])
  }
})
