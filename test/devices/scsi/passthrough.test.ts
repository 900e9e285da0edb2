/** The shared target behind virtio-blk's legacy request VIRTIO_BLK_T_SCSI_CMD (virtio 1.2, 5.2.6.3). */
import { expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { passthrough } from '../../../src/devices/scsi/index.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { Driver, F, OK, T } from '../virtio/driver.ts'
import { hex } from './initiator.ts'

const NOTHING = bytesVec(new Uint8Array(0))

function machine() {
  const faulty = new Faulty(asDevice(new Memory(1 << 20)))
  const disk = new Disk(asDevice(faulty), { serial: 'PASS' })
  return { faulty, disk, send: passthrough(disk) }
}

test('commands run on the disk at once, with exact residuals and with sense data', async () => {
  const { send, faulty } = machine()
  const data = new Uint8Array(64)
  expect(send({ cdb: hex('12 00 00 00 40 00'), dataIn: bytesVec(data), dataOut: NOTHING })).toMatchObject({
    status: 0,
    residual: 0,
  })
  expect(String.fromCharCode(...data.subarray(8, 15))).toBe('BLOCK86')
  expect(send({ cdb: hex('25 00 00 00 00 00 00 00 00 00'), dataIn: bytesVec(data), dataOut: NOTHING })).toMatchObject({
    residual: 56,
  })
  const block = new Uint8Array(512).fill(7)
  const write = hex('2a 00 00 00 00 05 00 00 01 00')
  expect(send({ cdb: write, dataIn: NOTHING, dataOut: bytesVec(block) })).toMatchObject({ status: 0, residual: 0 })
  expect(send({ cdb: hex('ff 00 00 00 00 00'), dataIn: NOTHING, dataOut: NOTHING })).toMatchObject({ status: 2 })
  faulty.later()
  faulty.fail('read', 'EIO', 9)
  const { status, sense, residual } = await send({
    cdb: hex('28 00 00 00 00 05 00 00 01 00'),
    dataIn: bytesVec(block),
    dataOut: NOTHING,
  })
  expect([status, sense[2], sense[12], residual]).toEqual([2, 3, 0x11, 512])
})

test('through virtio-blk', () => {
  const { send } = machine()
  const driver = new Driver({ face: 'legacy', device: { scsi: send } })
  expect(driver.features.has(F.SCSI)).toBe(true)
  const request = driver.build(T.SCSI_CMD, 0, { output: hex('12 01 80 00 40 00'), input: 64 })
  const sense = driver.alloc(96)
  const tail = driver.alloc(16)
  request.elements.splice(3, 0, { at: sense, length: 96, write: true }, { at: tail, length: 16, write: true })
  expect(driver.send(request)).toMatchObject({ status: OK })
  expect(request.data.slice(0, 8)).toEqual(Uint8Array.of(0, 0x80, 0, 4, 0x50, 0x41, 0x53, 0x53))
  const fields = new DataView(driver.bytes(tail, 16).buffer)
  expect([0, 4, 8, 12].map((at) => fields.getUint32(at, true))).toEqual([0, 64, 0, 56])
})
