import { describe, expect, test } from 'vitest'
import { Host, harddisk, machine, READY } from './host.ts'

const config = (model?: 'piix3' | 'piix4') => machine([harddisk(1 << 20)], model).device.config

describe('PIIX3 2.3: configuration space of the IDE function', () => {
  test('identity, class code of a bus master in compatibility mode, no interrupt pin', () => {
    const piix3 = config()
    expect(piix3.read(0x00, 4)).toBe(0x7010_8086)
    expect(piix3.read(0x08, 4)).toBe(0x0101_8000)
    expect(piix3.read(0x3c, 2) >>> 8).toBe(0)
    expect(piix3.read(0x0e, 1)).toBe(0)
    expect(config('piix4').read(0x00, 4)).toBe(0x7111_8086)
  })

  test('BAR 4 is sixteen I/O ports; the other BARs are not there', () => {
    const piix3 = config()
    for (const [at, size] of [
      [0x10, 0],
      [0x14, 0],
      [0x18, 0],
      [0x1c, 0],
      [0x20, 0xffff_fff1],
      [0x24, 0],
    ] as const) {
      piix3.write(at, 4, 0xffff_ffff)
      expect(piix3.read(at, 4)).toBe(size)
    }
  })

  test('IDETIM and SIDETIM keep what is written; a PIIX3 has no Ultra DMA registers, a PIIX4 has', () => {
    for (const model of ['piix3', 'piix4'] as const) {
      const registers = config(model)
      registers.write(0x40, 4, 0xa307_e377)
      registers.write(0x44, 1, 0xbb)
      registers.write(0x48, 4, 0xffff_ffff)
      expect(registers.read(0x40, 4)).toBe(0xa307_e377)
      expect(registers.read(0x44, 1)).toBe(0xbb)
      expect(registers.read(0x48, 4)).toBe(model === 'piix3' ? 0 : 0x3333_000f)
    }
  })

  test('IDETIM bit 15 off: the channel does not answer at its ports', () => {
    const slot = machine([harddisk(1 << 20), undefined, harddisk(1 << 20)])
    const first = new Host(slot, 0)
    slot.device.config.write(0x40, 2, 0x0000)
    expect([first.status, first.alt, first.in(2)]).toEqual([0xff, 0xff, 0xff])
    first.issue(0xec)
    expect(first.edges).toBe(0)
    expect(new Host(slot, 1).status).toBe(READY)
    slot.device.config.write(0x40, 2, 0x8000)
    expect(first.status).toBe(READY)
  })
})
