import { describe, expect, test } from 'vitest'
import { ABRT, BSY, DRDY, DRQ, Host, harddisk, host, machine, READY, READY_DRQ } from './host.ts'

const signature = (channel: Host) => [2, 3, 4, 5].map((register) => channel.in(register))

describe('ATA8-APT 9.3: resets', () => {
  test('after power-on an ATA disk shows its signature, the diagnostic code of success, and no interrupt', () => {
    const ata = host()
    expect(ata.status).toBe(READY)
    expect(ata.error).toBe(0x01)
    expect(signature(ata)).toEqual([0x01, 0x01, 0x00, 0x00])
    expect(ata.edges).toBe(0)
  })

  test('SRST holds BSY while it is set, and ends with the signature and device 0 selected', () => {
    const ata = new Host(machine([harddisk(1 << 20), harddisk(1 << 20)]))
    ata.issue(0x20, { lba: 5, count: 7, unit: 1 })
    const edges = ata.edges
    ata.slot.out8(ata.control, 0x04)
    expect(ata.alt).toBe(BSY)
    expect(ata.intrq).toBe(false)
    ata.slot.out8(ata.control, 0x00)
    expect(ata.status).toBe(READY)
    expect([signature(ata), ata.error, ata.in(6)]).toEqual([[1, 1, 0, 0], 1, 0])
    ata.select(1)
    expect([signature(ata), ata.error, ata.status]).toEqual([[1, 1, 0, 0], 1, READY])
    expect(ata.edges).toBe(edges)
  })

  test('SRST keeps the settings, unless SET FEATURES CCh said that they shall revert (ATA8-ACS 7.50.14)', () => {
    const ata = host()
    const multiple = () => ata.identify().getUint16(2 * 59, true) & 0xff
    ata.issue(0xc6, { count: 4 })
    ata.done()
    ata.softReset()
    expect(multiple()).toBe(4)
    ata.issue(0xef, { features: 0xcc })
    ata.done()
    ata.softReset()
    expect(multiple()).toBe(16)
  })

  test('RST# brings back everything', async () => {
    const ata = host()
    ata.issue(0xc6, { count: 4 })
    ata.issue(0xef, { features: 0x82 })
    ata.slot.out8(ata.control, 0x02)
    await ata.slot.device.reset()
    ata.slot.device.config.write(0x04, 2, 5)
    const words = ata.identify()
    expect(words.getUint16(2 * 59, true) & 0xff).toBe(16)
    expect(words.getUint16(2 * 85, true) & 0x20).toBe(0x20)
  })
})

describe('ATA8-ACS 7.9: EXECUTE DEVICE DIAGNOSTIC', () => {
  test('is done by both devices, whichever is selected; device 0 interrupts', () => {
    const ata = new Host(machine([harddisk(1 << 20), harddisk(1 << 20)]))
    ata.issue(0x90, { lba: 0x123456, count: 9, unit: 1 })
    expect(ata.intrq).toBe(true)
    expect(ata.status).toBe(READY)
    expect([signature(ata), ata.error, ata.in(6)]).toEqual([[1, 1, 0, 0], 1, 0])
    ata.select(1)
    expect([signature(ata), ata.error]).toEqual([[1, 1, 0, 0], 1])
  })
})

describe('ATA8-APT 9.16: devices that are not there', () => {
  test('a lone device 0 answers for device 1 with its registers and a Status of zero, and takes no command for it', () => {
    const ata = host()
    ata.select(1)
    ata.out(2, 0x55)
    ata.out(3, 0xaa)
    expect([ata.in(2), ata.in(3)]).toEqual([0x55, 0xaa])
    expect([ata.status, ata.alt]).toEqual([0, 0])
    ata.out(7, 0xec)
    expect([ata.status, ata.intrq]).toEqual([0, false])
    ata.select(0)
    expect(ata.status).toBe(READY)
  })

  test('a lone device 1 works; device 0 reads as an empty cable', () => {
    const ata = new Host(machine([undefined, harddisk(1 << 20)]))
    expect([ata.status, ata.alt, ata.in(2)]).toEqual([0x7f, 0x7f, 0x7f])
    ata.select(1)
    expect(ata.status).toBe(READY)
    expect(ata.identify(1).getUint32(2 * 60, true)).toBe(2048)
  })

  test('an empty channel has DD7 pulled down, so that no host waits for BSY', () => {
    const ata = new Host(machine([harddisk(1 << 20)]), 1)
    for (const unit of [0, 1] as const) {
      ata.select(unit)
      ata.out(7, 0xec)
      expect([ata.status, ata.alt, ata.in(1), ata.in(5)]).toEqual([0x7f, 0x7f, 0x7f, 0x7f])
      expect(ata.slot.in16(ata.command)).toBe(0xff7f)
      expect(ata.slot.in32(ata.command)).toBe(0xffffff7f)
    }
    expect(ata.edges).toBe(0)
  })
})

describe('ATA8-APT 6: the task file', () => {
  test('is written to both devices, and read from the selected one', () => {
    const ata = new Host(machine([harddisk(1 << 20), harddisk(2 << 20)]))
    ata.out(3, 0x42)
    ata.select(1)
    expect(ata.in(3)).toBe(0x42)
    expect([ata.identify(0).getUint32(120, true), ata.identify(1).getUint32(120, true)]).toEqual([2048, 4096])
  })

  test('6.3: HOB shows the previous content of the registers that have two bytes, until the next write', () => {
    const ata = host()
    for (const register of [2, 3, 4, 5]) {
      ata.out(register, register)
      ata.out(register, 0x10 + register)
    }
    expect(signature(ata)).toEqual([0x12, 0x13, 0x14, 0x15])
    ata.slot.out8(ata.control, 0x80)
    expect(signature(ata)).toEqual([2, 3, 4, 5])
    ata.out(1, 0)
    expect(signature(ata)).toEqual([0x12, 0x13, 0x14, 0x15])
  })

  test('6.4: reading Status answers the interrupt, Alternate Status does not; so does writing a command', () => {
    const ata = host()
    ata.issue(0xe5)
    expect([ata.alt, ata.intrq]).toEqual([READY, true])
    expect([ata.status, ata.intrq]).toEqual([READY, false])
    ata.issue(0xe5)
    ata.issue(0xec)
    expect([ata.intrq, ata.edges]).toEqual([true, 3])
  })

  test('an interrupt waits while the other device is selected', () => {
    const ata = new Host(machine([harddisk(1 << 20), harddisk(1 << 20)]))
    ata.issue(0xe5, { unit: 1 })
    expect(ata.intrq).toBe(true)
    ata.select(0)
    expect([ata.intrq, ata.status]).toEqual([false, READY])
    ata.select(1)
    expect(ata.intrq).toBe(true)
    ata.done()
  })

  test('belongs to the device while DRQ is set: writes and commands are lost', () => {
    const ata = host()
    ata.issue(0xec)
    ata.out(3, 0x77)
    ata.out(7, 0x20)
    expect([ata.in(3), ata.alt]).toEqual([0, READY_DRQ])
    ata.insw(512)
    expect(ata.status).toBe(READY)
  })

  test('words and double words at other registers are bytes side by side', () => {
    const ata = host()
    ata.slot.out16(ata.command + 2, 0x3412)
    expect([ata.in(2), ata.in(3), ata.slot.in16(ata.command + 2)]).toEqual([0x12, 0x34, 0x3412])
    expect(ata.slot.in32(ata.command + 5)).toBe(0xff00_0000 + (READY << 16) + (ata.in(6) << 8) + ata.in(5))
  })

  test('ATA8-ACS 7.19: NOP is always aborted, and so is what is not offered', () => {
    const ata = host()
    for (const opcode of [0x00, 0x92, 0x93, 0xa0, 0xa1, 0x08, 0xc7, 0xcc, 0xff, 0x03]) {
      ata.issue(opcode)
      expect(ata.alt & (DRQ | DRDY)).toBe(DRDY)
      ata.failed(ABRT)
    }
  })
})
