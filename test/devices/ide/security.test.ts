import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { Slow } from '../slow.ts'
import { ABRT, BSY, DRQ, type Host, host, READY } from './host.ts'

const USER = 0
const MASTER = 1
const MAXIMUM = 0x100

/** A SECURITY command with a password; whether it ended well. */
function security(ata: Host, opcode: number, control: number, password: string, revision = 0): boolean {
  ata.issue(opcode)
  if ((ata.alt & DRQ) === 0) return (ata.status & 1) === 0
  const data = new Uint8Array(512)
  data[0] = control & 0xff
  data[1] = control >>> 8
  data.set(new TextEncoder().encode(password), 2)
  data[34] = revision & 0xff
  data[35] = revision >>> 8
  ata.outsw(data)
  while ((ata.alt & BSY) !== 0) ata.bus.clock.turn()
  return (ata.status & 1) === 0
}

const SET = 0xf1
const UNLOCK = 0xf2
const PREPARE = 0xf3
const ERASE = 0xf4
const FREEZE = 0xf5
const DISABLE = 0xf6

const word = (ata: Host, index: number) => ata.identify().getUint16(2 * index, true)
const powerCycle = async (ata: Host) => {
  await ata.slot.device.reset()
  ata.slot.device.config.write(4, 2, 5)
  ata.slot.device.config.setBar(4, ata.slot.base(4))
}
const bare = (ata: Host, opcode: number) => {
  ata.issue(opcode)
  return (ata.status & 1) === 0
}

describe('ATA8-ACS 4.13: security', () => {
  test('a user password locks the drive at the next power-on, not before', async () => {
    const ata = host()
    expect(word(ata, 128)).toBe(0x0021)
    expect(security(ata, SET, USER, 'secret')).toBe(true)
    expect([word(ata, 128), word(ata, 85) & 2]).toEqual([0x0023, 2])
    ata.softReset()
    expect(word(ata, 128)).toBe(0x0023)
    await powerCycle(ata)
    expect(word(ata, 128)).toBe(0x0027)
  })

  test('a locked drive reads, writes, verifies, flushes and trims nothing; it still identifies itself', async () => {
    const ata = host()
    security(ata, SET, USER, 'secret')
    await powerCycle(ata)
    for (const opcode of [
      0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x3d, 0x40, 0x42, 0xc4, 0xc5, 0xc8, 0xca, 0xce, 0xe7, 0xea, 0x06,
      0xb4, 0xf9, 0x37, 0x3f, 0xf1, 0xf5, 0xf6,
    ]) {
      ata.issue(opcode, { count: 1 })
      ata.failed(ABRT)
    }
    for (const opcode of [0xe5, 0xe1, 0xe0, 0xc6, 0xf8]) expect(bare(ata, opcode)).toBe(true)
    expect(security(ata, UNLOCK, USER, 'secret')).toBe(true)
    ata.issue(0x20, { count: 1 })
    ata.pioIn(512)
  })

  test('five wrong passwords close the way until the next power-on', async () => {
    const ata = host()
    security(ata, SET, USER, 'secret')
    await powerCycle(ata)
    for (let i = 0; i < 5; i++) expect(security(ata, UNLOCK, USER, 'wrong')).toBe(false)
    expect(word(ata, 128)).toBe(0x0037)
    expect(security(ata, UNLOCK, USER, 'secret')).toBe(false)
    await powerCycle(ata)
    expect(security(ata, UNLOCK, USER, 'secret')).toBe(true)
    expect(word(ata, 128)).toBe(0x0023)
  })

  test('the master password unlocks at the level High, not at Maximum', async () => {
    for (const [level, opens] of [
      [0, true],
      [MAXIMUM, false],
    ] as const) {
      const ata = host()
      expect(security(ata, SET, MASTER, 'master', 0x1234)).toBe(true)
      expect(word(ata, 92)).toBe(0x1234)
      security(ata, SET, USER | level, 'secret')
      expect(word(ata, 128) & 0x100).toBe(level)
      await powerCycle(ata)
      expect(security(ata, UNLOCK, MASTER, 'master')).toBe(opens)
    }
  })

  test('DISABLE PASSWORD wants the password, and an unlocked drive', () => {
    const ata = host()
    security(ata, SET, USER, 'secret')
    expect(security(ata, DISABLE, USER, 'wrong')).toBe(false)
    expect(security(ata, DISABLE, USER, 'secret')).toBe(true)
    expect(word(ata, 128)).toBe(0x0021)
  })

  test('FREEZE LOCK refuses every change until power-on', async () => {
    const ata = host()
    expect(bare(ata, FREEZE)).toBe(true)
    expect(bare(ata, FREEZE)).toBe(true)
    expect(word(ata, 128)).toBe(0x0029)
    for (const opcode of [SET, UNLOCK, DISABLE]) expect(security(ata, opcode, USER, '')).toBe(false)
    expect(bare(ata, PREPARE)).toBe(false)
    ata.softReset()
    expect(word(ata, 128)).toBe(0x0029)
    await powerCycle(ata)
    expect(word(ata, 128)).toBe(0x0021)
  })

  test('ERASE UNIT, right after ERASE PREPARE and with the password, leaves zeroes and no user password', async () => {
    const memory = Memory.from(new Uint8Array(1 << 20).fill(0xff))
    const faulty = new Faulty(asDevice(memory))
    const ata = host(faulty)
    security(ata, SET, USER | MAXIMUM, 'secret')
    await powerCycle(ata)
    expect(security(ata, ERASE, USER, 'secret')).toBe(false)
    expect(bare(ata, PREPARE)).toBe(true)
    expect(security(ata, ERASE, USER, 'wrong')).toBe(false)
    expect(bare(ata, PREPARE)).toBe(true)
    expect(bare(ata, 0xe5)).toBe(true)
    expect(security(ata, ERASE, USER, 'secret')).toBe(false)
    expect(faulty.counts.zero).toBe(0)
    expect(bare(ata, PREPARE)).toBe(true)
    expect(security(ata, ERASE, USER, 'secret')).toBe(true)
    expect(word(ata, 128)).toBe(0x0021)
    const bytes = new Uint8Array(1 << 20)
    memory.read(0, bytesVec(bytes))
    expect(bytes.some((byte) => byte !== 0)).toBe(false)
    expect(faulty.log.at(-1)?.operation).toBe('flush')
  })

  test('at the level Maximum the master password may still erase', async () => {
    const ata = host()
    security(ata, SET, MASTER, 'master')
    security(ata, SET, USER | MAXIMUM, 'secret')
    await powerCycle(ata)
    expect(bare(ata, PREPARE)).toBe(true)
    expect(security(ata, ERASE, MASTER, 'master')).toBe(true)
    expect(word(ata, 128)).toBe(0x0021)
  })
})

describe('ACS-3 7.36: SANITIZE DEVICE', () => {
  const sanitize = (ata: Host, features: number, lba = 0, count = 0) => {
    ata.issueExt(0xb4, { features, lba, count })
    return (ata.status & 1) === 0
  }
  const flags = (ata: Host) => (sanitize(ata, 0) ? ata.count48 : -1)

  test('BLOCK ERASE runs in the background; other commands are turned away; STATUS tells how far it is', () => {
    const memory = new Memory(256 << 20)
    memory.write(200 << 20, bytesVec(new Uint8Array(512).fill(0xff)))
    const ata = host(memory)
    // Block erase, overwrite, the feature set, commands during it as in ACS-3, ANTIFREEZE LOCK
    expect(ata.identify().getUint16(118, true) & 0xfc00).toBe(0xdc00)
    expect(sanitize(ata, 0x12, 0x426b4572)).toBe(true)
    expect(ata.count48).toBe(0x4000)
    ata.bus.clock.turn()
    expect(flags(ata)).toBe(0x4000)
    expect(ata.lba48).toBe(0x4000)
    // 4.17.5
    for (const opcode of [0x20, 0x30, 0xe1, 0xe5, 0xe7, 0xef]) {
      ata.issue(opcode, { count: 1 })
      ata.failed(ABRT)
    }
    for (const [features, lba] of [
      [0xd0, 0xc24f00],
      [0xd5, 0xc24f04],
      [0xd9, 0xc24f00],
    ] as const) {
      ata.issue(0xb0, { features, lba, count: 1 })
      ata.failed(ABRT)
    }
    ata.issueExt(0x2f, { lba: 4, count: 1 })
    ata.failed(ABRT)
    ata.identify()
    ata.issue(0xb0, { features: 0xd5, lba: 0xc24f30, count: 1 })
    ata.pioIn(512)
    ata.issueExt(0x2f, { lba: 0x30, count: 1 })
    ata.pioIn(512)
    ata.issue(0xb0, { features: 0xda, lba: 0xc24f00 })
    ata.done()
    expect(security(ata, UNLOCK, USER, '')).toBe(true)
    while (ata.bus.clock.deferred > 0) ata.bus.clock.turn()
    expect(flags(ata)).toBe(0x8000)
    const bytes = new Uint8Array(512)
    memory.read(200 << 20, bytesVec(bytes))
    expect(bytes).toEqual(new Uint8Array(512))
  })

  test('OVERWRITE writes the pattern, complemented in every second pass if asked', () => {
    const memory = new Memory(2 << 20)
    const faulty = new Faulty(asDevice(memory))
    const ata = host(faulty)
    expect(sanitize(ata, 0x14, 0x4f57 * 2 ** 32 + 0xdeadbeef, 2 | 0x80)).toBe(true)
    while (ata.bus.clock.deferred > 0) ata.bus.clock.turn()
    expect(flags(ata)).toBe(0x8000)
    expect([faulty.counts.write, faulty.counts.flush]).toEqual([4, 2])
    ata.issue(0x20, { lba: 4095, count: 1 })
    expect(new DataView(ata.pioIn(512).buffer).getUint32(508, true)).toBe(~0xdeadbeef >>> 0)
  })

  test('a wrong key, CRYPTO SCRAMBLE and unknown subcommands are aborted', () => {
    const ata = host()
    for (const [features, lba] of [
      [0x12, 0],
      [0x14, 0x4f58 * 2 ** 32],
      [0x11, 0x43727970],
      [0x20, 1],
      [0x40, 1],
      [0x99, 0],
    ] as const) {
      expect(sanitize(ata, features, lba)).toBe(false)
    }
    expect(flags(ata)).toBe(0)
  })

  test('FREEZE LOCK forbids it until power-on, unless ANTIFREEZE LOCK came before', async () => {
    const ata = host()
    expect(sanitize(ata, 0x20, 0x46724c6b)).toBe(true)
    expect(flags(ata)).toBe(0x2000)
    expect(sanitize(ata, 0x12, 0x426b4572)).toBe(false)
    expect(ata.in(3)).toBe(3)
    await powerCycle(ata)
    expect(sanitize(ata, 0x40, 0x416e7469)).toBe(true)
    expect(sanitize(ata, 0x20, 0x46724c6b)).toBe(false)
    expect(ata.in(3)).toBe(4)
    expect(flags(ata)).toBe(0x1000)
  })

  test('4.17.2: a reset does not end it', async () => {
    const slow = new Slow(1 << 20)
    const ata = host(slow)
    slow.memory.write(0, bytesVec(new Uint8Array(1 << 20).fill(0xff)))
    sanitize(ata, 0x12, 0x426b4572)
    ata.bus.clock.turn()
    expect(slow.pending.length).toBe(1)
    ata.softReset()
    await slow.settle()
    expect(ata.status).toBe(READY)
    for (let i = 0; i < 5; i++) {
      ata.bus.clock.turn()
      await slow.settle()
    }
    expect(flags(ata)).toBe(0x8000)
    expect(slow.pending.length).toBe(0)
  })

  test('a failed one is told, and the drive stays closed: until that is cleared, if count bit 4 gave leave, or another one is well', () => {
    for (const [count, opens] of [
      [0, false],
      [0x10, true],
    ] as const) {
      const faulty = new Faulty(asDevice(new Memory(1 << 20)))
      const ata = host(faulty, { werror: 'report' })
      faulty.fail('zero', 'EIO')
      sanitize(ata, 0x12, 0x426b4572, count)
      while (ata.bus.clock.deferred > 0) ata.bus.clock.turn()
      expect(sanitize(ata, 0)).toBe(false)
      expect(ata.in(3)).toBe(1)
      ata.issue(0x20, { count: 1 })
      ata.failed(ABRT)
      expect(sanitize(ata, 0, 0, 1)).toBe(opens)
      ata.issue(0x20, { count: 1 })
      expect(ata.status & DRQ).toBe(opens ? DRQ : 0)
      ata.softReset()
      expect(sanitize(ata, 0x12, 0x426b4572)).toBe(true)
      while (ata.bus.clock.deferred > 0) ata.bus.clock.turn()
      expect(flags(ata)).toBe(0x8000)
      ata.issue(0x20, { count: 1 })
      ata.pioIn(512)
    }
  })
})
