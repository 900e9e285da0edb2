/** SCSI drives of attachDrives: where they are, who they say they are, and which media they take. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { parseDrive } from '../../src/cli/drive-options.ts'
import type { Lsi53c895a } from '../../src/devices/lsi53c895a/chip.ts'
import * as reg from '../../src/devices/lsi53c895a/registers.ts'
import { type ScsiDrive, scsi } from '../../src/v86/controllers/scsi.ts'
import * as s from '../devices/lsi53c895a/scripts.ts'
import { plug, testBus } from '../devices/machine.ts'

const disk = (size = 1 << 20) => new Disk(asDevice(new Memory(size)))
const plan = (...drives: Omit<ScsiDrive, 'if'>[]) => scsi.plan(drives.map((drive) => ({ if: 'scsi', ...drive })))[0]!
const paths = (...drives: Omit<ScsiDrive, 'if'>[]) => plan(...drives).drives.map(({ path }) => path)

const PROGRAM = 0x10000
const DATA = 0x20000

/** The controller of these drives in a machine, with a way to send a command: its data, or its status if that is not GOOD. */
function machine(...drives: Omit<ScsiDrive, 'if'>[]) {
  const bus = testBus({ ramSize: 1 << 20 })
  const controller = plan(...drives)
  const slot = plug(bus, controller.make)
  const base = slot.base(1)
  // Less data than asked for is no error: on with the status
  slot.write(base + reg.CCNTL0, 1, reg.CCNTL0_ENPMJ | reg.CCNTL0_PMJCTL)
  slot.write(base + reg.PMJAD2, 4, PROGRAM + 40)
  const send = (id: number, lun: number, cdb: number[], length: number): number[] | number => {
    bus.memory.ram.set([0x80 | lun], DATA)
    bus.memory.ram.set(cdb, DATA + 16)
    bus.memory.ram.fill(0, DATA + 64, DATA + 512)
    s.assemble(
      bus.memory,
      PROGRAM,
      s.selectAtn(id),
      s.move(1, DATA, s.MSG_OUT),
      s.move(cdb.length, DATA + 16, s.COMMAND),
      s.jump(PROGRAM + 40, { phase: s.DATA_IN, when: true, not: true }),
      s.move(length, DATA + 64, s.DATA_IN),
      s.move(1, DATA + 32, s.STATUS),
      s.move(1, DATA + 33, s.MSG_IN),
      s.modify(reg.SCNTL2, 'and', 0x7f),
      s.clear(s.ACK),
      s.waitDisconnect(),
      s.int(1),
    )
    slot.write(base + reg.DSP, 4, PROGRAM)
    const sist = slot.read(base + reg.SIST0, 2)
    slot.read(base + reg.DSTAT, 1)
    if (sist & (reg.SIST1_STO << 8)) return sist
    const status = bus.memory.ram[DATA + 32]!
    return status === 0 ? [...bus.memory.ram.subarray(DATA + 64, DATA + 64 + length)] : status
  }
  return { controller, slot, send, device: slot.device as Lsi53c895a }
}

const text = (bytes: number[] | number, from: number, to: number) =>
  String.fromCharCode(...(bytes as number[]).slice(from, to))
const INQUIRY = [0x12, 0, 0, 0, 96, 0]

describe('places', () => {
  test('by scsi-id and lun, the others at the first that is free', () => {
    expect(
      paths(
        { disk: disk() },
        { disk: disk(), scsiId: 0, lun: 1 },
        { disk: disk(), index: 1 },
        { disk: disk() },
        { disk: disk(), lun: 1 },
      ),
    ).toEqual(['*@0/*@0,0', '*@0/*@0,1', '*@0/*@1,0', '*@0/*@2,0', '*@0/*@1,1'])
    expect(paths({ disk: disk(), scsiId: 15, lun: 63 })).toEqual(['*@0/*@f,3f'])
  })

  test.each<[string, Omit<ScsiDrive, 'if'>[]]>([
    ['Cannot attach a drive at SCSI ID 7: there are 0, 1, 2, 3, 4, 5, 6, 8', [{ disk: disk(), scsiId: 7 }]],
    [
      'Cannot attach a drive at SCSI ID 8: there are 0, 1, 2, 3, 4, 5, 6',
      [{ disk: disk(), scsiId: 8, chip: 'lsi53c810' }],
    ],
    [
      'Cannot attach a drive at SCSI ID 2, LUN 0: it is taken',
      [
        { disk: disk(), scsiId: 2 },
        { disk: disk(), index: 2 },
      ],
    ],
    ['Cannot attach a drive as LUN 64: it must be 0 to 63', [{ disk: disk(), lun: 64 }]],
    ['Cannot attach 16 drives: there are 15 SCSI IDs', Array.from({ length: 16 }, () => ({ disk: disk() }))],
    [
      'Cannot attach a drive to lsi53c1030: there are lsi53c895a, lsi53c810',
      [{ disk: disk(), chip: 'lsi53c1030' as 'lsi53c810' }],
    ],
  ])('%s', (message, drives) => {
    expect(() => plan(...drives)).toThrow(message)
  })

  test('each chip is a controller of its own', () => {
    const controllers = scsi.plan([
      { if: 'scsi', disk: disk() },
      { if: 'scsi', disk: disk(), chip: 'lsi53c810' },
      { if: 'scsi', disk: disk() },
    ])
    expect(controllers.map(({ drives }) => drives.map(({ path }) => path))).toEqual([
      ['*@0/*@0,0', '*@0/*@1,0'],
      ['*@0/*@0,0'],
    ])
  })

  test('a target answers for its LUNs, and says which there are', () => {
    const { send } = machine({ disk: disk(), scsiId: 3, lun: 2 }, { disk: disk(), scsiId: 3, lun: 5 })
    expect(send(4, 0, INQUIRY, 96)).toBe(reg.SIST1_STO << 8)
    expect((send(3, 0, INQUIRY, 96) as number[])[0]).toBe(0x7f)
    expect((send(3, 2, INQUIRY, 96) as number[])[0]).toBe(0)
    const luns = send(3, 0, [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0], 24) as number[]
    expect([luns[3], luns[9], luns[17]]).toEqual([16, 2, 5])
  })
})

describe('what the guest sees', () => {
  const properties = {
    vendor: 'ACME',
    product: 'ROCKET',
    ver: '2.5',
    wwn: 0x5000c50012345678n,
    portWwn: 0x5000c50012345679n,
    serial: 'S1',
    removable: true,
    rotationRate: 7200,
  }

  test.each<[string, Omit<ScsiDrive, 'if'>]>([
    ['attachDrives', { disk: disk(), scsiId: 3, ...properties }],
    [
      '-drive',
      {
        disk: disk(),
        serial: 'S1',
        ...parseDrive(
          'if=scsi,file=a,format=raw,scsi-id=3,vendor=ACME,product=ROCKET,ver=2.5,wwn=0x5000c50012345678,port_wwn=0x5000c50012345679,removable=on,rotation_rate=7200',
        ).device,
      },
    ],
  ])('by %s: vendor, product, ver, wwn, serial, removable, rotation_rate', (_, drive) => {
    const { send } = machine(drive)
    const inquiry = send(3, 0, INQUIRY, 96)
    expect(text(inquiry, 8, 36)).toBe('ACME    ROCKET          2.5 ')
    expect((inquiry as number[])[1]).toBe(0x80)
    expect(text(send(3, 0, [0x12, 1, 0x80, 0, 6, 0], 6), 4, 6)).toBe('S1')
    const hex = (send(3, 0, [0x12, 1, 0x83, 0, 250, 0], 80) as number[])
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('')
    expect(hex).toContain('01030008' + '5000c50012345678')
    expect(hex).toContain('01130008' + '5000c50012345679')
    expect((send(3, 0, [0x12, 1, 0xb1, 0, 64, 0], 64) as number[]).slice(4, 6)).toEqual([7200 >> 8, 7200 & 0xff])
  })

  test('a 53C810 has a narrow bus, which its targets say', () => {
    const { device, send } = machine({ disk: disk(), chip: 'lsi53c810' })
    expect(device.config.read(2, 2)).toBe(1)
    expect((send(0, 0, INQUIRY, 96) as number[])[7]).toBe(0x12)
  })
})

describe('media', () => {
  test('a CD-ROM drive, with and without a disc, that is changed', async () => {
    const { controller, send } = machine({ media: 'cdrom', scsiId: 2 })
    const tray = controller.drives[0]!.tray!()!
    const inquiry = send(2, 0, INQUIRY, 96) as number[]
    expect([inquiry[0], inquiry[1]]).toEqual([5, 0x80])
    expect(text(inquiry, 16, 32)).toBe('CD-ROM          ')
    send(2, 0, [0, 0, 0, 0, 0, 0], 0)
    send(2, 0, [3, 0, 0, 0, 18, 0], 18)
    expect(send(2, 0, [0, 0, 0, 0, 0, 0], 0)).toBe(2)
    expect((send(2, 0, [3, 0, 0, 0, 18, 0], 18) as number[])[12]).toBe(0x3a)
    const disc = disk(1 << 20)
    tray.insert(disc)
    expect(send(2, 0, [0, 0, 0, 0, 0, 0], 0)).toBe(2)
    expect((send(2, 0, [3, 0, 0, 0, 18, 0], 18) as number[])[12]).toBe(0x28)
    expect((send(2, 0, [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8) as number[]).slice(2)).toEqual([1, 0xff, 0, 0, 8, 0])
    expect(await tray.eject()).toBe(disc)
    expect(send(2, 0, [0, 0, 0, 0, 0, 0], 0)).toBe(2)
  })

  test('a removable disk has a tray, a fixed one has none', async () => {
    const { controller } = machine({ disk: disk(), removable: true }, { disk: disk() })
    expect(await controller.drives[0]!.tray!()!.eject()).toBeInstanceOf(Disk)
    expect(controller.drives[1]!.tray!()).toBeUndefined()
  })
})
