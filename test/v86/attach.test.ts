/** attachDrives: what it plugs in, in what order, and what it refuses. */
import { afterEach, describe, expect, test } from 'vitest'
import { BlockDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { BlockError } from '../../src/block/error.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { choosePlaces } from '../../src/v86/controllers/places.ts'
import { attachDrives, type Drive, type Emulator } from '../../src/v86.ts'
import { type Bare, bare, Program } from './bare.ts'

let machines: Bare[] = []
afterEach(async () => {
  for (const machine of machines) await machine.close()
  machines = []
})

async function machine(program = new Program(), options?: Parameters<typeof bare>[1]): Promise<Bare> {
  const made = await bare(program, options)
  machines.push(made)
  return made
}

function disk(name: string, size = 1 << 20): Disk {
  return new Disk(new BlockDevice(new Memory(size)), { name })
}

function virtio(name: string, options: Partial<Drive> = {}): Drive {
  return { if: 'virtio', disk: disk(name), ...options } as Drive
}

const names = ({ cpu }: Bare) =>
  cpu.devices.pci.devices.flatMap((device, bdf) =>
    device?.name?.startsWith('virtio') || device?.name?.endsWith('ide') ? [[bdf >> 3, bdf & 7]] : [],
  )

describe('places', () => {
  test('drives are on free slots in their order, on two interrupt lines in turn', async () => {
    const guest = await machine()
    await attachDrives(
      guest.emulator,
      ['a', 'b', 'c'].map((name) => virtio(name)),
    )
    expect(names(guest).filter(([slot]) => slot !== 0x1e)).toEqual([
      [3, 0],
      [0xd, 0],
      [0xf, 0],
    ])
  })

  test('forty drives share slots as functions, and function 0 says so', async () => {
    const guest = await machine()
    await attachDrives(
      guest.emulator,
      Array.from({ length: 40 }, (_, index) => virtio(`d${index}`)),
    )
    const places = names(guest).filter(([slot]) => slot !== 0x1e)
    expect(places).toHaveLength(40)
    expect(places.slice(0, 4)).toEqual([
      [2, 0],
      [2, 1],
      [3, 0],
      [3, 1],
    ])
    const header = guest.cpu.devices.pci.device_spaces[2 << 3]![3]!
    expect((header >>> 16) & 0x80).toBe(0x80)
  })

  test('a second call adds more', async () => {
    const guest = await machine()
    await attachDrives(guest.emulator, [virtio('a')])
    await attachDrives(guest.emulator, [virtio('b')])
    expect(names(guest).filter(([slot]) => slot !== 0x1e)).toHaveLength(2)
  })

  test('the firmware is told the boot order by paths', async () => {
    const guest = await machine()
    await attachDrives(guest.emulator, [virtio('a', { bootindex: 2 }), virtio('b', { bootindex: 1 }), virtio('c')])
    const file = guest.cpu.option_roms.find(({ name }) => name === 'bootorder')!
    expect(new TextDecoder().decode(file.data)).toBe('/pci@i0cf8/*@d/disk@0,0\n/pci@i0cf8/*@3/disk@0,0\0')
  })

  test('a serial given with the drive is the one that the guest sees', async () => {
    const guest = await machine()
    const one = disk('a')
    await attachDrives(guest.emulator, [{ disk: one, serial: 'root' }])
    expect(one.serial).toBe('root')
  })
})

describe('IDE drives', () => {
  const BUILTIN = 0x1e << 3

  test("take the place of v86's controller", async () => {
    const guest = await machine()
    await attachDrives(guest.emulator, [{ if: 'ide', disk: disk('a') }])
    const { devices } = guest.cpu.devices.pci
    expect(devices[BUILTIN]).toBeUndefined()
    expect(devices[(1 << 3) | 1]?.name).toBe('piix3-ide')
    expect(guest.cpu.io.ports[0xb400]!.device).toBeUndefined()
  })

  test('that cannot be attached leave it as it was', async () => {
    const guest = await machine()
    const port = guest.cpu.io.ports[0x1f0]
    const before = guest.cpu.devices.ide
    guest.cpu.io.ports[0x376] = { ...guest.cpu.io.ports[0x376]! }
    guest.cpu.devices.pci.devices[(1 << 3) | 1] = { name: 'something' }
    await expect(attachDrives(guest.emulator, [{ if: 'ide', disk: disk('a') }])).rejects.toThrow(
      'Cannot attach a controller at PCI 00:01.1: something is there',
    )
    expect(guest.cpu.devices.pci.devices[BUILTIN]).toBeDefined()
    expect(guest.cpu.io.ports[0x1f0]).toBe(port)
    expect(guest.cpu.devices.ide).toBe(before)
  })

  test('are refused where another device has a port of theirs, which it keeps', async () => {
    for (const port of [0x1f0, 0x3f6, 0x172]) {
      const guest = await machine()
      const taken = { ...guest.cpu.io.create_empty_entry(), read8: () => 7, device: { name: 'other' } }
      guest.cpu.io.ports[port] = taken
      await expect(attachDrives(guest.emulator, [{ if: 'ide', disk: disk('a') }])).rejects.toThrow(
        `Cannot attach piix3-ide: I/O port ${port.toString(16)}h is taken; remove the device that answers there`,
      )
      expect(guest.cpu.io.ports[port]).toBe(taken)
      expect(guest.cpu.devices.pci.devices[BUILTIN]).toBeDefined()
      expect(guest.cpu.io.ports[0x170]!.device).toBeDefined()
    }
  })

  test('do not push out disks that v86 was given', async () => {
    const guest = await machine(new Program(), { v86: { hda: { buffer: new ArrayBuffer(1 << 20) } } })
    await expect(attachDrives(guest.emulator, [{ if: 'ide', disk: disk('a') }])).rejects.toThrow(
      'Cannot attach IDE drives: v86 has its own IDE disks',
    )
  })

  test('are at the places they ask for, the others at the first free ones', () => {
    const places = (drives: Parameters<typeof choosePlaces>[0]) =>
      choosePlaces(drives, [0, 1, 2, 3], [2, 3, 1, 0], 'IDE drive')
    expect(places([{}, { media: 'cdrom' }, {}, { index: 0 }])).toEqual([1, 2, 3, 0])
    expect(() => places([{ index: 1 }, { index: 1 }])).toThrow('Cannot attach a drive at IDE drive 1: it is taken')
    expect(() => places([{ index: 4 }])).toThrow('Cannot attach a drive at IDE drive 4: there are 0, 1, 2, 3')
    expect(() => places([{}, {}, {}, {}, {}])).toThrow('Cannot attach 5 drives: there are 4 IDE drives')
  })
})

describe.each(['ide', 'scsi'] as const)('CD-ROM drives behind %s', (kind) => {
  test('take a disc and give it back; a fixed disk does neither', async () => {
    const guest = await machine()
    const [first, second] = [disk('first'), disk('second')]
    const drives = await attachDrives(guest.emulator, [
      { if: kind, disk: disk('fixed') },
      { if: kind, media: 'cdrom' },
      { if: kind, media: 'cdrom', disk: first },
    ])
    expect(drives.disks.map(({ name }) => name)).toEqual(['fixed', 'first'])
    expect(() => drives.insert(2, second)).toThrow('Cannot insert second: first is in the drive')
    expect(() => drives.insert(1, first)).toThrow('Cannot insert first: it is in use')
    drives.insert(1, second)
    expect(await drives.eject(1)).toBe(second)
    expect(await drives.eject(1)).toBeUndefined()
    expect(await drives.eject(2)).toBe(first)
    drives.insert(1, first)
    expect(drives.disks.map(({ name }) => name)).toEqual(['fixed', 'first'])
    await expect(drives.eject(0)).rejects.toThrow('Cannot eject the medium of drive 0: its medium is fixed')
    await expect(drives.eject(3)).rejects.toThrow('Cannot eject the medium of drive 3: there is no such drive')
  })
})

describe('refusals attach nothing', () => {
  async function refused(guest: Bare, drives: readonly Drive[]): Promise<string> {
    const before = names(guest)
    const error = await attachDrives(guest.emulator, drives).then(
      () => undefined,
      (reason) => reason,
    )
    expect(error).toBeInstanceOf(BlockError)
    expect(names(guest)).toEqual(before)
    return error.message
  }

  test('a guest that runs', async () => {
    const guest = await machine(new Program().say(1))
    await guest.run(1)
    expect(await refused(guest, [virtio('a')])).toBe(
      'Cannot attach drives: the guest runs already; attach them right after new V86()',
    )
  })

  test('the same disk twice', async () => {
    const twice = disk('a')
    expect(await refused(await machine(), [{ disk: twice }, { disk: twice }])).toBe('Cannot attach a twice')
  })

  test('an unknown interface', async () => {
    const drive = { if: 'floppy', disk: disk('a') } as unknown as Drive
    expect(await refused(await machine(), [virtio('b'), drive])).toContain(
      "unknown interface 'floppy'; known are virtio",
    )
  })

  test('a serial that a guest could not read', async () => {
    const one = disk('a')
    await refused(await machine(), [virtio('b', { serial: 'good' }), { disk: one, serial: 'ä' }])
  })

  test('more drives than a bus has places', async () => {
    const drives = Array.from({ length: 300 }, (_, index) => virtio(`d${index}`))
    expect(await refused(await machine(), drives)).toMatch(/Cannot attach 300 drives: the PCI bus has room for 2\d\d/)
  })

  test('an emulator without what we need', async () => {
    const guest = await machine()
    const other = { v86: { cpu: { ...guest.cpu, devices: { pci: {} } } }, get_instruction_counter: () => 0 }
    await expect(attachDrives(other as unknown as Emulator, [virtio('a')])).rejects.toThrow(
      /^Cannot attach drives: this v86 has no cpu\.[a-z._0-9]+; use the npm package v86 from 0\.5\.\d+ to 0\.5\.\d+$/,
    )
  })
})

describe('error policy', () => {
  test('stop stops the guest, and running on tries the request again', async () => {
    const guest = await machine(new Program().say(1).spin())
    let fails = true
    const bad = new Disk(
      new BlockDevice({
        name: 'bad',
        size: 1 << 20,
        read: () => {
          if (fails) throw new BlockError('EIO', 'a bad sector')
        },
        write: () => {},
      }),
      { rerror: 'stop' },
    )
    const stops: string[] = []
    await attachDrives(guest.emulator, [{ disk: bad }], { onStop: (_, error) => stops.push(error.message) })
    await guest.run(1)
    const { bytesVec } = await import('../../src/block/iovec.ts')
    const read = bad.read(0, bytesVec(new Uint8Array(512)))
    await expect.poll(() => guest.emulator.is_running()).toBe(false)
    expect(stops).toEqual(['bad is stopped: a bad sector'])
    fails = false
    await guest.emulator.run()
    await read
    expect(bad.held).toBe(0)
  })
})

test('close closes every disk, also when one fails, and only once', async () => {
  const guest = await machine()
  let closed = 0
  const driver = (fail: boolean) =>
    new Disk(
      new BlockDevice({
        name: 'x',
        size: 512,
        read: () => {},
        close: () => {
          closed++
          if (fail) throw new BlockError('EIO', 'no')
        },
      }),
    )
  const drives = await attachDrives(guest.emulator, [{ disk: driver(true) }, { disk: driver(false) }])
  await expect(drives.close()).rejects.toThrow('no')
  await expect(drives.close()).rejects.toThrow('no')
  expect(closed).toBe(2)
})

describe('jobs', () => {
  test('work on the disk of a drive, by its number', async () => {
    const guest = await machine()
    const drives = await attachDrives(guest.emulator, [virtio('a'), virtio('b'), { if: 'ide', media: 'cdrom' }])
    await drives.disks[1]!.write(4096, bytesVec(new Uint8Array(512).fill(9)))
    const target = new BlockDevice(new Memory(1 << 20))
    await drives.backup(1, { target }).run()
    const into = new Uint8Array(1)
    await target.read(4096, bytesVec(into))
    expect(into[0]).toBe(9)
    const mirror = drives.mirror(1, { target: new BlockDevice(new Memory(1 << 20)) })
    await mirror.next()
    await expect(drives.resize(1, 2 << 20)).rejects.toThrow('Cannot resize b: a mirror of it is under way')
    await mirror.cancel()
    await drives.resize(1, 2 << 20)
    await expect(drives.resize(1, 1 << 20)).rejects.toThrow('say shrink: true')
    await drives.resize(1, 1 << 20, { shrink: true })
    expect(drives.disks[1]!.size).toBe(1 << 20)
    expect(() => drives.bitmaps(1)).toThrow('Cannot use bitmaps of b: its image is no qcow2 image')
    expect(() => drives.stream(2)).toThrow('Cannot stream into drive 2: it is empty')
    expect(() => drives.commit(7)).toThrow('Cannot commit drive 7: there is no such drive')
  })

  test('are canceled when the drives are closed', async () => {
    const guest = await machine()
    const drives = await attachDrives(guest.emulator, [virtio('a')])
    const job = drives.mirror(0, { target: new BlockDevice(new Memory(1 << 20)) })
    await job.next()
    await drives.close()
    expect(job.status).toBe('concluded')
  })
})
