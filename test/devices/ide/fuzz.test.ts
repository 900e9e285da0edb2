import { expect, test } from 'vitest'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { seeded } from '../../random.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { diskOf, Host, harddisk, machine, pattern, READY } from './host.ts'

/** Opcodes and values that lead somewhere, besides those that do not. */
const OPCODES = [
  0x06, 0x08, 0x20, 0x24, 0x25, 0x27, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x37, 0x39, 0x3d, 0x3f, 0x40, 0x42, 0x47, 0x57,
  0x90, 0x91, 0xa0, 0xa1, 0xb0, 0xb4, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xce, 0xe0, 0xe3, 0xe4, 0xe5, 0xe7, 0xe8, 0xe9,
  0xeb, 0xec, 0xef, 0xf1, 0xf2, 0xf3, 0xf4, 0xf6, 0xf8, 0xf9,
]
/** TEST UNIT READY, INQUIRY, READ(10) of 3 and of 40 blocks, READ TOC, MODE SENSE(10), READ CD: words of 12 bytes. */
const PACKETS = [
  [0, 0, 0, 0, 0, 0],
  [0x12, 0, 0x60, 0, 0, 0],
  [0x28, 0, 0, 0, 0x300, 0],
  [0x28, 0, 0, 0, 0x2800, 0],
  [0x43, 0, 0, 0x400, 0, 0],
  [0x5a, 0x2a, 0, 0x100, 0, 0],
  [0xbe, 0, 0, 0, 0x1001, 0],
]
const BYTES = [0, 1, 2, 3, 4, 8, 16, 0x40, 0x4f, 0xc2, 0x80, 0xd0, 0xd4, 0xd5, 0xd6, 0xda, 0xe0, 0xf0, 0xff]

test('whatever a guest writes to the ports, nothing throws, nothing hangs, and a reset brings the drives back', async () => {
  await seeded(async (random) => {
    const slow = [new Slow(1 << 19), new Slow(1 << 19), new Slow(1 << 22)]
    const disc = diskOf(Memory.from(pattern(0, 400), { readOnly: true }))
    const drives = [harddisk(slow[0]!), harddisk(slow[1]!), harddisk(slow[2]!), { media: 'cdrom', disk: disc } as const]
    const slot = machine(drives, 'piix4', 1 << 18)
    const channels = [new Host(slot, 0), new Host(slot, 1)]
    const byte = () => (random.below(3) > 0 ? random.pick(BYTES) : random.below(256))
    for (let step = 0; step < 20_000; step++) {
      const host = random.pick(channels)
      if (random.below(200) === 0) {
        // A state can be taken up, whatever the drives are in the middle of
        const state = slot.device.save()
        const reset = slot.device.reset()
        for (const disk of slow) await disk.settle()
        await reset
        slot.device.restore(state)
        slot.bus.clock.turn()
      }
      switch (random.below(17)) {
        case 16:
          // A packet command
          host.out(5, random.below(16))
          host.out(7, 0xa0)
          for (const word of random.pick(PACKETS)) slot.out16(host.command, word)
          break
        case 0:
        case 1:
        case 2:
          host.out(1 + random.below(6), byte())
          break
        case 3:
        case 4:
          host.out(7, random.below(8) > 0 ? random.pick(OPCODES) : random.below(256))
          break
        case 5:
          slot.out8(host.control, random.pick([0, 0, 2, 4, 8, 0x80, 0xff]))
          break
        case 6:
          host.in(1 + random.below(7))
          break
        case 7:
          for (let i = random.below(600); i > 0; i--) slot.in16(host.command)
          break
        case 8:
          for (let i = random.below(600); i > 0; i--) slot.out16(host.command, random.below(65536))
          break
        case 9:
          host.prd(
            Array.from({ length: 1 + random.below(5) }, () => [
              random.below(1 << 19),
              random.below(5000),
              random.below(3) === 0,
            ]),
          )
          break
        case 10:
          slot.out8(host.master, random.pick([0, 1, 8, 9]))
          break
        case 11:
          slot.out8(host.master + 2, random.below(256))
          break
        case 12:
          slot.in32(host.master + random.below(5))
          break
        case 13:
          slot.bus.clock.advance(random.below(100))
          break
        case 14: {
          const disk = random.pick(slow)
          disk.direct = random.below(2) === 0
          if (disk.pending.length > 0) {
            if (random.below(8) === 0) disk.pending[0]!.fail(new Error('fuzz'))
            else disk.next()
          }
          if (random.below(4) === 0) await microtasks()
          break
        }
        default:
          if (random.below(100) === 0) slot.device.config.write(random.below(256) & ~3, 4, random.below(2 ** 32))
          else slot.in32(host.command + random.below(8))
      }
    }
    for (const disk of slow) disk.direct = true
    for (const disk of slow) await disk.settle()
    await slot.device.reset()
    await microtasks()
    slot.device.config.write(4, 2, 5)
    for (const host of channels) {
      host.softReset()
      await microtasks()
      expect(host.status).toBe(READY)
    }
  })
})
