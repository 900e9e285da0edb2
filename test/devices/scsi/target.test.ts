/** The path of a command through the target: task router, data phases, status. */
import { expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { DiskUnit, execute, ScsiTarget } from '../../../src/devices/scsi/index.ts'

function target() {
  const disk = new Disk(asDevice(Memory.from(Uint8Array.from({ length: 65536 }, (_, i) => i >> 9))))
  return new ScsiTarget().attach(0, new DiskUnit(disk))
}

function command(...cdb: number[]) {
  return { initiator: 7, lun: 0, cdb: Uint8Array.from(cdb), attribute: 'simple', tag: 1, autosense: true } as const
}

test('SBC-3 5.11: READ(10) answers at once where the medium does', () => {
  const scsi = target()
  execute(scsi.submit(command(0, 0, 0, 0, 0, 0)), {})
  const into = new Uint8Array(1024)
  const task = execute(scsi.submit(command(0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0)), { in: bytesVec(into) })
  expect(task).toMatchObject({ phase: 'status', status: 0, transferred: 1024 })
  expect(into[0]).toBe(5)
  expect(into[1023]).toBe(6)
})
